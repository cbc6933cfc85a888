"""The residual CNN of GMFlow and UniMatch (arXiv 2211.05783) that MVSplat and DepthSplat share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

WIDTHS = (64, 96, 128)
# torch's default; Flax has 1e-6.
EPS = 1e-5


def stage_strides(lowest: int, last_stride: int = 2) -> tuple[int, int, int]:
    """Strides of the three stages, behind a stem of stride 2; arguments as of ``Cnn``.

    Raises:
        ValueError: a combination that no published network has.
    """
    if (lowest, last_stride) not in ((4, 2), (4, 1), (8, 2)):
        raise ValueError(
            f"lowest, last_stride: expected (4, 2), (4, 1) or (8, 2), found {(lowest, last_stride)}"
        )
    return 1, lowest // (2 * last_stride), last_stride


def instance_norm(x: jax.Array) -> jax.Array:
    """Each channel of each map [..., H, W, C] with mean 0 and variance 1; float32 inside, no parameters."""
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(y, (-3, -2), keepdims=True)
    variance = jnp.mean(jnp.square(y - mean), (-3, -2), keepdims=True)
    return ((y - mean) * jax.lax.rsqrt(variance + EPS)).astype(x.dtype)


def _conv(width: int, size: int, stride: int, dtype, name: str, use_bias: bool = False) -> nn.Conv:
    return nn.Conv(
        width,
        (size, size),
        (stride, stride),
        padding=size // 2,  # both sides alike: "SAME" is not with a stride
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=name,
    )


class ResidualBlock(nn.Module):
    """``relu(shortcut(x) + relu(norm(conv(relu(norm(conv(x)))))))``; the last relu before the sum too.

    Attributes:
        width: channels of the result.
        stride: of the first convolution.
        dtype: of computation.
    """

    width: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H / stride, W / stride, width]."""
        y = nn.relu(instance_norm(_conv(self.width, 3, self.stride, self.dtype, "conv_0")(x)))
        y = nn.relu(instance_norm(_conv(self.width, 3, 1, self.dtype, "conv_1")(y)))
        if self.stride != 1 or x.shape[-1] != self.width:
            # This bias is without effect, the norm takes it away; published weights have it.
            shortcut = _conv(self.width, 1, self.stride, self.dtype, "shortcut", use_bias=True)
            x = instance_norm(shortcut(x))
        return nn.relu(x + y)


class Cnn(nn.Module):
    """Pictures to feature maps of three scales.

    Attributes:
        lowest: cells of the picture a cell of the coarsest map has along a side, 4 or 8.
        widths: channels of the three stages.
        channels: of the coarsest map.
        last_stride: of the third stage: 2 in DepthSplat; 1 in MVSplat, whose second stage has 2 (its
            names and shapes of parameters are the same).
        dtype: of computation.
    """

    lowest: int = 4
    widths: tuple[int, int, int] = WIDTHS
    channels: int = 128
    last_stride: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Feature maps, the finest first.

        Args:
            images: [N, H, W, 3], normalised; sides are multiples of ``lowest``.

        Returns:
            Maps of 1/2, 1/2 and 1/4 of the sides (lowest = 4), of 1/2, 1/4 and 1/4 (last_stride = 1), or
            of 1/2, 1/4 and 1/8 (lowest = 8).

        Raises:
            ValueError: another (lowest, last_stride) than these.
        """
        strides = stage_strides(self.lowest, self.last_stride)
        x = _conv(self.widths[0], 7, 2, self.dtype, "stem")(images.astype(self.dtype))
        x = nn.relu(instance_norm(x))
        maps = []
        for i, (width, stride) in enumerate(zip(self.widths, strides)):
            x = ResidualBlock(width, stride, self.dtype, name=f"stage_{i}_block_0")(x)
            x = ResidualBlock(width, 1, self.dtype, name=f"stage_{i}_block_1")(x)
            maps.append(x)
        last = nn.Conv(
            self.channels,
            (1, 1),
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name="out",
        )(x)
        return maps[0], maps[1], last
