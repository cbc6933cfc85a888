"""Nearest neighbours among features of any width, for graphs that follow what a network has learned.

``points.knn`` is for positions: exact differences, blocks of queries. Here distances are matrix products,
[B, N, N] at once, and which rows are neighbours carries no gradient.
"""

import jax
import jax.numpy as jnp


def neighbours(x: jax.Array, k: int, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The k nearest rows of each row, itself among them; ties go to the lowest index.

    Args:
        x: [B, N, C].
        k: neighbours.
        mask: bool [B, N], True for valid rows.

    Returns:
        idx int32 [B, N, k] and bool [B, N, k], whether it is one: False in the surplus slots of clouds of
        fewer than k valid rows (which hold a valid row's index, safe to gather) and for masked rows.

    Raises:
        ValueError: k < 1, or shapes that do not fit.
    """
    if x.ndim != 3 or mask.shape != x.shape[:2]:
        raise ValueError(
            f"x, mask: expected [B, N, C] and [B, N], found {list(x.shape)} and {list(mask.shape)}"
        )
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    # The origin in the middle: less is lost in the differences of squares.
    count = jnp.maximum(jnp.sum(mask, -1), 1)[:, None, None]
    x = jnp.where(mask[..., None], x, 0.0)
    x = jnp.where(mask[..., None], x - jnp.sum(x, 1, keepdims=True) / count, 0.0)
    squares = jnp.sum(jnp.square(x), -1)
    products = jnp.einsum("bnc,bmc->bnm", x, x, precision="highest")
    distance = squares[:, :, None] + squares[:, None] - 2 * products
    rows = jnp.arange(x.shape[1])
    distance = jnp.where(
        rows[:, None] == rows, -1.0, distance
    )  # its own nearest, whatever rounding
    distance = jnp.where(mask[:, None], distance, jnp.inf)
    some = min(k, x.shape[1])
    least, idx = jax.lax.top_k(-distance, some)
    found = jnp.isfinite(least) & mask[..., None]
    pad = [(0, 0), (0, 0), (0, k - some)]
    idx, found = jnp.pad(idx, pad), jnp.pad(found, pad)
    idx = jnp.where(found, idx, idx[..., :1])
    return idx.astype(jnp.int32), found
