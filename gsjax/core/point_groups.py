"""Coarser and finer versions of a cloud: centres among its points, and values carried back to points.

Built on the queries of ``core.points``; what is learned on groups is in ``models.point_layers``.
"""

import jax
import jax.numpy as jnp

from gsjax.core import points as point_sets

# Added to squared distances; Qi et al. 2017 (PointNet++) bound them below by 1e-10 instead.
_EPSILON = 1e-8


def sample_centers(
    points: jax.Array, k: int, *, mask: jax.Array | None = None, start: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Farthest points, no point twice: surplus slots are marked invalid.

    Args:
        points: [B, N, 3].
        k: slots of each cloud.
        mask: bool [B, N], True for valid points.
        start: [B] in [0, 1), which of the valid points is the first one; None = the first of all.

    Returns:
        idx int32 [B, k], safe to gather, and valid bool [B, k]: min(k, valid points) of them.

    Raises:
        ValueError: other shapes.
    """
    points = jnp.asarray(points)
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f"points: expected shape [B, N, 3], found {list(points.shape)}")
    usable = jnp.all(jnp.isfinite(points), -1)
    usable = usable if mask is None else usable & mask
    count = jnp.sum(usable, -1, dtype=jnp.int32)
    valid = jnp.arange(k) < count[:, None]
    if start is None:
        return point_sets.farthest_point_sampling(points, k, mask=usable), valid
    if start.shape != points.shape[:1]:
        raise ValueError(f"start: expected shape {[points.shape[0]]}, found {list(start.shape)}")
    # The cloud is rolled until the chosen point comes first; so far only valid ones are counted,
    # and the draw means the same point however much padding there is.
    rank = jnp.minimum((start * count).astype(jnp.int32), count - 1)
    first = jnp.argmax(jnp.cumsum(usable, -1, dtype=jnp.int32) > rank[:, None], -1)
    num = points.shape[1]
    rolled = (jnp.arange(num) + first[:, None]) % num
    chosen = point_sets.farthest_point_sampling(
        jnp.take_along_axis(points, rolled[..., None], 1),
        k,
        mask=jnp.take_along_axis(usable, rolled, 1),
    )
    return ((chosen + first[:, None]) % num).astype(jnp.int32), valid


def interpolate(
    queries: jax.Array,
    points: jax.Array,
    values: jax.Array,
    *,
    mask: jax.Array | None = None,
    k: int = 3,
) -> jax.Array:
    """Values at other places: mean of the k nearest points', weighted by 1 / (d^2 + 1e-8).

    PointNet++ (arXiv 1706.02413, Eq. 2 with p = 2, k = 3). Its own code and the most used PyTorch
    version have squared distances here; CUDA ports of it often have plain ones.

    Args:
        queries: [B, Q, 3].
        points: [B, N, 3].
        values: [B, N, C] at ``points``.
        mask: bool [B, N], True for valid points.
        k: neighbours; where a cloud has fewer valid points, all of them count.

    Returns:
        [B, Q, C] of the type of ``values``, computed in float32 at least; 0 where a cloud has no
        valid point.

    Raises:
        ValueError: other shapes.
    """
    if values.shape[:-1] != points.shape[:-1]:
        raise ValueError(
            f"values: expected shape {[*points.shape[:-1], 'C']}, found {list(values.shape)}"
        )
    idx, squared = point_sets.knn(queries, points, k, mask=mask)
    found = jnp.isfinite(squared)
    weights = jnp.where(found, 1 / (jnp.where(found, squared, 1.0) + _EPSILON), 0.0)
    total = jnp.sum(weights, -1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1.0)
    if mask is not None:
        values = jnp.where(mask[..., None], values, 0.0)
    near = point_sets.gather(values, idx)
    return jnp.sum(near * weights[..., None], -2).astype(values.dtype)
