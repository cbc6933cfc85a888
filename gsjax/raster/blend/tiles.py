"""Which Gaussians each tile has to look at: lists in depth order, made by sorting, of static size.

A Gaussian's box of tiles is laid out as consecutive *slots*, Gaussians in depth order. A pass takes
the next ``capacity`` slots from a cursor, drops those whose tile the ellipse misses, and sorts the
rest by tile. Depth order inside a tile comes for free, and cutting the slots anywhere leaves every
tile's list in order: a scene of any size goes through a buffer of any size, in several passes.

All functions work on one image; `xla_group` maps them over images. No gradients here. Exact tile
tests follow Speedy-Splat (arXiv 2412.00578) in aim, but are closed forms per (tile, Gaussian).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.raster import constants
from gsjax.raster import project as projection

_INT_MAX = 2**31 - 1


class Grid(NamedTuple):
    """Tiles of an image; static."""

    width: int
    height: int
    tile_size: int

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_size)

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile_size)

    @property
    def count(self) -> int:
        return self.columns * self.rows


class Boxes(NamedTuple):
    """Gaussians of one image in depth order ("ranks"); those that touch no tile come last.

    Attributes:
      order: [N] int32, the Gaussian of each rank.
      low: [N, 2] int32, first tile column and row of the box.
      columns: [N] int32, tile columns of the box.
      count: [N] int32, tiles of the box.
    """

    order: jax.Array
    low: jax.Array
    columns: jax.Array
    count: jax.Array


class Cursor(NamedTuple):
    """Next slot to take: the rank, and how many slots of its box are already taken."""

    rank: jax.Array
    skipped: jax.Array


class Lists(NamedTuple):
    """One pass: tile t owns entries [bounds[t], bounds[t + 1]).

    Attributes:
      tile: [capacity] int32, ascending; the number of tiles marks an unused entry.
      rank: [capacity] int32, ascending inside a tile.
      bounds: [tiles + 1] int32.
      starts: [N] int32, first slot of each rank in this pass (at least capacity: not in it).
      taken: [N] int32, slots each rank still had when the pass began.
    """

    tile: jax.Array
    rank: jax.Array
    bounds: jax.Array
    starts: jax.Array
    taken: jax.Array


def tile_boxes(splats: projection.Splats, grid: Grid) -> tuple[jax.Array, jax.Array]:
    """Boxes of tiles: low [N, 2] inclusive and high [N, 2] exclusive, int32; equal = none.

    As gsplat's: floor((centre - radius) / tile) to ceil((centre + radius) / tile).
    """
    limit = jnp.array([grid.columns, grid.rows], splats.means2d.dtype)
    size, zero = grid.tile_size, jnp.zeros_like(limit)
    low = jnp.clip(jnp.floor((splats.means2d - splats.radii) / size), zero, limit)
    high = jnp.clip(jnp.ceil((splats.means2d + splats.radii) / size), zero, limit)
    visible = jnp.all(splats.radii > 0, -1, keepdims=True)
    low = low.astype(jnp.int32)
    return low, jnp.where(visible, high.astype(jnp.int32), low)


def depth_keys(depths: jax.Array) -> jax.Array:
    """uint32 keys that sort as the depths do once rounded to float32."""
    bits = jax.lax.bitcast_convert_type(depths.astype(jnp.float32) + 0.0, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def depth_sorted_boxes(splats: projection.Splats, grid: Grid) -> Boxes:
    """Front-to-back ranks (ties by index) with their boxes."""
    low, high = tile_boxes(splats, grid)
    extent = jnp.maximum(high - low, 0)
    count = extent[:, 0] * extent[:, 1]
    keys = jnp.where(count > 0, depth_keys(splats.depths), jnp.uint32(2**32 - 1))
    index = jnp.arange(keys.shape[0], dtype=jnp.int32)
    _, order = jax.lax.sort((keys, index), num_keys=1, is_stable=True)
    return Boxes(order, low[order], extent[order, 0], count[order])


def saturating_cumsum(x: jax.Array) -> jax.Array:
    """Inclusive sums of counts [N] int32 >= 0 that stop at 2^31 - 1 instead of wrapping.

    A float32 sum, whose error is far below 2^30, tells where the int32 sum has wrapped.
    """
    rough = jnp.cumsum(x.astype(jnp.float32))
    return jnp.where(rough > 1.5 * 2**30, _INT_MAX, jnp.cumsum(x, dtype=jnp.int32))


def saturating_sum(x: jax.Array, axis: int = -1) -> jax.Array:
    """Sum of counts, int32 >= 0, at most 2^31 - 1."""
    rough = jnp.sum(x.astype(jnp.float32), axis)
    return jnp.where(rough > 1.5 * 2**30, _INT_MAX, jnp.sum(x, axis, dtype=jnp.int32))


def level(opacities: jax.Array) -> jax.Array:
    """Value of the conic's quadratic form at which alpha falls to ALPHA_MIN (2 sigma)."""
    gain = jnp.maximum(opacities, constants.ALPHA_MIN) / constants.ALPHA_MIN
    return jnp.minimum(constants.EXTENT**2, 2.0 * jnp.log(gain))


