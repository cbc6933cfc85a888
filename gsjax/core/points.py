"""Point-set queries: farthest point sampling, nearest neighbours, ball query.

All are exact, batched over leading axes and aware of masks. Squared distances are sums of squared
coordinate differences, never |a|^2 + |b|^2 - 2ab: that form cancels on tight clusters and would run
in TF32 or bfloat16 on accelerators, and either picks wrong neighbours. Index outputs carry no
gradient. The one nearest among very many points is ``core.nearest``'s.
"""

import functools

import jax
import jax.numpy as jnp

# Distances one step of a blocked search may hold: 64 MiB in float32.
_BLOCK_ELEMENTS = 1 << 24
# Points with squared norm up to this are skipped by the CUDA sampler of PointNet++ (Pointnet2_PyTorch).
_NEAR_ORIGIN = 1e-3


def check_points(x: jax.Array, name: str):
    """Raises ValueError, with the argument's name, unless x is [..., N, 3] with N >= 1."""
    if x.ndim < 2 or x.shape[-1] != 3:
        raise ValueError(f"{name}: expected shape [..., N, 3], found {list(x.shape)}")
    if x.shape[-2] == 0:
        raise ValueError(f"{name}: expected at least one point, found shape {list(x.shape)}")


def _check_count(k: int):
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")


def _usable(points: jax.Array, mask: jax.Array | None) -> jax.Array:
    """bool [..., N]: valid by the mask and finite."""
    finite = jnp.all(jnp.isfinite(points), axis=-1)
    if mask is None:
        return finite
    if mask.shape[-1] != points.shape[-2]:
        raise ValueError(
            f"mask: expected shape [..., {points.shape[-2]}], found {list(mask.shape)}"
        )
    return finite & mask


def farthest_point_sampling(
    points: jax.Array, k: int, *, mask: jax.Array | None = None, skip_near_origin: bool = False
) -> jax.Array:
    """Greedy farthest point sampling: each next point is the farthest from those chosen.

    Starts at the first valid point. Ties go to the lowest index. The sequence is nested: its first
    j entries are the answer for k = j. Points are chosen without repetition (exact duplicates come
    last) until every valid one is used; only when k exceeds their number does the first valid point
    repeat. Masked points are never chosen; with no valid point at all every index is 0.

    Args:
      points: [..., N, 3]. Non-finite points count as masked.
      k: how many to choose; k = N gives a permutation of unmasked points.
      mask: bool [..., N], True for valid points.
      skip_near_origin: also never choose points with squared norm <= 1e-3 (except as the start),
        as the CUDA sampler that PointNet++ and Uni3D use does. Needed only for strict parity.

    Returns:
      int32 [..., k].

    Raises:
      ValueError: points is not [..., N, 3] with N >= 1, k < 1, or mask does not fit.
    """
    points = jax.lax.stop_gradient(jnp.asarray(points))
    check_points(points, "points")
    _check_count(k)
    usable = _usable(points, mask)
    points, usable = _broadcast_scenes(points, usable)
    points = jnp.where(usable[..., None], points, 0.0)
    start = jnp.argmax(usable, axis=-1).astype(jnp.int32)
    if skip_near_origin:
        usable &= jnp.sum(points * points, axis=-1) > _NEAR_ORIGIN
    leading = points.shape[:-2]
    xyz = jnp.moveaxis(points, -1, 0).reshape(3, -1, points.shape[-2])
    chosen = _fps(xyz, usable.reshape(xyz.shape[1:]), start.reshape(-1), k)
    return chosen.reshape(*leading, k)


