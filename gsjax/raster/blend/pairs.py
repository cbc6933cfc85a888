"""Pair lists for the kernels: every (tile, Gaussian) pair of all images in one list, sorted by tile.

The Gaussians of I images form one axis of *rows*, image after image and front to back inside each:
row = image * N + rank. The tiles of all images form another: image * tiles + tile. As in `tiles`, a
row's box of tiles is laid out as consecutive *slots*; a pass takes the next ``capacity`` slots,
drops those whose tile the ellipse misses or that are closed, and sorts the rest by tile. Slots
ascend with depth and the sort is stable, so lists come out front to back, and what does not fit the
buffer comes with the next pass: nothing is ever cut off.

The sort has one key, uint16 where the tiles allow, and one int32 payload, the slot: what XLA hands
to CUB's radix sort on GPUs, whose cost follows the width of the key. The payload gives the row by a
lookup, and tells a kernel where to put the gradient of an entry so that those of one Gaussian lie
side by side. No gradients here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.raster import project as projection
from gsjax.raster.blend import tiles


class Rows(NamedTuple):
    """Boxes of the Gaussians of all images, R = I * N.

    Attributes:
      order: [I, N] int32, the Gaussian of each rank.
      low: [R, 2] int32, first tile column and row of the box.
      columns: [R] int32, tile columns of the box.
      count: [R] int32, tiles of the box; 0 for those that are culled, the last of their image.
    """

    order: jax.Array
    low: jax.Array
    columns: jax.Array
    count: jax.Array


class Lists(NamedTuple):
    """One pass: tile t owns entries [bounds[t], bounds[t + 1]).

    Attributes:
      row: [capacity] int32, row of each entry, ascending inside a tile.
      slot: [capacity] int32, slot of each entry; a permutation.
      bounds: [I * tiles + 1] int32.
      listed: [capacity] bool by slot: whether the slot is in a list.
      starts: [R] int32, first slot of each row in this pass (at least capacity: not in it).
      taken: [R] int32, slots each row still had when the pass began.
    """

    row: jax.Array
    slot: jax.Array
    bounds: jax.Array
    listed: jax.Array
    starts: jax.Array
    taken: jax.Array


def depth_sorted_rows(splats: projection.Splats, grid: tiles.Grid) -> Rows:
    """Rows of I images; splats have one leading axis. Equal depths keep the order given."""
    boxes = jax.vmap(lambda s: tiles.depth_sorted_boxes(s, grid))(splats)
    return Rows(boxes.order, *(x.reshape(-1, *x.shape[2:]) for x in boxes[1:]))


def by_row(x: jax.Array, rows: Rows) -> jax.Array:
    """[I, N, D] of Gaussians -> [R, D] of rows."""
    return jnp.take_along_axis(x, rows.order[..., None], 1).reshape(-1, x.shape[-1])


def by_gaussian(x: jax.Array, rows: Rows) -> jax.Array:
    """[R, D] of rows -> [I, N, D] of Gaussians. Each place is written once: deterministic."""
    images, num = rows.order.shape
    place = rows.order + jnp.arange(images, dtype=jnp.int32)[:, None] * num
    out = jnp.zeros_like(x).at[place.reshape(-1)].set(x, unique_indices=True)
    return out.reshape(images, num, -1)


def image_ends(rows: Rows) -> jax.Array:
    """[I] int32: one past the last row of each image that touches a tile."""
    images, num = rows.order.shape
    visible = jnp.sum(rows.count.reshape(images, num) > 0, -1, dtype=jnp.int32)
    return jnp.arange(images, dtype=jnp.int32) * num + visible


def start_cursor(rows: Rows) -> tiles.Cursor:
    """Cursor before the first slot; its rank counts rows, R = nothing left."""
    empty = jnp.all(rows.count == 0)
    first = jnp.where(empty, rows.count.shape[0], jnp.argmax(rows.count > 0))
    return tiles.Cursor(first.astype(jnp.int32), jnp.zeros((), jnp.int32))


def take(
    rows: Rows,
    geometry: tuple[jax.Array, jax.Array, jax.Array] | None,
    cursor: tiles.Cursor,
    open_tiles: jax.Array | None,
    grid: tiles.Grid,
    capacity: int,
) -> tuple[Lists, tiles.Cursor]:
    """Lists of the next ``capacity`` slots, and the cursor behind them.

    Args:
      rows: of all images.
      geometry: (means2d [R, 2], conics [R, 3], levels [R]) by row, for the exact test of tiles;
        None keeps whole boxes.
      cursor: where to begin.
      open_tiles: [I * tiles] bool, tiles that still want Gaussians; None = all.
      grid: tiles of one image.
      capacity: slots a pass, at least 1; all images share them.
    """
    number = jnp.arange(rows.count.shape[0], dtype=jnp.int32)
    skipped = jnp.where(number == cursor.rank, cursor.skipped, 0)
    taken = jnp.where(number < cursor.rank, 0, rows.count - skipped)
    ends = tiles.saturating_cumsum(taken)
    starts = ends - taken

    row, column, line = _slots(rows, starts, taken, skipped, capacity)
    num_tiles = rows.order.shape[0] * grid.count
    tile = row // rows.order.shape[1] * grid.count + line * grid.columns + column
    listed = jnp.arange(capacity, dtype=jnp.int32) < ends[-1]
    if geometry is not None:
        means2d, conics, levels = (g[row] for g in geometry)
        corner = jnp.stack([column, line], -1) * grid.tile_size
        listed &= tiles.ellipse_meets_tile(means2d, conics, levels, corner, grid.tile_size)
    if open_tiles is not None:
        listed &= open_tiles[jnp.minimum(tile, num_tiles - 1)]
    slot, bounds = sort_by_tile(jnp.where(listed, tile, num_tiles), num_tiles)
    lists = Lists(row[slot], slot, bounds, listed, starts, taken)
    return lists, _advance(cursor, starts, ends, capacity)


def _slots(rows, starts, taken, skipped, capacity):
    """Row, tile column and tile row of every slot; arbitrary beyond the last."""
    num = taken.shape[0]
    number = jnp.arange(num, dtype=jnp.int32)
    # Each row in the pass marks its first slot; the running maximum fills its others. Rows that
    # are not in the pass aim at distinct places beyond the end.
    place = jnp.where((taken > 0) & (starts < capacity), starts, capacity + number)
    marks = jnp.zeros((capacity,), jnp.int32)
    marks = marks.at[place].set(number, mode="drop", unique_indices=True)
    row = jax.lax.cummax(marks)
    inside = jnp.arange(capacity, dtype=jnp.int32) - (starts - skipped)[row]
    columns = jnp.maximum(rows.columns[row], 1)
    return row, rows.low[row, 0] + inside % columns, rows.low[row, 1] + inside // columns


def _advance(cursor, starts, ends, capacity):
    """Cursor behind the slots [0, capacity)."""
    num = ends.shape[0]
    done = jnp.sum(ends <= capacity, dtype=jnp.int32)
    last = jnp.minimum(done, num - 1)
    skipped = capacity - starts[last] + jnp.where(last == cursor.rank, cursor.skipped, 0)
    return tiles.Cursor(done, jnp.where(done < num, skipped, 0))


def sort_by_tile(tile: jax.Array, num_tiles: int) -> tuple[jax.Array, jax.Array]:
    """Stable sort of slots by tile.

    Args:
      tile: [S] int32 in [0, num_tiles]; num_tiles = in no list.
      num_tiles: tiles of all images.

    Returns:
      slot [S] int32, the slots in list order (unlisted ones last), and bounds [num_tiles + 1] int32.
    """
    size = tile.shape[0]
    entry = jnp.arange(size, dtype=jnp.int32)
    key = tile.astype(jnp.uint16 if num_tiles < 2**16 else jnp.uint32)
    key, slot = jax.lax.sort((key, entry), num_keys=1, is_stable=True)
    key = key.astype(jnp.int32)
    # A list begins where the key differs from its neighbour; empty lists begin where the next does.
    begins = jnp.concatenate([jnp.ones((1,), bool), key[1:] != key[:-1]])
    place = jnp.where(begins, key, num_tiles + 1 + entry)
    first = jnp.full((num_tiles + 1,), size, jnp.int32)
    first = first.at[place].set(entry, mode="drop", unique_indices=True)
    return slot, jax.lax.cummin(first, reverse=True)