def ellipse_meets_tile(
    means2d: jax.Array, conics: jax.Array, levels: jax.Array, corner: jax.Array, tile_size: int
) -> jax.Array:
    """Whether alpha reaches ALPHA_MIN anywhere on a tile.

    The quadratic form is convex: its minimum over the tile is 0 if the centre is inside, and else
    lies on one of the two edges that face the centre, where it is a clipped 1D minimum.

    Args:
      means2d: [..., 2] pixels.
      conics: [..., 3].
      levels: [...] from `level`.
      corner: [..., 2] the tile's smallest pixel coordinates.
      tile_size: pixels.

    Returns:
      [...] bool. Rounding is allowed for: a tile is dropped only if it is safely missed.
    """
    a, b, c = conics[..., 0], conics[..., 1], conics[..., 2]
    near, far = corner - means2d, corner + tile_size - means2d
    (x0, y0), (x1, y1) = (near[..., 0], near[..., 1]), (far[..., 0], far[..., 1])
    beside, above = (x0 > 0) | (x1 < 0), (y0 > 0) | (y1 < 0)

    def reaches(x, y):
        squares = a * x * x + c * y * y
        # Squares of a long needle cancel against 2 b x y; allow for what float32 loses there.
        return squares + 2 * b * x * y <= levels + 1e-3 + 1e-6 * squares

    x_edge, y_edge = jnp.where(x0 > 0, x0, x1), jnp.where(y0 > 0, y0, y1)
    side = beside & reaches(x_edge, jnp.clip(-b * x_edge / c, y0, y1))
    top = above & reaches(jnp.clip(-b * y_edge / a, x0, x1), y_edge)
    return ~(beside | above) | side | top


def start_cursor(boxes: Boxes) -> Cursor:
    """Cursor before the first slot."""
    zero = jnp.zeros_like(boxes.count[..., 0])
    return Cursor(zero, zero)


def has_more(boxes: Boxes, cursor: Cursor) -> jax.Array:
    """Whether slots are left; leading axes are free."""
    return cursor.rank < jnp.sum(boxes.count > 0, -1, dtype=jnp.int32)


