"""Tiled blending for accelerators without a kernel of their own: plain XLA, groups of tiles.

All tiles of all images walk their lists together, one Gaussian (of each tile) after the other, in
fused element-wise steps; on CPU in smaller groups of tiles with lists of similar length. Sequential
in depth, so the arithmetic per pixel is that of `reference`. The backward pass walks front to back
as well: what is still to come equals the total minus what has been, so it needs neither the index
of the last Gaussian nor a division by transmittances. No atomics; results are deterministic.

Lists come from `tiles` in passes of at most ``capacity`` slots an image; the state of the pixels
is carried from pass to pass, and the backward pass replays them. Nothing is ever cut off.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.raster import project as projection
from gsjax.raster import tiles
from gsjax.raster import xla_group_walk as walk

DEFAULT_TILE_SIZE = 16
_PASS_SLOTS = 2**20  # an image
_ALL_SLOTS = 2**21  # all images together
_CPU_GROUP_PIXELS = 2**14


class _Plan(NamedTuple):
    """Static settings of one call."""

    grid: tiles.Grid
    capacity: int
    max_alpha: float
    group: int | None


def blend(
    splats: projection.Splats,
    features: jax.Array,
    *,
    width: int,
    height: int,
    max_alpha: float,
    tile_size: int | None = None,
    capacity: int | None = None,
    group: int | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Front-to-back alpha blending of I images.

    Args:
      splats: projected Gaussians with one leading axis, I images.
      features: [I, N, X] what is blended.
      width, height: image size in pixels.
      max_alpha: upper bound of a Gaussian's alpha.
      tile_size: pixels; None = 16.
      capacity: slots an image takes each pass; None = what the scene can need, at most 2^20 and
        2^21 over all images. Only memory and time depend on it.
      group: tiles that walk together; None = all, on CPU as many as hold 16,384 pixels.

    Returns:
      color [I, H, W, X] without background, transmittance [I, H, W], and stats: num_pairs (tile
      intersections listed in the passes that ran), overflow (always 0) and num_passes, int32 [I].
    """
    images, num, channels = features.shape
    dtype = jnp.result_type(splats.means2d, features)
    if images == 0 or num == 0:
        none = jnp.zeros((images,), jnp.int32)
        color = jnp.zeros((images, height, width, channels), dtype)
        stats = dict(num_pairs=none, overflow=none, num_passes=none)
        return color, jnp.ones(color.shape[:3], dtype), stats
    plan = _plan(width, height, tile_size, capacity, max_alpha, group, images, num)
    params = (splats.means2d, splats.conics, splats.opacities[..., None], features)
    params = jnp.concatenate([p.astype(dtype) for p in params], -1)
    stopped = jax.lax.stop_gradient(splats)
    boxes = jax.vmap(lambda s: tiles.depth_sorted_boxes(s, plan.grid))(stopped)
    color, signed, pairs, passes = _composite(plan, params, boxes)
    color = _to_image(color, plan.grid)
    transmittance = _to_image(signed[:, :, None], plan.grid)[..., 0]
    stats = dict(num_pairs=pairs, overflow=jnp.zeros_like(pairs), num_passes=passes)
    return color, transmittance, stats


