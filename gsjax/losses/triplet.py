"""Triplet margin loss on Euclidean distances (Schroff et al., arXiv 1503.03832, Eq. 2, without squares)."""

import jax
import jax.numpy as jnp

EPS = 1e-6  # torch's, added to every component inside the norm


def distance(a: jax.Array, b: jax.Array, eps: float = EPS) -> jax.Array:
    """``|| a - b + eps ||``, whose gradient is finite where a and b are equal.

    Args:
        a, b: [..., D].
        eps: added to every component.

    Returns:
        [...].
    """
    squared = jnp.sum(jnp.square(a - b + eps), -1)
    some = squared > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, squared, 1.0)), 0.0)


def triplet_margin(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    margin: float = 1.0,
    eps: float = EPS,
) -> jax.Array:
    """``max(0, d(anchor, positive) - d(anchor, negative) + margin)``, not averaged.

    Args:
        anchor, positive, negative: [..., D], of any length: nothing is normalised.
        margin: how much farther negatives must be.
        eps: see :func:`distance`.

    Returns:
        [...].

    Raises:
        ValueError: shapes differ.
    """
    if not anchor.shape == positive.shape == negative.shape:
        raise ValueError(
            f"anchor, positive, negative: expected one shape, found {list(anchor.shape)}, "
            f"{list(positive.shape)}, {list(negative.shape)}"
        )
    near, far = distance(anchor, positive, eps), distance(anchor, negative, eps)
    return jnp.maximum(near - far + margin, 0.0)
