"""Pair lists cut into blocks of 128 Gaussians: what the Mosaic TPU kernels read.

Every tile's list begins a new block, so that a block belongs to one tile: kernels need no masks, and
write the gradients of a block without looking at their neighbours. What is left of a tile's last
block is filled with a Gaussian that nobody sees.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.raster.blend import pairs
from gsjax.raster.blend.tpu import tile as tile_math


class Blocks(NamedTuple):
    """One pass, B blocks of 128 places.

    Attributes:
      first: [M + 1] int32, tile t owns the blocks [first[t], first[t + 1]).
      row: [B * 128] int32, row of the Gaussian at each place; R = nobody.
      place: [S] int32, place of each slot that is listed; arbitrary for others.
    """

    first: jax.Array
    row: jax.Array
    place: jax.Array


def bound(slots: int, num_tiles: int) -> int:
    """Most blocks that lists of ``slots`` entries in all can need."""
    return slots // tile_math.BLOCK + min(slots, num_tiles)


def cut(lists: pairs.Lists, num_rows: int) -> Blocks:
    """Blocks of the lists of a pass over ``num_rows`` rows."""
    slots, num_tiles = lists.row.shape[0], lists.bounds.shape[0] - 1
    count = -(-jnp.diff(lists.bounds) // tile_math.BLOCK)
    ends = jnp.cumsum(count, dtype=jnp.int32)
    first = jnp.concatenate([jnp.zeros((1,), jnp.int32), ends])
    total = bound(slots, num_tiles)

    # Each tile marks its first block; the running maximum fills its others. Tiles without a block
    # aim at distinct places beyond the end.
    number = jnp.arange(num_tiles, dtype=jnp.int32)
    marks = jnp.zeros((total,), jnp.int32)
    place = jnp.where(count > 0, first[:-1], total + number)
    tile = jax.lax.cummax(marks.at[place].set(number, mode="drop", unique_indices=True))

    block = jnp.arange(total, dtype=jnp.int32)
    begin = lists.bounds[tile] + (block - first[tile]) * tile_math.BLOCK
    entry = (begin[:, None] + jnp.arange(tile_math.BLOCK, dtype=jnp.int32)).reshape(-1)
    used = (entry < jnp.repeat(lists.bounds[tile + 1], tile_math.BLOCK)) & (
        jnp.repeat(block, tile_math.BLOCK) < ends[-1]
    )
    entry = jnp.minimum(entry, slots - 1)
    places = jnp.arange(entry.shape[0], dtype=jnp.int32)
    slot = jnp.where(used, lists.slot[entry], slots + places)
    place = jnp.zeros((slots,), jnp.int32)
    place = place.at[slot].set(places, mode="drop", unique_indices=True)
    return Blocks(first, jnp.where(used, lists.row[entry], num_rows), place)


def gather(table: jax.Array, blocks: Blocks) -> jax.Array:
    """Rows of a table [R + 1, W] in blocks: [B, W, 128]."""
    rows = table[blocks.row].reshape(-1, tile_math.BLOCK, table.shape[1])
    return rows.transpose(0, 2, 1)


def by_slot(x: jax.Array, blocks: Blocks, listed: jax.Array) -> jax.Array:
    """[B, W, 128] of places -> [S, W] of slots; zeros for those that are not listed."""
    rows = x.transpose(0, 2, 1).reshape(-1, x.shape[1])[blocks.place]
    return jnp.where(listed[:, None], rows, 0.0)