def take(
    boxes: Boxes,
    geometry: tuple[jax.Array, jax.Array, jax.Array] | None,
    cursor: Cursor,
    open_tiles: jax.Array | None,
    grid: Grid,
    capacity: int,
    packed: bool | None = None,
) -> tuple[Lists, Cursor]:
    """Lists of the next ``capacity`` slots, and the cursor behind them.

    Args:
      boxes: of one image.
      geometry: (means2d [N, 2], conics [N, 3], levels [N]) by rank, for the exact test; None keeps
        whole boxes.
      cursor: where to begin.
      open_tiles: [tiles] bool, tiles that still want Gaussians; None = all.
      grid: tiles of the image.
      capacity: slots a pass, at least 1.
      packed: sort one uint32 (tile, rank) key; None = where it fits. The alternative sorts by tile
        with the rank as payload and must be stable.
    """
    num = boxes.count.shape[0]
    ranks = jnp.arange(num, dtype=jnp.int32)
    first = ranks == cursor.rank
    taken = jnp.where(ranks < cursor.rank, 0, boxes.count - jnp.where(first, cursor.skipped, 0))
    ends = saturating_cumsum(taken)
    starts = ends - taken
    rank, tile = _slots(boxes, cursor, starts, taken, grid, capacity)
    used = jnp.arange(capacity, dtype=jnp.int32) < ends[-1]
    if geometry is not None:
        means2d, conics, levels = (g[rank] for g in geometry)
        corner = jnp.stack([tile % grid.columns, tile // grid.columns], -1) * grid.tile_size
        used &= ellipse_meets_tile(means2d, conics, levels, corner, grid.tile_size)
    if open_tiles is not None:
        used &= open_tiles[jnp.minimum(tile, grid.count - 1)]
    tile, rank = _sorted(jnp.where(used, tile, grid.count), rank, grid.count, num, packed)
    tiles = jnp.arange(grid.count + 1, dtype=jnp.int32)
    bounds = jnp.searchsorted(tile, tiles).astype(jnp.int32)

    done = jnp.sum(ends <= capacity, dtype=jnp.int32)
    last = jnp.minimum(done, num - 1)
    skipped = capacity - starts[last] + jnp.where(last == cursor.rank, cursor.skipped, 0)
    cursor = Cursor(done, jnp.where(done < num, skipped, 0))
    return Lists(tile, rank, bounds, starts, taken), cursor


def _slots(boxes, cursor, starts, taken, grid, capacity):
    """Rank and tile of every slot of the pass; slots beyond the last are arbitrary."""
    num = boxes.count.shape[0]
    slot = jnp.arange(capacity, dtype=jnp.int32)
    # A one at the start of each rank's run; the running sum counts ranks. Ranks that are not in
    # the pass aim at distinct places beyond the end.
    present = (taken > 0) & (starts < capacity)
    place = jnp.where(present, starts, capacity + jnp.arange(num, dtype=jnp.int32))
    marks = jnp.zeros((capacity,), jnp.int32)
    marks = marks.at[place].set(1, mode="drop", unique_indices=True)
    rank = jnp.clip(cursor.rank + jnp.cumsum(marks, dtype=jnp.int32) - 1, 0, num - 1)
    inside = slot - starts[rank] + jnp.where(rank == cursor.rank, cursor.skipped, 0)
    columns = jnp.maximum(boxes.columns[rank], 1)
    x = boxes.low[rank, 0] + inside % columns
    y = boxes.low[rank, 1] + inside // columns
    return rank, y * grid.columns + x


def _sorted(tile, rank, num_tiles, num, packed):
    """(tile, rank) ordered by tile, then rank. Ranks ascend on entry."""
    fits = (num_tiles + 1) * num < 2**32
    if packed is None:
        packed = fits
    if packed and not fits:
        raise ValueError(f"packed: {num_tiles} tiles x {num} Gaussians do not fit a uint32 key")
    if not packed:
        return jax.lax.sort((tile, rank), num_keys=1, is_stable=True)
    base = jnp.uint32(num)
    key = jax.lax.sort(tile.astype(jnp.uint32) * base + rank.astype(jnp.uint32), is_stable=False)
    return (key // base).astype(jnp.int32), (key % base).astype(jnp.int32)


def slots_of(lists: Lists, boxes: Boxes, cursor: Cursor, grid: Grid) -> jax.Array:
    """[capacity] slot of each list entry (capacity for unused ones), the inverse of the sort.

    Args:
      lists: one pass.
      boxes: of the same image.
      cursor: the one the pass began with.
      grid: tiles of the image.
    """
    low = boxes.low[lists.rank]
    x, y = lists.tile % grid.columns - low[:, 0], lists.tile // grid.columns - low[:, 1]
    inside = y * boxes.columns[lists.rank] + x
    inside -= jnp.where(lists.rank == cursor.rank, cursor.skipped, 0)
    slot = lists.starts[lists.rank] + inside
    return jnp.where(lists.tile < grid.count, slot, lists.tile.shape[0])


def tile_lists(
    splats: projection.Splats, width: int, height: int, *, tile_size: int, capacity: int,
    exact: bool = True, packed: bool | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Lists of one image in one pass, for tests and inspection.

    Args:
      splats: one image, no leading axes, N >= 1.
      width, height: pixels.
      tile_size: pixels.
      capacity: size of the buffer; must hold all boxes.
      exact: False keeps whole boxes (gsplat's torch reference), True drops tiles without any alpha
        of ALPHA_MIN.
      packed: see `take`.

    Returns:
      gaussian [capacity] int32 (index, in list order), bounds [tiles + 1] int32, and wanted: slots
      that all boxes need together, int32; more than capacity means that the lists are cut short.
    """
    grid = Grid(width, height, tile_size)
    boxes = depth_sorted_boxes(splats, grid)
    geometry = (splats.means2d, splats.conics, level(splats.opacities))
    geometry = tuple(g[boxes.order] for g in geometry) if exact else None
    lists, _ = take(boxes, geometry, start_cursor(boxes), None, grid, capacity, packed)
    return boxes.order[lists.rank], lists.bounds, saturating_sum(boxes.count)
