"""From logits over depth candidates to depths: expectation, match probability, refinement, clamps.

Everything here is float32 at least. "Inverse" is short for inverse depth, in which candidates are even and
in which everything is averaged, upsampled and corrected.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import resize
from gsjax.models.feedforward import unet


def expectation(logits: jax.Array, inverse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Expected inverse depth under the softmax of the logits, and the largest probability.

    Args:
        logits: [B, V, H, W, D].
        inverse: candidates [B, V, D] or [B, V, D, H, W].

    Returns:
        (inverse depths [B, V, H, W], match probabilities [B, V, H, W]).
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    if inverse.ndim == 3:
        inverse = inverse[:, :, None, None]
    else:
        inverse = jnp.moveaxis(inverse, 2, -1)
    # A product and a sum, not a contraction, which accelerators would round.
    return jnp.sum(probabilities * inverse, -1), jnp.max(probabilities, -1)


def upsample(inverse: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Inverse depths [B, V, h, w] to [B, V, H, W], bilinear with fixed corners."""
    return resize.resize(inverse[..., None], size, "corners")[..., 0]


def clamp(inverse: jax.Array, near: jax.Array, far: jax.Array) -> jax.Array:
    """Inverse depths [B, V, H, W] within [1 / far, 1 / near]; bounds are [B] or [B, V].

    The gradient is zero beyond the bounds.
    """
    near, far = (jnp.asarray(x)[:, None] if jnp.ndim(x) == 1 else x for x in (near, far))
    return jnp.clip(inverse, (1 / far)[..., None, None], (1 / near)[..., None, None])


def refine(
    inverse: jax.Array, delta: jax.Array, near: jax.Array, far: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The estimate at full resolution: upsampled, corrected, clamped.

    Args:
        inverse: [B, V, h, w].
        delta: [B, V, H, W], what a head adds.
        near: [B] or [B, V].
        far: [B] or [B, V].

    Returns:
        (inverse depths [B, V, H, W], depths [B, V, H, W]).
    """
    size = delta.shape[-2:]
    fine = clamp(upsample(inverse, size) + delta.astype(inverse.dtype), near, far)
    return fine, 1 / fine


def replicate_conv(width: int, dtype, name: str, zero: bool = False) -> Callable:
    """A 3x3 convolution whose border repeats: [N, H, W, C] to [N, H, W, width]."""
    layer = nn.Conv(
        width,
        (3, 3),
        padding="VALID",
        dtype=dtype,
        kernel_init=nn.initializers.zeros
        if zero
        else nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        name=name,
    )
    return lambda x: layer(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"))


class CandidateLogits(nn.Module):
    """A U-Net over cost volume and features, and a head with one logit a candidate.

    Attributes:
        candidates: D.
        config: of the U-Net.
        channels: of what the U-Net's output is projected to; MVSplat has D, DepthSplat the U-Net's width.
        replicate: whether borders repeat in the head's convolutions (DepthSplat), or are zeros.
        hidden: channels of the head's middle.
        groups: of the norm in front of the U-Net.
        dtype: of computation.
    """

    candidates: int
    config: unet.Config
    channels: int
    replicate: bool
    hidden: int
    groups: int = 8
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, V, H, W, C] to logits [B, V, H, W, candidates], float32 at least."""
        batch, views, *size, channels = x.shape
        x = x.astype(self.dtype).reshape(batch * views, *size, channels)
        y = unet.conv(self.config.width, 3, self.dtype, "conv_in")(x)
        y = nn.GroupNorm(self.groups, epsilon=unet.EPS, dtype=self.dtype, name="norm_in")(y)
        y = nn.gelu(y, approximate=False)
        y = unet.UNet(self.config, self.dtype, name="unet")(y, views)
        y = unet.conv(self.channels, 3, self.dtype, "conv_out")(y)
        y = y + unet.conv(self.channels, 1, self.dtype, "residual")(x)
        layers = [(self.hidden, "head_0"), (self.candidates, "head_1")]
        for i, (width, name) in enumerate(layers):
            y = nn.gelu(y, approximate=False) if i else y
            if self.replicate:
                y = replicate_conv(width, self.dtype, name)(y)
            else:
                y = unet.conv(width, 3, self.dtype, name)(y)
        y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        return y.reshape(batch, views, *size, self.candidates)