def _plan(width, height, tile_size, capacity, max_alpha, group, images, num):
    grid = tiles.Grid(width, height, tile_size or DEFAULT_TILE_SIZE)
    if capacity is None:
        capacity = min(grid.count * num, _PASS_SLOTS, max(_ALL_SLOTS // images, 2**12))
    if group is None and jax.default_backend() == "cpu":
        group = max(_CPU_GROUP_PIXELS // grid.tile_size**2, 1)
    return _Plan(grid, int(capacity), float(max_alpha), group)


def _to_image(x, grid):
    """[I, tiles, X, pixels] -> [I, H, W, X]."""
    size = grid.tile_size
    x = x.reshape(x.shape[0], grid.rows, grid.columns, x.shape[2], size, size)
    x = x.transpose(0, 1, 4, 2, 5, 3)
    x = x.reshape(x.shape[0], grid.rows * size, grid.columns * size, x.shape[-1])
    return x[:, : grid.height, : grid.width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _composite(plan, params, boxes):
    """params [I, N, 6 + X] -> color [I, tiles, X, P], transmittance [I, tiles, P], counts [I]."""
    return _fold_vmap(functools.partial(_forward, plan))(params, boxes)


def _composite_fwd(plan, params, boxes):
    out = _composite(plan, params, boxes)
    return out, (params, boxes, out[0], out[1])


def _composite_bwd(plan, residuals, cotangents):
    backward = _fold_vmap(functools.partial(_backward, plan))
    return backward(*residuals, cotangents[0], cotangents[1]), None


_composite.defvjp(_composite_fwd, _composite_bwd)


def _fold_vmap(fn):
    """``jax.vmap`` of ``fn`` joins the mapped axis to the leading axis of images.

    Mapping data-dependent loops would run all of them as long as the longest, and turn every
    branch into a select; more images are just more tiles.
    """
    mapped = jax.custom_batching.custom_vmap(fn)

    @mapped.def_vmap
    def _rule(axis_size, in_batched, *args):
        def join(batched, x):
            x = x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        out = mapped(*jax.tree.map(join, tuple(in_batched), args))
        out = jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return mapped


def _by_rank(params, boxes):
    return jnp.take_along_axis(params, boxes.order[..., None], 1)


def _next_lists(plan, ranked, boxes, cursor, signed):
    """Lists of the next pass of every image; tiles without an open pixel get nothing."""

    def one(rows, boxes, cursor, signed):
        geometry = rows[:, :2], rows[:, 2:5], tiles.level(rows[:, 5])
        is_open = jnp.max(signed, -1) > 0
        return tiles.take(boxes, geometry, cursor, is_open, plan.grid, plan.capacity)

    return jax.vmap(one)(ranked, boxes, cursor, signed)


def _active(boxes, cursor, signed):
    """[I] bool: Gaussians are left, and a pixel that could take them."""
    return tiles.has_more(boxes, cursor) & (jnp.max(signed, (1, 2)) > 0)


def _lanes(plan, lists, num):
    """The walk's view of all lists: images side by side in one tile axis."""
    images = lists.rank.shape[0]
    image = jnp.arange(images, dtype=jnp.int32)[:, None]
    offset = image * plan.capacity
    tile = jnp.arange(plan.grid.count, dtype=jnp.int32)
    corner = jnp.stack([tile % plan.grid.columns, tile // plan.grid.columns], -1)
    return walk.Lanes(
        row=(lists.rank + image * num).reshape(-1),
        begin=(lists.bounds[:, :-1] + offset).reshape(-1),
        end=(lists.bounds[:, 1:] + offset).reshape(-1),
        corner=jnp.tile(corner * plan.grid.tile_size, (images, 1)),
    )


def _flat(x):
    return x.reshape(-1, *x.shape[2:])


def _forward(plan, params, boxes):
    images, num, width = params.shape
    ranked = _by_rank(params, boxes)
    pixels = plan.grid.tile_size**2
    tile_shape = (images, plan.grid.count)
    init = (
        tiles.start_cursor(boxes),
        jnp.ones((*tile_shape, pixels), params.dtype),
        jnp.zeros((*tile_shape, width - 6, pixels), params.dtype),
        jnp.zeros((2, images), jnp.int32),
    )

    def one_pass(state):
        cursor, signed, color, counts = state
        active = _active(boxes, cursor, signed)
        lists, cursor = _next_lists(plan, ranked, boxes, cursor, signed)
        lanes = _lanes(plan, lists, num)
        out = walk.forward(
            _flat(ranked), lanes, _flat(signed), _flat(color), plan.grid.tile_size, plan.max_alpha,
            plan.group,
        )  # fmt: skip
        pairs = tiles.saturating_sum(jnp.stack([counts[0], lists.bounds[:, -1]]), 0)
        counts = jnp.stack([pairs, counts[1] + active])
        return cursor, out[0].reshape(signed.shape), out[1].reshape(color.shape), counts

    init = walk.varying_like((params, boxes), init)
    _, signed, color, counts = jax.lax.while_loop(
        lambda state: jnp.any(_active(boxes, state[0], state[1])), one_pass, init
    )
    return color, jnp.abs(signed), counts[0], counts[1]


def _backward(plan, params, boxes, color, transmittance, d_color, d_transmittance):
    """Gradient of params [I, N, 6 + X]; replays the passes of the forward."""
    num = params.shape[1]
    ranked = _by_rank(params, boxes)
    # What is still to come of <cotangent, output>, per pixel.
    rest = jnp.sum(d_color * color, 2) + d_transmittance * transmittance
    init = (
        tiles.start_cursor(boxes),
        jnp.ones_like(transmittance),
        rest,
        jnp.zeros_like(ranked),
    )

    def one_pass(state):
        cursor, signed, rest, grad = state
        lists, after = _next_lists(plan, ranked, boxes, cursor, signed)
        slots = jax.vmap(lambda *a: tiles.slots_of(*a, plan.grid))(lists, boxes, cursor)
        image = jnp.arange(slots.shape[0], dtype=jnp.int32)[:, None]
        unused = slots >= plan.capacity
        slots = jnp.where(unused, slots.size, slots + image * plan.capacity)
        signed_out, rest_out, pair_grad = walk.backward(
            _flat(ranked), _lanes(plan, lists, num), slots.reshape(-1), _flat(signed), _flat(rest),
            _flat(d_color), plan.grid.tile_size, plan.max_alpha, plan.group,
        )  # fmt: skip
        pair_grad = pair_grad.reshape(slots.shape[0], plan.capacity, -1)
        grad += jax.vmap(walk.sum_runs)(pair_grad, lists.starts, lists.taken)
        return after, signed_out.reshape(signed.shape), rest_out.reshape(rest.shape), grad

    init = walk.varying_like((params, boxes, color, d_color, d_transmittance), init)
    *_, grad = jax.lax.while_loop(
        lambda state: jnp.any(_active(boxes, state[0], state[1])), one_pass, init
    )
    inverse = jnp.argsort(boxes.order, axis=-1)  # rank -> Gaussian, by gathering
    return jnp.take_along_axis(grad, inverse[..., None], 1)
