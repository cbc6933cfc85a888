"""NT-Xent: two views of an object find each other among all views of a batch (SimCLR, arXiv 2002.05709, Eq. 1)."""

import jax
import jax.numpy as jnp

from gsjax.losses import contrastive


def nt_xent(
    a: jax.Array,
    b: jax.Array,
    temperature: float,
    *,
    valid: jax.Array | None = None,
    ids: jax.Array | None = None,
    sharding: str = "none",
) -> jax.Array:
    """Mean of the cross-entropies of ``a_i`` and of ``b_i``, not averaged over the batch.

    A view x_i with partner y_i costs ``-log exp(x_i . y_i / t) / (sum of exp(x_i . z / t))``, where z is the
    partner and both views of every other object. The views may be of different kinds, a picture and Gaussians.

    Args:
        a, b: [B, D] unit vectors.
        temperature: t > 0.
        valid: [B] bool; False removes both views from every sum.
        ids: [B] integers; objects with equal ids are not negatives of each other.
        sharding: of the sums; see :func:`contrastive.pair_log_probs`.

    Returns:
        [B]; entries of invalid objects are finite and mean nothing.

    Raises:
        ValueError: shapes that do not agree, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, found {temperature}")
    if a.shape != b.shape:
        raise ValueError(f"a, b: expected one shape, found {list(a.shape)}, {list(b.shape)}")
    count = len(a)
    ids = jnp.arange(count) if ids is None else ids
    valid = jnp.ones(count, bool) if valid is None else valid
    twice = lambda x, y: jnp.concatenate([x, y])  # noqa: E731
    row, _ = contrastive.pair_log_probs(
        twice(a, b),
        twice(b, a)[:, None],
        1.0 / temperature,
        valid_a=twice(valid, valid),
        valid_b=twice(valid, valid)[:, None],
        ids=twice(ids, ids),  # a view and itself are of one object: no negatives
        sharding=sharding,
    )
    return -row[:, 0].reshape(2, count).mean(0)
