"""Means over the real examples of a padded batch."""

import jax
import jax.numpy as jnp


def mean_of_valid(x: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean [] of the values x [B, ...] of valid examples; 0 if there are none."""
    each = jnp.mean(x.reshape(x.shape[0], -1), -1)
    total = jnp.sum(jnp.where(valid, each, 0.0))
    return total / jnp.maximum(jnp.sum(valid.astype(each.dtype)), 1.0)
