"""Passes of `xla_group`: which lists come next, and how the walk's lanes lie over them.

A *lane* is what walks a list: a tile with all its pixels, or one chosen pixel. Arrays of lanes are
[I, L, ...] here, I images and L lanes each, and flat in `xla_group_walk`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import devices
from gsjax.raster import project as projection
from gsjax.raster.blend import tiles
from gsjax.raster.blend import xla_group_walk as walk

DEFAULT_TILE_SIZE = 16
_PASS_SLOTS = 2**20  # an image
_ALL_SLOTS = 2**21  # all images together
_CPU_GROUP_PIXELS = 2**14


class Plan(NamedTuple):
    """Static settings of one call.

    Attributes:
      grid: tiles that are listed.
      capacity: slots an image takes each pass.
      max_alpha: upper bound of a Gaussian's alpha.
      group: lanes that walk together; None = all.
      lane_size: pixels along the side of a lane: those of a tile, or 1 for chosen pixels.
      absgrad: whether the backward pass sums absolute values for the means too.
    """

    grid: tiles.Grid
    capacity: int
    max_alpha: float
    group: int | None
    lane_size: int
    absgrad: bool = False


def plan(
    width: int, height: int, *, images: int, num: int, max_alpha: float,
    tile_size: int | None = None, capacity: int | None = None, group: int | None = None,
    chosen: bool = False, absgrad: bool = False,
) -> Plan:  # fmt: skip
    """Fills in what the caller leaves open. ``chosen``: lanes are chosen pixels, not tiles."""
    grid = tiles.Grid(width, height, tile_size or DEFAULT_TILE_SIZE)
    if capacity is None:
        capacity = min(grid.count * num, _PASS_SLOTS, max(_ALL_SLOTS // images, 2**12))
    lane_size = 1 if chosen else grid.tile_size
    if group is None and devices.abstract() is None and jax.default_backend() == "cpu":
        group = max(_CPU_GROUP_PIXELS // lane_size**2, 1)
    return Plan(grid, int(capacity), float(max_alpha), group, lane_size, absgrad)


def boxes(plan: Plan, splats: projection.Splats) -> tiles.Boxes:
    """Boxes of all images, front to back."""
    stopped = jax.lax.stop_gradient(splats)
    return jax.vmap(lambda s: tiles.depth_sorted_boxes(s, plan.grid))(stopped)


def by_rank(params: jax.Array, boxes: tiles.Boxes) -> jax.Array:
    """[I, N, D] rows of Gaussians -> rows of ranks."""
    return jnp.take_along_axis(params, boxes.order[..., None], 1)


def flat(x: jax.Array) -> jax.Array:
    """[I, L, ...] -> [I L, ...]."""
    return x.reshape(-1, *x.shape[2:])


def to_image(x: jax.Array, grid: tiles.Grid) -> jax.Array:
    """[I, tiles, X, pixels] -> [I, H, W, X]."""
    size = grid.tile_size
    x = x.reshape(x.shape[0], grid.rows, grid.columns, x.shape[2], size, size)
    x = x.transpose(0, 1, 4, 2, 5, 3)
    x = x.reshape(x.shape[0], grid.rows * size, grid.columns * size, x.shape[-1])
    return x[:, : grid.height, : grid.width]


def start(plan: Plan, images: int, pixels: jax.Array | None, dtype) -> jax.Array:
    """[I, L, P] transmittances before the first Gaussian; pixels off the image are closed (-1)."""
    if pixels is None:
        return jnp.ones((images, plan.grid.count, plan.grid.tile_size**2), dtype)
    size = jnp.array([plan.grid.width, plan.grid.height])
    inside = jnp.all((pixels >= 0) & (pixels < size), -1, keepdims=True)
    return jnp.where(inside, 1.0, -1.0).astype(dtype)


def active(boxes: tiles.Boxes, cursor: tiles.Cursor, signed: jax.Array) -> jax.Array:
    """[I] bool: Gaussians are left, and a pixel that could take them."""
    return tiles.has_more(boxes, cursor) & (jnp.max(signed, (1, 2)) > 0)


def next_lists(plan, ranked, boxes, cursor, signed, pixels):
    """Lists of the next pass of every image; tiles without an open pixel get nothing."""

    def one(rows, boxes, cursor, signed, pixels):
        geometry = rows[:, :2], rows[:, 2:5], tiles.level(rows[:, 5])
        is_open = jnp.max(signed, -1) > 0
        if pixels is not None:
            count = jnp.zeros(plan.grid.count, jnp.int32)
            is_open = count.at[_tile_of(plan, pixels)].add(is_open.astype(jnp.int32)) > 0
        return tiles.take(boxes, geometry, cursor, is_open, plan.grid, plan.capacity)

    return jax.vmap(one)(ranked, boxes, cursor, signed, pixels)


def lanes(plan: Plan, lists: tiles.Lists, num: int, pixels: jax.Array | None) -> walk.Lanes:
    """The walk's view of all lists: images side by side in one axis of lanes."""
    images = lists.rank.shape[0]
    image = jnp.arange(images, dtype=jnp.int32)[:, None]
    offset = image * plan.capacity
    begin, end = lists.bounds[:, :-1] + offset, lists.bounds[:, 1:] + offset
    if pixels is None:
        tile = jnp.arange(plan.grid.count, dtype=jnp.int32)
        corner = jnp.stack([tile % plan.grid.columns, tile // plan.grid.columns], -1)
        corner = jnp.tile(corner * plan.grid.tile_size, (images, 1))
    else:
        tile, corner = _tile_of(plan, pixels), flat(pixels)
        begin, end = (jnp.take_along_axis(edge, tile, 1) for edge in (begin, end))
    row = (lists.rank + image * num).reshape(-1)
    return walk.Lanes(row, begin.reshape(-1), end.reshape(-1), corner)


def _tile_of(plan, pixels):
    """[...] int32 tile of each pixel [..., 2]; pixels off the image count to its border."""
    limit = jnp.array([plan.grid.width, plan.grid.height], pixels.dtype) - 1
    column, row = jnp.moveaxis(jnp.clip(pixels, 0, limit) // plan.grid.tile_size, -1, 0)
    return row * plan.grid.columns + column
