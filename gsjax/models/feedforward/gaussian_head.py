"""DepthSplat's (arXiv 2410.13862) last part: features at full resolution, and raw channels of Gaussians.

March 2025: features from a DPT decoder, mixed by two convolutions. October 2024, on which PM-Loss builds:
features by repeated upsampling and convolution, mixed by a U-Net with attention across views.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models.feedforward import regression, unet


class ResizeConv(nn.Module):
    """Maps of several scales to features of the pictures' size, channels shared evenly among the scales.

    A 1x1 convolution, then as often as needed: every cell repeated 2 x 2, a convolution with repeated
    borders, and GELU but for the last.

    Attributes:
        channels: of the result.
        dtype: of computation.
    """

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], height: int) -> jax.Array:
        """Features.

        Args:
            maps: of each scale [N, h, w, C], coarse to fine, sides smaller than the pictures' by a power
                of 2.
            height: of the pictures.

        Returns:
            [N, H, W, channels].

        Raises:
            ValueError: the scales do not divide the channels.
        """
        if self.channels % len(maps):
            raise ValueError(
                f"channels: {self.channels} are not divided by {len(maps)} scales; choose a multiple"
            )
        out = self.channels // len(maps)
        parts = []
        for i, x in enumerate(maps):
            steps = (height // x.shape[1]).bit_length() - 1
            width = out * 2 * max(steps - 1, 1)
            x = unet.conv(width, 1, self.dtype, f"scale_{i}_in")(x.astype(self.dtype))
            for step in range(steps):
                width = width // 2 if step < steps - 1 else out
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = regression.replicate_conv(width, self.dtype, f"scale_{i}_conv_{step}")(x)
                x = nn.gelu(x, approximate=False) if step < steps - 1 else x
            parts.append(x)
        return jnp.concatenate(parts, -1)


class Regressor(nn.Module):
    """Mixes picture, depth, match probability and features.

    Attributes:
        width: channels of the result.
        config: of the U-Net of October 2024; None for the two convolutions of March 2025.
        dtype: of computation.
    """

    width: int
    config: unet.Config | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, num_views: int) -> jax.Array:
        """[B V, H, W, C] to [B V, H, W, width]."""
        x = unet.conv(self.width, 3, self.dtype, "conv_0")(x)
        if self.config is None:
            x = nn.gelu(x, approximate=False)
            return unet.conv(self.width, 3, self.dtype, "conv_1")(x)
        x = nn.GroupNorm(8, epsilon=unet.EPS, dtype=self.dtype, name="norm")(x)
        x = nn.gelu(x, approximate=False)
        x = unet.UNet(self.config, self.dtype, name="unet")(x, num_views)
        return unet.conv(self.width, 3, self.dtype, "conv_1")(x)


class RawGaussians(nn.Module):
    """Two convolutions with repeated borders to opacity 1, offset 2, scales 3, quaternion 4, colours.

    Scales and colours start as constants: their rows of the last kernel and bias are zero.

    Attributes:
        channels: of the result, 10 + 3 (degree + 1)^2.
        hidden: channels between.
        start_offset: of the horizontal offset's bias. The released code of October 2024 sets 0.5 there,
            meant for a channel that its configurations do not have.
        dtype: of computation.
    """

    channels: int
    hidden: int
    start_offset: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H, W, channels]."""
        free = [0, 1, 2, 6, 7, 8, 9]
        free_mask = jnp.zeros((self.channels,)).at[jnp.asarray(free)].set(1.0)
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

        def kernel_init(*args):
            return uniform(*args) * free_mask

        def bias_init(key, shape, dtype=jnp.float32):
            del key
            return jnp.zeros(shape, dtype).at[1].set(self.start_offset)

        x = regression.replicate_conv(self.hidden, self.dtype, "conv_0")(x)
        x = jnp.pad(nn.gelu(x, approximate=False), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        return nn.Conv(
            self.channels,
            (3, 3),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            name="conv_1",
        )(x)