def _broadcast_scenes(points: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    leading = jnp.broadcast_shapes(points.shape[:-2], mask.shape[:-1])
    return (
        jnp.broadcast_to(points, (*leading, *points.shape[-2:])),
        jnp.broadcast_to(mask, (*leading, mask.shape[-1])),
    )


def _fps(xyz: jax.Array, usable: jax.Array, start: jax.Array, k: int) -> jax.Array:
    """xyz [3, B, N], usable bool [B, N], start int32 [B] -> int32 [B, k]."""
    num = xyz.shape[-1]
    iota = jnp.arange(num, dtype=jnp.int32)

    def step(carry, _):
        gaps, last = carry
        center = jnp.take_along_axis(xyz, last[None, :, None], axis=-1)
        squared = jnp.square(xyz - center)
        squared = squared[0] + squared[1] + squared[2]
        # A chosen point ranks below every unchosen one (>= 0) and above masked ones (-2).
        gaps = jnp.where(iota == last[:, None], jnp.minimum(gaps, -1), jnp.minimum(gaps, squared))
        return (gaps, jnp.argmax(gaps, axis=-1).astype(jnp.int32)), last

    gaps = jnp.where(usable, jnp.inf, -2.0).astype(xyz.dtype)
    _, chosen = jax.lax.scan(step, (gaps, start), length=k)
    return jnp.moveaxis(chosen, 0, -1)


def knn(
    queries: jax.Array,
    points: jax.Array,
    k: int,
    *,
    mask: jax.Array | None = None,
    block: int | None = None,
    method: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """The k nearest points of each query, nearest first; ties go to the lowest index.

    Where fewer than k valid points exist, the surplus slots repeat the nearest one's index (safe to
    gather) with an infinite distance.

    Args:
      queries: [..., Q, 3].
      points: [..., N, 3]; leading axes broadcast against those of queries. Non-finite points count
        as masked.
      k: neighbours per query.
      mask: bool [..., N], True for valid points.
      block: queries (of every scene) searched at a time; memory is block x scenes x N distances.
        None chooses a block of at most 64 MiB in float32.
      method: 'exact'; 'approx' (``lax.approx_min_k``, recall at least 0.99, order not guaranteed
        among ties); 'auto' is exact except on TPU, where a full top-k is slow.

    Returns:
      idx int32 [..., Q, k], and squared distances [..., Q, k], differentiable in both point sets.

    Raises:
      ValueError: wrong shapes, k < 1, or an unknown method.
    """
    queries, points = jnp.asarray(queries), jnp.asarray(points)
    check_points(queries, "queries")
    check_points(points, "points")
    _check_count(k)
    if method not in ("auto", "exact", "approx"):
        raise ValueError(f"method: expected 'auto', 'exact' or 'approx', found {method!r}")
    queries, points, usable = broadcast_query(queries, points, mask)
    nearest = functools.partial(_nearest, k=min(k, points.shape[-2]), method=method)
    found, idx = _blocked(nearest, queries, points, usable, block)
    short = k - idx.shape[-1]
    if short > 0:
        widths = [(0, 0)] * (idx.ndim - 1) + [(0, short)]
        idx = jnp.pad(idx, widths)
        found = jnp.pad(found, widths, constant_values=False)
    idx = jnp.where(found, idx, idx[..., :1])
    dist2 = jnp.sum(jnp.square(queries[..., None, :] - gather(points, idx)), axis=-1)
    return idx, jnp.where(found, dist2, jnp.inf)


def gather(values: jax.Array, idx: jax.Array) -> jax.Array:
    """Rows of each scene's table: values [..., N, C], idx int [..., Q, k] -> [..., Q, k, C]."""
    flat = jnp.take_along_axis(values, idx.reshape(*idx.shape[:-2], -1)[..., None], axis=-2)
    return flat.reshape(*idx.shape, values.shape[-1])


def ball_query(
    queries: jax.Array,
    points: jax.Array,
    radius: float,
    k: int,
    *,
    mask: jax.Array | None = None,
    block: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Up to k points closer than ``radius`` to each query: the lowest indices, in index order.

    That is PointNet++'s grouping (Qi et al. 2017). Slots beyond the points found repeat the first
    one found and are marked invalid; where none is found they hold index 0.

    Args:
      queries: [..., Q, 3].
      points: [..., N, 3]; leading axes broadcast. Non-finite points count as masked.
      radius: > 0; a point at exactly this distance is outside.
      k: slots per query.
      mask: bool [..., N], True for valid points.
      block: as in ``knn``.

    Returns:
      idx int32 [..., Q, k] and valid bool [..., Q, k].
    """
    queries, points = jnp.asarray(queries), jnp.asarray(points)
    check_points(queries, "queries")
    check_points(points, "points")
    _check_count(k)
    queries, points, usable = broadcast_query(queries, points, mask)
    within = functools.partial(_first_within, radius=radius, k=min(k, points.shape[-2]))
    valid, idx = _blocked(within, queries, points, usable, block)
    short = k - idx.shape[-1]
    if short > 0:
        widths = [(0, 0)] * (idx.ndim - 1) + [(0, short)]
        idx, valid = jnp.pad(idx, widths), jnp.pad(valid, widths)
    return jnp.where(valid, idx, jnp.where(valid[..., :1], idx[..., :1], 0)), valid


def broadcast_query(
    queries: jax.Array, points: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """queries [..., Q, 3], points [..., N, 3] and usable bool [..., N] over the same leading axes."""
    usable = _usable(points, mask)
    leading = jnp.broadcast_shapes(queries.shape[:-2], points.shape[:-2], usable.shape[:-1])
    return (
        jnp.broadcast_to(queries, (*leading, *queries.shape[-2:])),
        jnp.broadcast_to(points, (*leading, *points.shape[-2:])),
        jnp.broadcast_to(usable, (*leading, usable.shape[-1])),
    )


def _blocked(search, queries, points, usable, block):
    """Runs ``search`` over blocks of queries; returns its (found, idx), each [..., Q, k].

    search: (queries [B, q, 3], points [3, B, N], usable [B, N]) -> bool and int32 [B, q, k].
    """
    queries, points = jax.lax.stop_gradient((queries, points))
    leading, num_queries, num = queries.shape[:-2], queries.shape[-2], points.shape[-2]
    queries = queries.reshape(-1, num_queries, 3)
    scenes = queries.shape[0]
    usable = usable.reshape(-1, num)
    xyz = jnp.moveaxis(jnp.where(usable[..., None], points.reshape(-1, num, 3), 0.0), -1, 0)
    if block is None:
        block = max(1, _BLOCK_ELEMENTS // max(scenes * num, 1))
    if block >= num_queries:
        found, idx = search(queries, xyz, usable)
    else:
        count = -(-num_queries // block)
        padded = jnp.pad(queries, ((0, 0), (0, count * block - num_queries), (0, 0)))
        blocks = jnp.moveaxis(padded.reshape(scenes, count, block, 3), 1, 0)
        found, idx = jax.lax.map(lambda q: search(q, xyz, usable), blocks)
        found, idx = (
            jnp.moveaxis(a, 0, 1).reshape(scenes, count * block, -1)[:, :num_queries]
            for a in (found, idx)
        )
    return tuple(a.reshape(*leading, num_queries, -1) for a in (found, idx))


def _squared_distances(queries: jax.Array, xyz: jax.Array) -> jax.Array:
    """queries [B, q, 3], xyz [3, B, N] -> [B, q, N]."""
    dx, dy, dz = (queries[..., i, None] - xyz[i, :, None, :] for i in range(3))
    return dx * dx + dy * dy + dz * dz


def _top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    # Without the barrier a later slice merges into top-k, which XLA then turns into a full sort
    # (on CPU 20 times slower).
    return jax.lax.optimization_barrier(tuple(jax.lax.top_k(x, k)))


def _nearest(queries, xyz, usable, *, k, method):
    dist2 = _squared_distances(queries, xyz)
    far = ~usable[:, None, :] | jnp.isnan(dist2)
    dist2 = jnp.where(far, jnp.inf, dist2)

    def exact(d):
        # Unseen through the barrier, later slices of idx cannot merge with top_k's own: XLA:CPU then
        # recognises it and does not sort all N (25 times slower at N = 2048).
        values, idx = jax.lax.optimization_barrier(jax.lax.top_k(-d, k))
        return values > -jnp.inf, idx.astype(jnp.int32)

    def approx(d):
        values, idx = jax.lax.approx_min_k(d, k, recall_target=0.99)
        return values < jnp.inf, idx.astype(jnp.int32)

    if method == "auto":
        return jax.lax.platform_dependent(dist2, tpu=approx, default=exact)
    return approx(dist2) if method == "approx" else exact(dist2)


def _first_within(queries, xyz, usable, *, radius, k):
    inside = _squared_distances(queries, xyz) < jnp.asarray(radius, queries.dtype) ** 2
    num = xyz.shape[-1]
    # Only float top-k is fast on CPU; float32 counts exactly up to 2^24.
    rank = jnp.arange(num, 0, -1, dtype=jnp.float32 if num < 1 << 24 else jnp.int32)
    rank, idx = _top_k(jnp.where(inside & usable[:, None, :], rank, 0), k)
    return rank > 0, idx.astype(jnp.int32)
