"""Batch normalisation over the valid entries of padded batches.

With a batch that is sharded under jit, sums run over all devices: the statistics are the global
batch's.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class MaskedBatchNorm(nn.Module):
    """``flax.linen.BatchNorm`` whose statistics leave masked entries out; same variable names.

    Attributes:
        momentum: of the running statistics (flax: 0.9 is torch's 0.1).
        epsilon: added to the variance.
        dtype: of the result; statistics are float32.
        use_scale, use_bias: whether scale and bias are learned.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    use_scale: bool = True
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        """Normalises over all axes but the last.

        Args:
            x: [..., C].
            mask: bool, like ``x`` without its last axis or broadcastable to that; None = all valid.
            train: whether the statistics are the batch's (which then move the running ones).

        Returns:
            [..., C]; 0 at masked entries.
        """
        width = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (width,)) if self.use_scale else 1.0
        bias = self.param("bias", nn.initializers.zeros, (width,)) if self.use_bias else 0.0
        wide = jnp.promote_types(x.dtype, jnp.float32)
        valid = None if mask is None else jnp.broadcast_to(mask, x.shape[:-1])[..., None]
        x = x.astype(wide) if valid is None else jnp.where(valid, x.astype(wide), 0.0)
        if train:
            m, v = _moments(x, valid)
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * m.astype(
                    jnp.float32
                )
                var.value = self.momentum * var.value + (1 - self.momentum) * v.astype(jnp.float32)
        else:
            m, v = mean.value, var.value
        y = (x - m) * (jax.lax.rsqrt(v + self.epsilon) * scale) + bias
        return (y if valid is None else jnp.where(valid, y, 0.0)).astype(self.dtype)


def _moments(x: jax.Array, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Mean and (biased) variance [C] of the valid rows; of an empty batch 0 and 1.

    Two passes: E[x^2] - E[x]^2 cancels in float32.
    """
    axes = tuple(range(x.ndim - 1))
    if valid is None:
        m = jnp.mean(x, axes)
        return m, jnp.mean(jnp.square(x - m), axes)
    count = jnp.sum(valid.astype(x.dtype))
    some = jnp.maximum(count, 1.0)
    m = jnp.sum(x, axes) / some
    v = jnp.sum(jnp.where(valid, jnp.square(x - m), 0.0), axes) / some
    return m, jnp.where(count > 0, v, 1.0)
