"""Tile masks: which parts of an image are rendered at all.

A mask has one bool a tile, True where it is rendered (gsplat's convention). It acts on both sides of
any backend: Gaussians that touch no open tile are hidden from it, and what it blends into closed
tiles all the same (Gaussians that touch open ones too) is dropped.
"""

import jax
import jax.numpy as jnp

from gsjax.raster import project as projection
from gsjax.raster.blend import tiles


def hide(
    splats: projection.Splats, open_tiles: jax.Array, width: int, height: int, tile_size: int
) -> projection.Splats:
    """Splats of one image with radii 0 where a Gaussian's box holds no open tile.

    Args:
      splats: without leading axes.
      open_tiles: [tile rows, tile columns] bool.
      width, height, tile_size: pixels.
    """
    grid = tiles.Grid(width, height, tile_size)
    low, high = tiles.tile_boxes(jax.lax.stop_gradient(splats), grid)
    # A summed-area table: the count of open tiles above and left of each corner.
    table = jnp.cumsum(jnp.cumsum(open_tiles.astype(jnp.int32), 0), 1)
    table = jnp.pad(table, ((1, 0), (1, 0)))

    def corner(x, y):
        return table[y[:, 1], x[:, 0]]

    count = corner(high, high) - corner(low, high) - corner(high, low) + corner(low, low)
    return splats._replace(radii=jnp.where(count[:, None] > 0, splats.radii, 0))


def to_pixels(open_tiles: jax.Array, width: int, height: int, tile_size: int) -> jax.Array:
    """[..., tile rows, tile columns] -> [..., height, width]."""
    wide = jnp.repeat(jnp.repeat(open_tiles, tile_size, -2), tile_size, -1)
    return wide[..., :height, :width]


def around(pixels: jax.Array, width: int, height: int, tile_size: int) -> jax.Array:
    """[tile rows, tile columns] bool: tiles that hold one of the pixels [P, 2] (column, row)."""
    grid = tiles.Grid(width, height, tile_size)
    inside = jnp.all((pixels >= 0) & (pixels < jnp.array([width, height])), -1)
    tile = jnp.where(inside[:, None], pixels, 0) // tile_size
    count = jnp.zeros((grid.rows, grid.columns), jnp.int32)
    return count.at[tile[:, 1], tile[:, 0]].add(inside.astype(jnp.int32)) > 0
