"""The U-Net of latent diffusion (arXiv 2112.10752) without time steps, whose attention runs over the cells
of all views together: MVSplat and DepthSplat smooth cost volumes with it.

Two orders of norm and convolution: pre-norm (DepthSplat), whose residual branches end in a convolution
that starts at zero, and post-norm (MVSplat), where they end in a norm that does.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import linear

# torch's default; Flax has 1e-6.
EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        width: channels that multipliers refer to, and of the result.
        multipliers: of each level, the finest first; each further level halves the sides.
        attention: shrinking factors at which blocks are followed by attention: 4 is the third level.
        head: channels of an attention head.
        post_norm: convolution before norm.
    """

    width: int
    multipliers: tuple[int, ...] = (1, 1, 1)
    attention: tuple[int, ...] = ()
    head: int = 32
    post_norm: bool = False

    def __post_init__(self):
        if self.width < 1 or not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(
                f"unet.Config: needs a width and multipliers from 1 on, found {self.width} and "
                f"{self.multipliers}"
            )
        for level, factor in enumerate(self.multipliers):
            width = self.width * factor
            if width % self.groups(width):
                raise ValueError(
                    f"unet.Config: {self.groups(width)} groups do not divide {width} channels"
                )
            if 2**level in self.attention and width % self.head:
                raise ValueError(
                    f"unet.Config: head={self.head} does not divide the {width} channels of level {level}"
                )

    @staticmethod
    def groups(width: int) -> int:
        """Of a norm over ``width`` channels."""
        return 4 if width % 8 else 8

    @property
    def stride(self) -> int:
        """What both sides of a map must be multiples of."""
        return 2 ** (len(self.multipliers) - 1)


def conv(width: int, size: int, dtype, name: str, stride: int = 1, zero: bool = False) -> nn.Conv:
    """A convolution with the same padding on both sides, as torch has it; PyTorch's default start."""
    # kaiming_uniform(a=sqrt(5)) of torch is uniform within +-1/sqrt(fan_in).
    init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nn.Conv(
        width,
        (size, size),
        (stride, stride),
        padding=size // 2,
        dtype=dtype,
        kernel_init=nn.initializers.zeros if zero else init,
        name=name,
    )


def norm(width: int, dtype, name: str, zero: bool = False) -> nn.GroupNorm:
    """GroupNorm of 8 groups (4 where 8 does not divide the channels); statistics in float32."""
    scale = nn.initializers.zeros if zero else nn.initializers.ones
    return nn.GroupNorm(Config.groups(width), epsilon=EPS, dtype=dtype, scale_init=scale, name=name)


class ResidualBlock(nn.Module):
    """x plus two convolutions with norms and SiLUs; a 1x1 convolution of x where widths differ."""

    width: int
    post_norm: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H, W, width]."""
        y, width, channels = x, self.width, x.shape[-1]
        if self.post_norm:
            y = conv(width, 3, self.dtype, "conv_0")(y)
            y = nn.silu(norm(width, self.dtype, "norm_0")(y))
            y = conv(width, 3, self.dtype, "conv_1")(y)
            y = nn.silu(norm(width, self.dtype, "norm_1", zero=True)(y))
        else:
            y = nn.silu(norm(channels, self.dtype, "norm_0")(y))
            y = conv(width, 3, self.dtype, "conv_0")(y)
            y = nn.silu(norm(width, self.dtype, "norm_1")(y))
            y = conv(width, 3, self.dtype, "conv_1", zero=True)(y)
        if channels != width:
            x = conv(width, 1, self.dtype, "shortcut")(x)
        return x + y


class Attention(nn.Module):
    """x plus attention of every cell to every cell of every view; there are no positions.

    Attributes:
        head: channels of a head.
        post_norm: norm behind the projection, instead of in front.
        dtype: of computation; softmax is float32.
    """

    head: int
    post_norm: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, num_views: int) -> jax.Array:
        """[B V, H, W, C], unchanged in shape.

        Queries, keys and values of one head lie together in the 3 C channels of their projection, as in
        the published weights.
        """
        channels, heads = x.shape[-1], x.shape[-1] // self.head
        y = x if self.post_norm else norm(channels, self.dtype, "norm")(x)
        qkv = linear.Dense(3 * channels, dtype=self.dtype, name="qkv")(y)
        tokens = num_views * x.shape[1] * x.shape[2]
        q, k, v = jnp.moveaxis(qkv.reshape(-1, tokens, heads, 3, self.head), 3, 0)
        exact = jnp.promote_types(self.dtype, jnp.float32)
        logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=exact)
        shares = jax.nn.softmax(logits * self.head**-0.5, axis=-1).astype(self.dtype)
        y = jnp.einsum("bhqk,bkhc->bqhc", shares, v).reshape(x.shape)
        zero = not self.post_norm
        init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
        y = linear.Dense(channels, dtype=self.dtype, kernel_init=init, name="out")(y)
        if self.post_norm:
            y = norm(channels, self.dtype, "norm", zero=True)(y)
        return x + y


class UNet(nn.Module):
    """Levels down and up again, with what every block gave on the way down concatenated on the way up.

    Attributes:
        config: sizes; one residual block a level down, two up, two in the middle.
        dtype: of computation.
    """

    config: Config
    dtype: jnp.dtype = jnp.float32

    def _block(self, x: jax.Array, level: int, num_views: int, name: str) -> jax.Array:
        c = self.config
        width = c.width * c.multipliers[level]
        x = ResidualBlock(width, c.post_norm, self.dtype, name=name)(x)
        if 2**level in c.attention:
            attention = nn.remat(Attention, static_argnums=(2,))
            x = attention(c.head, c.post_norm, self.dtype, name=f"{name}_attention")(x, num_views)
        return x

    @nn.compact
    def __call__(self, x: jax.Array, num_views: int) -> jax.Array:
        """Maps of equal size.

        Args:
            x: [B V, H, W, C]; views of one example lie together.
            num_views: V.

        Returns:
            [B V, H, W, width].

        Raises:
            ValueError: sides that are no multiples of the stride.
        """
        c = self.config
        if x.shape[1] % c.stride or x.shape[2] % c.stride:
            raise ValueError(
                f"x: sides {x.shape[1]} x {x.shape[2]} are no multiples of {c.stride}, which a U-Net of "
                f"{len(c.multipliers)} levels needs; pad or crop the pictures"
            )
        levels = len(c.multipliers)
        x = conv(c.width, 3, self.dtype, "conv_in")(x.astype(self.dtype))
        kept = [x]
        for level in range(levels):
            x = self._block(x, level, num_views, f"down_{level}")
            kept.append(x)
            if level < levels - 1:
                x = conv(x.shape[-1], 3, self.dtype, f"down_{level}_conv", stride=2)(x)
                kept.append(x)
        for i in range(2):
            x = ResidualBlock(x.shape[-1], c.post_norm, self.dtype, name=f"middle_{i}")(x)
        for level in reversed(range(levels)):
            for i in range(2):
                x = jnp.concatenate((x, kept.pop()), -1)
                x = self._block(x, level, num_views, f"up_{level}_{i}")
            if level:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = conv(x.shape[-1], 3, self.dtype, f"up_{level}_conv")(x)
        if c.post_norm:
            x = conv(c.width, 3, self.dtype, "conv_out")(x)
            return nn.silu(norm(c.width, self.dtype, "norm_out")(x))
        x = nn.silu(norm(x.shape[-1], self.dtype, "norm_out")(x))
        return conv(c.width, 3, self.dtype, "conv_out", zero=True)(x)
