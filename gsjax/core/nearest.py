"""The one nearest point of each query among 1e5 to 1e6 points: exact, as an index without gradient.

Two searches with the same answer. ``blocked`` compares every query with every point and keeps nothing of size
Q x N; it is the definition, and what accelerators run. ``boxes`` sorts both sets along a Hilbert curve and, for a
few neighbouring queries at a time, visits boxes of points, nearest box first, until no unvisited box can hold a
nearer point: no cell size, no caps and so no overflow, however uneven the density. It is what CPUs run on large
sets. Distances are squared direct differences (see ``core.points``, which has k neighbours and balls); those of
the points found are for the caller to compute, with gradients, from gathered rows.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import curves
from gsjax.core import points as point_sets

METHODS = ("auto", "blocked", "boxes")

# Points whose index is searched again once it is known that the nearest is among them.
_SUB_BLOCK = 256
# Queries at a time and sub-blocks a step. CPU: the running minima stay in its first cache. Others: a step of 2^26
# pairs is worth its launch, and would take 256 MiB if the compiler did not fuse it.
_CPU_BLOCK, _OTHER_BLOCK = (1024, 1), (16384, 16)
# Boxes: points of one, and queries that share one search. Measured at 1e5 and 2e5 points.
_BOX, _GROUP = 128, 32
# Pairs from which sorting is worth its time on CPU.
_MANY_PAIRS = 1 << 24
_NO_INDEX = jnp.iinfo(jnp.int32).max


def nearest(
    queries: jax.Array,
    points: jax.Array,
    *,
    mask: jax.Array | None = None,
    block: int | None = None,
    method: str = "auto",
) -> jax.Array:
    """Index of the nearest point of each query; ties go to the lowest index.

    Exact up to the rounding of squared distances in the type of the input. Peak memory is a few copies of the
    inputs and the block. Use: ``idx = nearest(y, z)``, then ``y - gather(z, idx)`` carries the gradients.

    Args:
        queries: [..., Q, 3]. A query that is not finite gets index 0.
        points: [..., N, 3]; leading axes broadcast against those of queries. Non-finite points count as masked.
        mask: bool [..., N], True for valid points. With none valid every index is 0.
        block: queries of a scene compared at a time by 'blocked'; None chooses for the platform.
        method: 'blocked'; 'boxes'; 'auto' is 'boxes' on CPU from 2^24 pairs on, and 'blocked' elsewhere.
            Scenes are taken one by one by 'boxes', at once by 'blocked'.

    Returns:
        int32 [..., Q], without gradient.

    Raises:
        ValueError: wrong shapes, block < 1, or an unknown method.
    """
    queries, points = jnp.asarray(queries), jnp.asarray(points)
    point_sets.check_points(queries, "queries")
    point_sets.check_points(points, "points")
    if method not in METHODS:
        raise ValueError(f"method: unknown {method!r}; known: {', '.join(METHODS)}")
    if block is not None and block < 1:
        raise ValueError(f"block: expected at least 1, found {block}")
    queries, points = jax.lax.stop_gradient((queries, points))
    queries, points, usable = point_sets.broadcast_query(queries, points, mask)
    leading, num = queries.shape[:-1], points.shape[-2]
    scenes = (
        queries.reshape(-1, leading[-1], 3),
        points.reshape(-1, num, 3),
        usable.reshape(-1, num),
    )
    if scenes[0].shape[0] == 0:
        return jnp.zeros(leading, jnp.int32)
    if method == "auto" and leading[-1] * num < _MANY_PAIRS:
        method = "blocked"
    idx = _SEARCHES[method](*scenes, block)
    known = jnp.all(jnp.isfinite(queries), -1) & jnp.any(usable, -1, keepdims=True)
    return jnp.where(known, idx.reshape(leading), 0)


def _by_boxes(queries, points, usable, block):
    del block  # groups are small
    return jax.lax.map(lambda scene: _boxes(*scene), (queries, points, usable))


def _by_blocks(queries, points, usable, block):
    def run(size, count):
        size = block or max(size // queries.shape[0], _CPU_BLOCK[0])
        search = functools.partial(_blocked, block=size, count=count)
        return lambda *scenes: jax.vmap(search)(*scenes)

    return jax.lax.platform_dependent(
        queries, points, usable, cpu=run(*_CPU_BLOCK), default=run(*_OTHER_BLOCK)
    )


def _by_platform(queries, points, usable, block):
    return jax.lax.platform_dependent(
        queries,
        points,
        usable,
        cpu=functools.partial(_by_boxes, block=block),
        default=functools.partial(_by_blocks, block=block),
    )


_SEARCHES = {"auto": _by_platform, "blocked": _by_blocks, "boxes": _by_boxes}


def _squared(queries: jax.Array, points: jax.Array) -> jax.Array:
    """Coordinates first: queries [3, ...], points [3, ...] -> [...] of their broadcast shape."""
    x, y, z = (queries[i] - points[i] for i in range(3))
    return x * x + y * y + z * z


def _rows(x: jax.Array, multiple: int, fill) -> jax.Array:
    """x [N, ...] with rows of ``fill`` up to a multiple, as [blocks, multiple, ...]."""
    missing = -x.shape[0] % multiple
    x = jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1)), constant_values=fill)
    return x.reshape(-1, multiple, *x.shape[1:])


def _blocked(queries, points, usable, *, block: int, count: int) -> jax.Array:
    """Every query [Q, 3] with every point [N, 3], ``block`` queries and ``count`` sub-blocks a step."""
    num_queries, num = queries.shape[0], points.shape[0]
    block, count = min(block, num_queries), min(count, -(-num // _SUB_BLOCK))
    # No distance to a point at infinity is the least one.
    table = _rows(jnp.where(usable[:, None], points, jnp.inf), _SUB_BLOCK * count, jnp.inf)
    table = table.reshape(-1, count, _SUB_BLOCK, 3)
    steps = jnp.moveaxis(table, -1, 1), count * jnp.arange(table.shape[0], dtype=jnp.int32)
    table = table.reshape(-1, _SUB_BLOCK, 3)
    queries = jnp.where(jnp.isfinite(queries), queries, 0.0)

    def search(queries):
        queries = queries.T

        def step(carry, inputs):
            least, where = carry
            points, first = inputs
            # Queries last: minima over the other axis are vector operations, and no index is carried along.
            squared = jnp.min(_squared(queries[:, None, None], points[..., None]), axis=1)
            found, squared = jnp.argmin(squared, axis=0).astype(jnp.int32), jnp.min(squared, axis=0)
            nearer = squared < least  # an equal one has the higher index
            return (
                jnp.where(nearer, squared, least), jnp.where(nearer, first + found, where)
            ), None  # fmt: skip

        start = jnp.full_like(queries[0], jnp.inf), jnp.zeros_like(queries[0], jnp.int32)
        where = jax.lax.scan(step, start, steps)[0][1]
        points = jnp.moveaxis(table[where], -1, 0)
        return where * _SUB_BLOCK + jnp.argmin(_squared(queries[..., None], points), -1)

    idx = jax.lax.map(search, _rows(queries, block, 0.0))
    return idx.reshape(-1)[:num_queries].astype(jnp.int32)


def _boxes(queries, points, usable) -> jax.Array:
    """Nearest point of each query [Q, 3] among points [N, 3] by boxes along a Hilbert curve."""
    low, high = _extent(points, usable)
    queries = jnp.where(jnp.isfinite(queries), queries, 0.0)
    boxes = _build(points, usable, low, high)
    order = jnp.argsort(curves.hilbert_key(curves.quantize(queries, curves.MAX_BITS, low, high)))
    count = queries.shape[0]
    padded = jnp.pad(queries[order], ((0, -count % _GROUP), (0, 0)), mode="edge")
    idx = jax.lax.map(functools.partial(_search, boxes), padded.reshape(-1, _GROUP, 3))
    return jnp.zeros(count, jnp.int32).at[order].set(idx.reshape(-1)[:count])


class _Boxes(NamedTuple):
    """Runs of points along the curve.

    Attributes:
        points: [boxes, 3, _BOX], infinite where there is none.
        index: int32 [boxes, _BOX], their rows in the input.
        low, high: [3, boxes] corners; (inf, -inf) where a box has no point.
    """

    points: jax.Array
    index: jax.Array
    low: jax.Array
    high: jax.Array


def _extent(points, usable) -> tuple[jax.Array, jax.Array]:
    """Corners [3] around nearly all points; others share border cells of the curve.

    A few points far out would otherwise leave one cell to all the rest. They cost time only: boxes are those of
    the points in them.
    """
    keep = usable[:, None]
    for _ in range(3):
        count = jnp.maximum(jnp.sum(keep, 0), 1)
        mean = jnp.sum(jnp.where(keep, points, 0.0), 0) / count
        gaps = jnp.where(keep, points - mean, 0.0)
        spread = jnp.sqrt(jnp.sum(jnp.square(gaps), 0) / count)
        keep = keep & jnp.all(jnp.abs(gaps) <= 6 * spread, -1, keepdims=True)
    return (
        jnp.min(jnp.where(keep, points, jnp.inf), 0), jnp.max(jnp.where(keep, points, -jnp.inf), 0)
    )  # fmt: skip


def _build(points, usable, low, high) -> _Boxes:
    key = curves.hilbert_key(curves.quantize(points, curves.MAX_BITS, low, high))
    order = jnp.argsort(jnp.where(usable, key, key.dtype.type(jnp.iinfo(key.dtype).max))).astype(
        jnp.int32
    )
    table = _rows(jnp.where(usable[:, None], points, jnp.inf)[order], _BOX, jnp.inf)
    return _Boxes(
        points=jnp.swapaxes(table, 1, 2),
        index=_rows(order, _BOX, _NO_INDEX),
        low=jnp.min(table, 1).T,
        high=jnp.max(jnp.where(jnp.isfinite(table), table, -jnp.inf), 1).T,
    )


def _search(boxes: _Boxes, group: jax.Array) -> jax.Array:
    """int32 [G]: nearest points of the queries group [G, 3], which share one list of boxes."""
    group = group.T
    gaps = jnp.maximum(
        boxes.low - jnp.max(group, 1)[:, None], jnp.min(group, 1)[:, None] - boxes.high
    )
    bounds = jnp.sum(jnp.square(jnp.maximum(gaps, 0.0)), 0)
    # Rounding may not put a box beyond a point in it.
    bounds = bounds * (1 - 8 * jnp.finfo(bounds.dtype).eps)

    def squared(box):
        return _squared(group[:, None, :], boxes.points[box][:, :, None])

    def visit(carry):
        bounds, box, least, where, tied = carry
        found = jnp.min(squared(box), 0)
        tied = (tied & (found >= least)) | (found == least)
        where = jnp.where(found < least, box, where)
        bounds = bounds.at[box].set(jnp.inf)
        return bounds, jnp.argmin(bounds), jnp.minimum(found, least), where, tied

    first = jnp.argmin(bounds)
    size = group.shape[1:]
    carry = (
        bounds,
        first,
        jnp.full(size, jnp.inf, group.dtype),
        jnp.full(size, first),
        jnp.zeros(size, bool),
    )
    _, _, least, where, tied = jax.lax.while_loop(
        lambda c: (c[0][c[1]] <= jnp.max(c[2])) & (c[0][c[1]] < jnp.inf), visit, carry
    )
    inside = jax.lax.optimization_barrier(
        _squared(group[..., None], jnp.moveaxis(boxes.points[where], 1, 0))
    )
    equal = inside == jnp.min(inside, -1, keepdims=True)
    idx = jnp.min(jnp.where(equal, boxes.index[where], _NO_INDEX), -1)

    def lowest(idx):  # among equally near points of several boxes: rare, so not at every visit
        reach = jnp.max(jnp.where(tied, least, -1.0))

        def visit(carry):
            bounds, box, idx = carry
            equal = squared(box) <= least
            found = jnp.min(jnp.where(equal, boxes.index[box][:, None], _NO_INDEX), 0)
            bounds = bounds.at[box].set(jnp.inf)
            return bounds, jnp.argmin(bounds), jnp.minimum(idx, found)

        return jax.lax.while_loop(lambda c: c[0][c[1]] <= reach, visit, (bounds, first, idx))[2]

    return jax.lax.cond(jnp.any(tied), lowest, lambda idx: idx, idx)
