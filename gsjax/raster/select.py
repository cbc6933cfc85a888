"""Which Gaussians a pixel sees: the first, the median, and the k that contribute most.

One walk over the tile lists of `xla_group`, whatever the backend that blends: it keeps a few integers
a pixel instead of a colour. Nothing here is differentiable; what is looked up with the answer (a
depth, a feature) is, in the ordinary way.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gsjax.raster import project as projection
from gsjax.raster.blend import tiles
from gsjax.raster.blend import xla_group_passes as passes
from gsjax.raster.blend import xla_group_walk as walk
from gsjax.raster.blend.batching import fold_vmap


def first(splats: projection.Splats, **options) -> jax.Array:
    """[I, H, W] int32: the nearest Gaussian with a weight (alpha of at least 1/255); -1 for none."""
    return _first_where(lambda weight, left: weight > 0, splats, **options)


def median(splats: projection.Splats, **options) -> jax.Array:
    """[I, H, W] int32: the Gaussian that takes the transmittance from above 0.5 to 0.5 or less.

    -1 where it stays above.
    """
    return _first_where(lambda weight, left: (weight > 0) & (left <= 0.5), splats, **options)


def _first_where(test, splats, **options):
    """[I, H, W] the first Gaussian for which test(weight, transmittance behind it)."""

    def visit(chosen, row, weight, left):
        return jnp.where((chosen < 0) & test(weight, left), row[:, None], chosen)

    def begin(shape):
        return jnp.full(shape, -1, jnp.int32)

    if 0 in splats.depths.shape:
        return begin((splats.depths.shape[0], options["height"], options["width"]))
    chosen, grid = trace(splats, begin, visit, **options)
    return passes.to_image(chosen[:, :, None], grid)[..., 0]


def trace(
    splats: projection.Splats,
    begin: Callable,
    visit: Callable,
    *,
    width: int,
    height: int,
    max_alpha: float,
    tile_size: int | None = None,
    capacity: int | None = None,
    group: int | None = None,
):
    """Shows every pixel its Gaussians, front to back, as blending meets them.

    Args:
      splats: one leading axis of I >= 1 images, N >= 1 Gaussians.
      begin: shape [I, L, P] (tiles, pixels of a tile) -> state, arrays with leading axes [I, L].
      visit: see `xla_group_walk.trace`. Integers in the state are rows, -1 for none.
      width, height, max_alpha, tile_size, capacity, group: as in `xla_group.blend`.

    Returns:
      The state [I, L, ...], with Gaussians in place of rows, and the grid of tiles.
    """
    images, num = splats.depths.shape
    plan = passes.plan(
        width, height, images=images, num=num, max_alpha=max_alpha, tile_size=tile_size,
        capacity=capacity, group=group,
    )  # fmt: skip
    stopped = jax.lax.stop_gradient(splats)
    rows = (stopped.means2d, stopped.conics, stopped.opacities[..., None])
    rows = jnp.concatenate(rows, -1)
    traced = fold_vmap(lambda rows, boxes: _trace(plan, rows, boxes, begin, visit))
    return traced(rows, passes.boxes(plan, splats)), plan.grid


def _trace(plan, rows, boxes, begin, visit):
    """State of all passes; rows [I, N, 6]."""
    images, num, _ = rows.shape
    ranked = passes.by_rank(rows, boxes)
    signed = passes.start(plan, images, None, rows.dtype)
    init = tiles.start_cursor(boxes), signed, begin(signed.shape)

    def one_pass(carry):
        cursor, signed, state = carry
        lists, cursor = passes.next_lists(plan, ranked, boxes, cursor, signed, None)
        signed_out, out = walk.trace(
            passes.flat(ranked), passes.lanes(plan, lists, num, None), passes.flat(signed),
            jax.tree.map(passes.flat, state), visit, plan.lane_size, plan.max_alpha, plan.group,
        )  # fmt: skip
        out = jax.tree.map(lambda new, old: new.reshape(old.shape), out, state)
        return cursor, signed_out.reshape(signed.shape), out

    _, _, state = jax.lax.while_loop(
        lambda carry: jnp.any(passes.active(boxes, carry[0], carry[1])),
        one_pass,
        walk.varying_like((rows, boxes), init),
    )
    order = boxes.order.reshape(-1)

    def by_index(x):
        is_row = jnp.issubdtype(x.dtype, jnp.integer)
        return jnp.where(x >= 0, order[jnp.maximum(x, 0)], -1) if is_row else x

    return jax.tree.map(by_index, state)
