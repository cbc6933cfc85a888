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

import jax
import jax.numpy as jnp

from gsjax.raster import project as projection
from gsjax.raster.blend import tiles
from gsjax.raster.blend import xla_group_passes as passes
from gsjax.raster.blend import xla_group_walk as walk
from gsjax.raster.blend.batching import fold_vmap

DEFAULT_TILE_SIZE = passes.DEFAULT_TILE_SIZE


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
    absgrad_probe: jax.Array | None = None,
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
      absgrad_probe: [I, N, 2], see `reference.blend`.

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
    plan = passes.plan(
        width, height, images=images, num=num, max_alpha=max_alpha, tile_size=tile_size,
        capacity=capacity, group=group, absgrad=absgrad_probe is not None,
    )  # fmt: skip
    params = _params(splats, features)
    boxes = passes.boxes(plan, splats)
    color, signed, pairs, count = _composite(plan, params, absgrad_probe, boxes, None)
    color = passes.to_image(color, plan.grid)
    transmittance = passes.to_image(signed[:, :, None], plan.grid)[..., 0]
    stats = dict(num_pairs=pairs, overflow=jnp.zeros_like(pairs), num_passes=count)
    return color, transmittance, stats


def blend_pixels(
    splats: projection.Splats,
    features: jax.Array,
    pixels: jax.Array,
    *,
    width: int,
    height: int,
    max_alpha: float,
    tile_size: int | None = None,
    capacity: int | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """`blend` at chosen pixels only: the same arithmetic, without the rest of the image.

    Tiles without a chosen pixel are not listed. Gradients of pixels that share a tile meet in a
    scatter-add, whose order a GPU does not fix.

    Args:
      pixels: [I, P, 2] int32 (column, row); those off the image stay empty.
      splats, features, width, height, max_alpha, tile_size, capacity: as in `blend`.

    Returns:
      color [I, P, X], transmittance [I, P], stats as of `blend`.
    """
    images, num, channels = features.shape
    dtype = jnp.result_type(splats.means2d, features)
    if 0 in (images, num, pixels.shape[1]):
        none = jnp.zeros((images,), jnp.int32)
        color = jnp.zeros((*pixels.shape[:2], channels), dtype)
        stats = dict(num_pairs=none, overflow=none, num_passes=none)
        return color, jnp.ones(color.shape[:2], dtype), stats
    plan = passes.plan(
        width, height, images=images, num=num, max_alpha=max_alpha, tile_size=tile_size,
        capacity=capacity, chosen=True,
    )  # fmt: skip
    boxes = passes.boxes(plan, splats)
    out = _composite(plan, _params(splats, features), None, boxes, pixels)
    color, transmittance, pairs, count = out
    stats = dict(num_pairs=pairs, overflow=jnp.zeros_like(pairs), num_passes=count)
    return color[..., 0], transmittance[..., 0], stats


def _params(splats, features):
    """[I, N, 6 + X] the walk's rows by Gaussian."""
    dtype = jnp.result_type(splats.means2d, features)
    params = (splats.means2d, splats.conics, splats.opacities[..., None], features)
    return jnp.concatenate([p.astype(dtype) for p in params], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _composite(plan, params, absgrad_probe, boxes, pixels):
    """params [I, N, 6 + X] -> color [I, L, X, P], transmittance [I, L, P], counts [I]."""
    del absgrad_probe  # its gradient is all there is to it
    return fold_vmap(functools.partial(_forward, plan))(params, boxes, pixels)


def _composite_fwd(plan, params, absgrad_probe, boxes, pixels):
    out = _composite(plan, params, absgrad_probe, boxes, pixels)
    return out, (params, boxes, pixels, out[0], out[1])


def _composite_bwd(plan, residuals, cotangents):
    backward = fold_vmap(functools.partial(_backward, plan))
    grad = backward(*residuals, cotangents[0], cotangents[1])
    width = residuals[0].shape[-1]
    probe_grad = grad[..., width:] if plan.absgrad else None
    return grad[..., :width], probe_grad, None, None


_composite.defvjp(_composite_fwd, _composite_bwd)


def _forward(plan, params, boxes, pixels):
    images, num, width = params.shape
    ranked = passes.by_rank(params, boxes)
    signed = passes.start(plan, images, pixels, params.dtype)
    init = (
        tiles.start_cursor(boxes),
        signed,
        jnp.zeros((*signed.shape[:2], width - 6, signed.shape[2]), params.dtype),
        jnp.zeros((2, images), jnp.int32),
    )

    def one_pass(state):
        cursor, signed, color, counts = state
        active = passes.active(boxes, cursor, signed)
        lists, cursor = passes.next_lists(plan, ranked, boxes, cursor, signed, pixels)
        out = walk.forward(
            passes.flat(ranked), passes.lanes(plan, lists, num, pixels), passes.flat(signed),
            passes.flat(color), plan.lane_size, plan.max_alpha, plan.group,
        )  # fmt: skip
        pairs = tiles.saturating_sum(jnp.stack([counts[0], lists.bounds[:, -1]]), 0)
        counts = jnp.stack([pairs, counts[1] + active])
        return cursor, out[0].reshape(signed.shape), out[1].reshape(color.shape), counts

    init = walk.varying_like((params, boxes), init)
    _, signed, color, counts = jax.lax.while_loop(
        lambda state: jnp.any(passes.active(boxes, state[0], state[1])), one_pass, init
    )
    return color, jnp.abs(signed), counts[0], counts[1]


def _backward(plan, params, boxes, pixels, color, transmittance, d_color, d_transmittance):
    """Gradient of params [I, N, 6 + X (+ 2)]; replays the passes of the forward."""
    images, num, width = params.shape
    ranked = passes.by_rank(params, boxes)
    # What is still to come of <cotangent, output>, per pixel.
    rest = jnp.sum(d_color * color, 2) + d_transmittance * transmittance
    init = (
        tiles.start_cursor(boxes),
        passes.start(plan, images, pixels, transmittance.dtype),
        rest,
        jnp.zeros((images, num, width + 2 * plan.absgrad), params.dtype),
    )

    def one_pass(state):
        cursor, signed, rest, grad = state
        lists, after = passes.next_lists(plan, ranked, boxes, cursor, signed, pixels)
        slots = jax.vmap(lambda *a: tiles.slots_of(*a, plan.grid))(lists, boxes, cursor)
        image = jnp.arange(slots.shape[0], dtype=jnp.int32)[:, None]
        unused = slots >= plan.capacity
        slots = jnp.where(unused, slots.size, slots + image * plan.capacity)
        signed_out, rest_out, pair_grad = walk.backward(
            passes.flat(ranked), passes.lanes(plan, lists, num, pixels), slots.reshape(-1),
            passes.flat(signed), passes.flat(rest), passes.flat(d_color), plan.lane_size,
            plan.max_alpha, plan.group, shared=pixels is not None, absgrad=plan.absgrad,
        )  # fmt: skip
        pair_grad = pair_grad.reshape(slots.shape[0], plan.capacity, -1)
        grad += jax.vmap(walk.sum_runs)(pair_grad, lists.starts, lists.taken)
        return after, signed_out.reshape(signed.shape), rest_out.reshape(rest.shape), grad

    init = walk.varying_like((params, boxes, color, d_color, d_transmittance), init)
    *_, grad = jax.lax.while_loop(
        lambda state: jnp.any(passes.active(boxes, state[0], state[1])), one_pass, init
    )
    inverse = jnp.argsort(boxes.order, axis=-1)  # rank -> Gaussian, by gathering
    return jnp.take_along_axis(grad, inverse[..., None], 1)
