"""Depth order and tile lists for the CPU backend, made of loops that XLA compiles to native code.

XLA:CPU turns a ``while`` loop into one native function if its body holds no scatter, sort or custom
call and touches few bytes per step (``xla_cpu_small_call`` in the compiled text). Loops over one
scalar at a time then cost what they cost in C, so a counting sort beats any library sort:

1. ``walk_order``: visible Gaussians in depth order (radix sort), with one record each that tells
   which tiles a row of tiles meets;
2. ``fill``: walks them from a cursor and lists up to ``capacity`` (tile, Gaussian) pairs by tile.

Two rules keep these loops native and free of hidden copies: a carried buffer is updated *before* it
is read in the same step (otherwise XLA copies it whole at every step), and its update lowers to a
dynamic-update-slice.

Nothing here is differentiated. Loop bounds come from data, so culled Gaussians must have radii 0 and
all others finite numbers, as ``project`` guarantees.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gsjax.core import fusion
from gsjax.raster import constants

_RADIX_BITS = 11  # three digits cover the 32 bits of a depth
_HUGE = 1e15  # pixels; "everywhere", yet its square is a float32
_INT32_MAX = 2**31 - 1
_BLOCKS_PER_LANE = 8  # even; more balance the work better, fewer share fewer Gaussians


class Grid(NamedTuple):
    """Static tile grid; each of num_lanes lanes owns a part of its rows, see `lane_rows`."""

    width: int
    height: int
    tile_size: int
    num_lanes: int = 1

    @property
    def across(self) -> int:
        return -(-self.width // self.tile_size)

    @property
    def down(self) -> int:
        return -(-self.height // self.tile_size)

    def lane_rows(self) -> np.ndarray:
        """int32 [num_lanes, R] tile rows of each lane, downwards; `down` where it has fewer than R.

        Blocks of rows are dealt to and fro, A B B A A B B A: what grows from top to bottom is shared
        out evenly, and most Gaussians still meet the rows of one lane only.
        """
        lanes = self.num_lanes
        blocks = np.array_split(np.arange(self.down, dtype=np.int32), lanes * _BLOCKS_PER_LANE)
        turn = np.arange(len(blocks)) % (2 * lanes)
        owner = np.where(turn < lanes, turn, 2 * lanes - 1 - turn)
        owned = [np.concatenate([b for b, o in zip(blocks, owner, strict=True) if o == k])
                 for k in range(lanes)]  # fmt: skip
        most = max(len(rows) for rows in owned)
        return np.stack([np.pad(r, (0, most - len(r)), constant_values=self.down) for r in owned])

    def next_rows(self) -> np.ndarray:
        """int32 [num_lanes, down + 1] the first row from y on that a lane owns; `down` for none."""
        owned = [np.append(rows, self.down) for rows in self.lane_rows()]
        ahead = [rows[np.searchsorted(rows, np.arange(self.down + 1))] for rows in owned]
        return np.stack(ahead).astype(np.int32)

    def local_rows(self) -> np.ndarray:
        """int32 [down] where a row of the image lies among those of its lane."""
        local = np.zeros(self.down + 1, np.int32)
        for rows in self.lane_rows():
            local[rows] = np.arange(len(rows))
        return local[:-1]

    @property
    def num_tiles(self) -> int:
        """Tiles of one lane."""
        return self.across * self.lane_rows().shape[1]

    @property
    def lane_height(self) -> int:
        """Pixel rows of one lane: those of the image where it is the only one."""
        return self.height if self.num_lanes == 1 else self.lane_rows().shape[1] * self.tile_size


class Walk(NamedTuple):
    """Gaussians that a lane sees, nearest first: what `fill` needs of rank r.

    With v the height above the centre, the ellipse of alpha >= 1/255 spans, at v,
    x = center_x + slope v -+ sqrt(width2 - shrink v^2), and reaches furthest left at v = left_v.

    Lists hold rows, not ranks: rows go by the tile of the centre, so that what a tile and its
    neighbours need lies together in memory (a fifth of the time of blending went into waiting for
    rows in depth order).

    Attributes:
      shapes: [N, 7] center_x, center_y, slope, width2, shrink, left_v, margin (pixels).
      first, last: int32 [N] its tile rows are first <= y < last; the lane owns the first one.
      rows: int32 [N] rank -> row.
      order: int32 [N] row -> index of the Gaussian; entries from `num` on are meaningless.
      num: int32 [] number of Gaussians seen.
    """

    shapes: jax.Array
    first: jax.Array
    last: jax.Array
    rows: jax.Array
    order: jax.Array
    num: jax.Array


class Cursor(NamedTuple):
    """Where the walk goes on: rank and tile row (both int32 [])."""

    rank: jax.Array
    row: jax.Array


class Lists(NamedTuple):
    """Depth-ordered lists of all tiles: tile t owns rows[offsets[t] : offsets[t + 1]]."""

    rows: jax.Array
    offsets: jax.Array


def put(array: jax.Array, value: jax.Array, index: jax.Array) -> jax.Array:
    """array with array[index] = value along the first axis, as a dynamic-update-slice."""
    return lax.dynamic_update_index_in_dim(array, value, index, 0)


def row(array: jax.Array, index: jax.Array) -> jax.Array:
    """array[index] along the first axis, as a dynamic-slice."""
    return lax.dynamic_index_in_dim(array, index, 0, keepdims=False)


def vary(values, like):
    """`values` as they are, typed to differ between the devices of a ``shard_map`` as `like` does.

    A loop's state must have one type from start to end. Adding an integer zero made from `like` does
    that with public operations only; XLA removes it.
    """
    firsts = [x.ravel()[0] for x in jax.tree.leaves(like) if x.size]
    zero = sum((x == 0).astype(jnp.int32) for x in firsts) * 0
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), values)


def depth_order(depths: jax.Array, indices: jax.Array, num: jax.Array) -> jax.Array:
    """Stable radix order: the first `num` of `indices` [N], sorted by depths[indices] as float32."""
    bits = lax.bitcast_convert_type(depths.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(1 << 31)  # order of floats = order of these integers, negative ones included
    keys = jnp.where(bits >= sign, ~bits, bits | sign)[indices]
    live = (lax.iota(jnp.int32, indices.shape[0]) < num).astype(jnp.int32)
    ranks = vary(lax.iota(jnp.int32, indices.shape[0]), indices)
    for shift in range(0, 32, _RADIX_BITS):
        digits = ((keys >> jnp.uint32(shift)) & jnp.uint32(2**_RADIX_BITS - 1)).astype(jnp.int32)
        counts = jnp.zeros(2**_RADIX_BITS, jnp.int32).at[digits].add(live)

        def place(i, state, digits=digits, ranks=ranks):
            ends, out = state
            digit = digits[ranks[i]]
            ends = put(ends, ends[digit] + 1, digit)  # update first, read the new value
            return ends, put(out, ranks[i], ends[digit] - 1)

        starts = jnp.cumsum(counts) - counts
        _, ranks = lax.fori_loop(
            jnp.int32(0), num, place, (starts, vary(jnp.zeros_like(ranks), ranks))
        )
    return indices[ranks]


def walk_order(means2d, conics, opacities, depths, radii, lane: jax.Array, grid: Grid) -> Walk:
    """Gaussians that touch the lane's rows of one image, in depth order, with their ellipses.

    The ellipse is that of alpha >= 1/255 (SnugBox of Speedy-Splat, arXiv 2412.00578, Sec. 4.1, with
    the level t = 2 ln(255 opacity)), widened so that rounding never loses a pixel: the determinant is
    a lower bound, and t grows by the rounding error of sigma, which is largest for needles.
    """
    dtype = means2d.dtype
    eps = jnp.finfo(dtype).eps
    x, y = means2d[:, 0], means2d[:, 1]
    a, b, c = conics[:, 0], conics[:, 1], conics[:, 2]
    usable = (a > 0) & (c > 0) & jnp.isfinite(a * c / (a * a)) & jnp.isfinite(b / a)
    a, b, c = jnp.where(usable, a, 1.0), jnp.where(usable, b, 0.0), jnp.where(usable, c, 1.0)
    det = a * c - b * b - 4 * eps * a * c
    bounded = usable & (det > 0)
    det = jnp.where(bounded, det, a * c)
    level = 2 * jnp.log(jnp.maximum(opacities, constants.ALPHA_MIN) / constants.ALPHA_MIN)
    level = (level + 1e-4) * (1 + jnp.where(bounded, jnp.minimum(8 * eps * a * c / det, 1.0), 1.0))
    a, b, c, det, level = fusion.once((a, b, c, det, level))

    def reach(k):
        return jnp.where(bounded, jnp.sqrt(level * k / det), _HUGE)

    half_x, half_y = reach(c), reach(a)
    span = grid.tile_size * max(grid.across, grid.down)
    margin = 1 / 64 + 16 * eps * (jnp.abs(x) + jnp.abs(y) + span)
    first, last = _touched(y - half_y, y + half_y, margin, grid.tile_size, grid.down)
    left, right = _touched(x - half_x, x + half_x, margin, grid.tile_size, grid.across)
    first = _own_row(first, lane, grid)
    visible = jnp.all(radii > 0, -1) & (opacities >= constants.ALPHA_MIN)
    visible = (visible & (last > first) & (right > left)).astype(jnp.int32)
    shapes = jnp.stack(
        [x, y, -b / a, jnp.where(usable, level / a, _HUGE**2),
         jnp.where(bounded, det / (a * a), 0.0), b / c * half_x, margin], -1,
    )  # fmt: skip

    def compact(i, state):
        count, out = state
        return count + visible[i], put(out, i, count)

    size = means2d.shape[0]
    begin = vary((jnp.int32(0), jnp.zeros(size, jnp.int32)), visible)
    num, indices = lax.fori_loop(jnp.int32(0), jnp.int32(size), compact, begin)
    ranked = depth_order(depths, indices, num)
    column = jnp.clip(jnp.floor(x / grid.tile_size), 0, grid.across - 1).astype(jnp.int32)
    line = jnp.clip(jnp.floor(y / grid.tile_size), 0, grid.down - 1).astype(jnp.int32)
    tile = (line * grid.across + column)[ranked]
    rows, order = _by_tile(tile, ranked, num, grid.across * grid.down)
    return Walk(shapes[ranked], first[ranked], last[ranked], rows, order, num)


def _by_tile(tiles, ranked, num, num_tiles):
    """Rank -> row, and row -> Gaussian, with rows ordered by tile (tiles [N] by rank)."""

    def count(i, counts):
        return put(counts, counts[tiles[i]] + 1, tiles[i])

    def place(i, state):
        ends, rows, order = state
        ends = put(ends, ends[tiles[i]] + 1, tiles[i])  # update first, read the new value
        last = ends[tiles[i]] - 1
        return ends, put(rows, last, i), put(order, ranked[i], last)

    zeros = vary(jnp.zeros(num_tiles, jnp.int32), tiles)
    counts = lax.fori_loop(jnp.int32(0), num, count, zeros)
    starts = jnp.cumsum(counts) - counts
    begin = vary((starts, jnp.zeros_like(ranked), ranked), ranked)
    _, rows, order = lax.fori_loop(jnp.int32(0), num, place, begin)
    return rows, order


def _touched(low, high, margin, size, count):
    """Tiles first <= i < last that have a pixel centre within [low - margin, high + margin]."""
    first = jnp.floor((low + 0.5 - margin) / size)
    last = jnp.floor((high - 0.5 + margin) / size) + 1
    return (jnp.clip(edge, 0, count).astype(jnp.int32) for edge in (first, last))


def _own_row(y, lane, grid):
    """The first tile row from y on that the lane owns, 0 <= y <= down; `down` if there is none."""
    return y if grid.num_lanes == 1 else jnp.asarray(grid.next_rows())[lane, y]


def start(walk: Walk) -> Cursor:
    """Cursor before the first Gaussian."""
    return Cursor(jnp.int32(0), walk.first[0])


def _row_span(shape, y, grid):
    """Tiles [first, last) of tile row y with a pixel centre inside the ellipse (AccuTile).

    The furthest point of the strip is the ellipse's own if that lies in the strip, else the one
    nearest to it (the boundary is convex).
    """
    center_x, center_y, slope, width2, shrink, left_v, margin = shape
    low = y.astype(center_x.dtype) * grid.tile_size + 0.5 - center_y - margin
    high = low + (grid.tile_size - 1) + 2 * margin

    def edge(v, side):
        v = jnp.clip(v, low, high)
        return center_x + slope * v + side * jnp.sqrt(jnp.maximum(width2 - shrink * v * v, 0.0))

    return _touched(edge(left_v, -1.0), edge(-left_v, 1.0), margin, grid.tile_size, grid.across)


def fill(
    walk: Walk,
    cursor: Cursor,
    closed: jax.Array,
    lane: jax.Array,
    grid: Grid,
    capacity: int,
    met: jax.Array,
) -> tuple[Cursor, Lists, jax.Array]:
    """Lists the next pairs, at most `capacity`; a tile row of a Gaussian is never split.

    Args:
      walk: what `walk_order` returned.
      cursor: where to begin.
      closed: int32 [T], 1 for tiles that take no more pairs; they are only counted.
      lane: int32 [], as of `walk`; rows of other lanes are passed over.
      grid: the tile grid.
      capacity: length of the list, at least grid.across.
      met: int32 [], pairs met by the passes before.

    Returns:
      The cursor after the last pair, the lists, and the pairs met by now, those of closed tiles
      included (int32, saturating).
    """
    across, local, most = grid.across, jnp.asarray(grid.local_rows()), walk.first.shape[0] - 1

    def gaussian(state):
        rank, y, n, met, tiles, rows, counts = state
        shape = [walk.shapes[rank, k] for k in range(walk.shapes.shape[1])]
        end, own_row = walk.last[rank], walk.rows[rank]

        def strip(state):
            y, n, met, tiles, rows, counts = state
            left, right = _row_span(shape, y, grid)
            base = local[y] * across

            def one(x, state):
                n, tiles, rows, counts = state
                tile = base + x
                tiles, rows = put(tiles, tile, n), put(rows, own_row, n)
                keep = 1 - closed[tile]
                return n + keep, tiles, rows, put(counts, counts[tile] + keep, tile)

            n, tiles, rows, counts = lax.fori_loop(left, right, one, (n, tiles, rows, counts))
            more = jnp.maximum(right - left, 0)
            met = jnp.where(met > _INT32_MAX - more, _INT32_MAX, met + more)
            return _own_row(y + 1, lane, grid), n, met, tiles, rows, counts

        state = (y, n, met, tiles, rows, counts)
        y, *state = lax.while_loop(
            lambda s: (s[0] < end) & (s[1] + across <= capacity), strip, state
        )
        done = y >= end
        rank = rank + done.astype(jnp.int32)
        return rank, jnp.where(done, walk.first[jnp.minimum(rank, most)], y), *state

    empty, zero = jnp.zeros(capacity + 1, jnp.int32), jnp.int32(0)
    begin = (*cursor, zero, met, empty, empty, jnp.zeros_like(closed))
    rank, y, n, met, tiles, rows, counts = lax.while_loop(
        lambda s: (s[0] < walk.num) & (s[2] + across <= capacity), gaussian, vary(begin, walk)
    )
    return Cursor(rank, y), _sort_by_tile(tiles, rows, n, counts), met


def _sort_by_tile(tiles, rows, num, counts):
    """Counting sort; stable, so the depth order survives."""
    offsets = jnp.cumsum(counts) - counts

    def place(i, state):
        ends, out = state
        tile = tiles[i]
        ends = put(ends, ends[tile] + 1, tile)
        return ends, put(out, rows[i], ends[tile] - 1)

    state = vary((offsets, jnp.zeros_like(rows)), rows)
    _, rows = lax.fori_loop(jnp.int32(0), num, place, state)
    return Lists(rows, jnp.concatenate([offsets, num[None]]))
