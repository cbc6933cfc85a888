"""Passes of the kernel backends: XLA makes the lists, kernels blend them and find gradients.

Lists (`pairs`) come in passes of at most ``capacity`` slots an image; the state of the pixels is
carried from pass to pass, and the backward pass, front to back as well, replays them. Nothing is ever
cut off. More channels than a kernel takes at once go through it in parts that share the lists.

What a backend brings is `Kernels`: R rows of Gaussians, M tiles of P pixels, X channels of one part.
"""

import functools
import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gsjax.raster import constants
from gsjax.raster import project as projection
from gsjax.raster.blend import batching, pairs, tiles
from gsjax.raster.blend import xla_group_walk as walk

GEOMETRY = 6
"""Columns of a row before its features: mean x, y, conic A, B, C, opacity."""

_MIN_CAPACITY = 2**16


class Kernels(Protocol):
    """Kernels of a backend and their settings: static, hashable, equal where they do the same.

    Attributes:
      grid: tiles of an image.
      absgrad: gradient rows end with two more sums, for `reference.blend`'s absgrad_probe.
      max_channels: most channels of one part.
      max_capacity: most slots that a pass holds by default, over all images.
    """

    grid: tiles.Grid
    absgrad: bool
    max_channels: int
    max_capacity: int

    def planes(self, channels: int) -> int:
        """Planes that the kernels want for so many channels: as many or more."""

    def table(self, rows: jax.Array) -> jax.Array:
        """[R, 6 + X] -> what the kernels read of Gaussians."""

    def prepare(self, lists: pairs.Lists, num_rows: int):
        """Lists as `forward` and `backward` take them; once a pass."""

    def forward(self, channels, lists, table, signed, color):
        """signed [M, P] (transmittance, negative = closed) and color [M, planes, P] after a pass."""

    def backward(self, channels, lists, table, signed, rest, d_color):
        """signed and rest [M, P] after a pass, and what it adds to the sums of rows.

        The sums are [R, 6 + X (+ 2)]: over pixels, of q (dx, dy, dx^2, dx dy, dy^2, 1) with
        q = -dL/dsigma and (dx, dy) = mean - pixel, then the gradient by the features.
        """

    def to_image(self, x: jax.Array) -> jax.Array:
        """[M, X, P] -> [I, H, W, X]."""


class _Plan(NamedTuple):
    """Static settings of one call; capacity is that of one image."""

    kernels: Kernels
    capacity: int | None


def default_capacity(images: int, num: int, num_tiles: int, most: int) -> int:
    """Slots an image takes each pass: a guess of what it needs, at most `most` over all images."""
    guess = max(_MIN_CAPACITY, 8 * num + 64 * num_tiles)
    return max(1, min(num * num_tiles, guess, most // images))


def parts(channels: int, most: int) -> list[slice]:
    """Channels of each kernel call, of nearly equal number and at most `most`."""
    count = -(-channels // most)
    ends = [math.ceil(channels * k / count) for k in range(count + 1)]
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:])]


def blend(
    kernels: Kernels,
    splats: projection.Splats,
    features: jax.Array,
    capacity: int | None,
    absgrad_probe: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """What the backends' `blend` return; arguments as there, checked."""
    (images, num, channels), grid = features.shape, kernels.grid
    dtype = jnp.result_type(splats.means2d, features)
    if 0 in (images, num):
        none = jnp.zeros((images,), jnp.int32)
        color = jnp.zeros((images, grid.height, grid.width, channels), dtype)
        stats = dict(num_pairs=none, overflow=none, num_passes=none)
        return color, jnp.ones(color.shape[:3], dtype), stats
    if channels == 0:  # the transmittance still counts
        features = jnp.zeros((images, num, 1), dtype)
    params = (splats.means2d, splats.conics, splats.opacities[..., None], features)
    params = jnp.concatenate([p.astype(jnp.float32) for p in params], -1)
    probe = None if absgrad_probe is None else absgrad_probe.astype(jnp.float32)
    rows = pairs.depth_sorted_rows(jax.lax.stop_gradient(splats), grid)
    out = _composite(_Plan(kernels, capacity), params, probe, rows)
    color, transmittance, num_pairs, num_passes = out
    stats = dict(num_pairs=num_pairs, overflow=jnp.zeros_like(num_pairs), num_passes=num_passes)
    color = kernels.to_image(color)[..., :channels]
    transmittance = kernels.to_image(transmittance[:, None])[..., 0]
    return color.astype(dtype), transmittance.astype(dtype), stats


# --- derivative and batching ------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _composite(plan, params, absgrad_probe, rows):
    """params [I, N, 6 + X] -> color [M, X, P], transmittance [M, P], counts [I]."""
    del absgrad_probe  # its gradient is all there is to it
    return batching.fold_vmap(functools.partial(_forward, plan))(params, rows)


def _composite_fwd(plan, params, absgrad_probe, rows):
    out = _composite(plan, params, absgrad_probe, rows)
    return out, (params, rows, out[0], out[1])


def _composite_bwd(plan, residuals, cotangents):
    backward = batching.fold_vmap(functools.partial(_backward, plan))
    grad = backward(*residuals, cotangents[0], cotangents[1])
    width = residuals[0].shape[-1]
    return grad[..., :width], grad[..., width:] if plan.kernels.absgrad else None, None


_composite.defvjp(_composite_fwd, _composite_bwd)


# --- passes -----------------------------------------------------------------------------------


class _Scene(NamedTuple):
    """What every pass needs: boxes, and the Gaussians by row, a table for each part."""

    rows: pairs.Rows
    geometry: tuple[jax.Array, jax.Array, jax.Array]
    parts: list[slice]
    tables: list[jax.Array]
    capacity: int


def _scene(plan, ranked, rows):
    images, num = rows.order.shape
    kernels = plan.kernels
    guess = default_capacity(images, num, kernels.grid.count, kernels.max_capacity)
    split = parts(ranked.shape[1] - GEOMETRY, kernels.max_channels)
    shared, features = ranked[:, :GEOMETRY], ranked[:, GEOMETRY:]
    tables = [kernels.table(jnp.concatenate([shared, features[:, p]], -1)) for p in split]
    geometry = ranked[:, :2], ranked[:, 2:5], tiles.level(ranked[:, 5])
    return _Scene(rows, geometry, split, tables, images * (plan.capacity or guess))


def _channels(part):
    return part.stop - part.start


def _active(rows, cursor, signed):
    """[I] bool: Gaussians are left, and a pixel that could take them."""
    open_pixels = jnp.max(signed.reshape(rows.order.shape[0], -1), -1) > 0
    return (cursor.rank < pairs.image_ends(rows)) & open_pixels


def _next_lists(plan, scene, cursor, signed):
    """Lists of the next pass, plain and prepared; tiles without an open pixel get nothing."""
    kernels, is_open = plan.kernels, jnp.max(signed, -1) > 0
    lists, cursor = pairs.take(
        scene.rows, scene.geometry, cursor, is_open, kernels.grid, scene.capacity
    )
    return lists, kernels.prepare(lists, scene.rows.count.shape[0]), cursor


def _forward(plan, params, rows):
    (images, num, _), kernels = params.shape, plan.kernels
    scene = _scene(plan, pairs.by_row(params, rows), rows)
    first = jnp.arange(images, dtype=jnp.int32) * num

    def one_pass(state):
        cursor, signed, colors, counts = state
        active = _active(rows, cursor, signed)
        lists, prepared, cursor = _next_lists(plan, scene, cursor, signed)
        out = [
            kernels.forward(_channels(part), prepared, table, signed, color)
            for part, table, color in zip(scene.parts, scene.tables, colors)
        ]
        listed = jnp.diff(lists.bounds[:: kernels.grid.count])
        reached = (cursor.rank > first) | ((cursor.rank == first) & (cursor.skipped > 0))
        counts = (
            tiles.saturating_sum(jnp.stack([counts[0], listed]), 0),
            counts[1] + (active & reached),
        )
        out = walk.varying_like((params, rows), out)
        return cursor, out[0][0], [color for _, color in out], counts

    none = jnp.zeros((images,), jnp.int32)
    shape = images * kernels.grid.count, kernels.grid.tile_size**2
    planes = [kernels.planes(_channels(part)) for part in scene.parts]
    init = (
        pairs.start_cursor(rows),
        jnp.ones(shape, jnp.float32),
        [jnp.zeros((shape[0], count, shape[1]), jnp.float32) for count in planes],
        (none, none),
    )
    init = walk.varying_like((params, rows), init)
    _, signed, colors, counts = jax.lax.while_loop(
        lambda state: jnp.any(_active(rows, state[0], state[1])), one_pass, init
    )
    colors = [color[:, : _channels(part)] for part, color in zip(scene.parts, colors)]
    return jnp.concatenate(colors, 1), jnp.abs(signed), *counts


def _backward(plan, params, rows, color, transmittance, d_color, d_transmittance):
    """Gradient of params [I, N, 6 + X], and of the probe behind; replays the passes."""
    kernels, ranked = plan.kernels, pairs.by_row(params, rows)
    scene = _scene(plan, ranked, rows)
    # What is still to come of <cotangent, output>; that of the transmittance goes with the first.
    rests = [jnp.sum(d_color[:, p] * color[:, p], 1) for p in scene.parts]
    rests[0] += d_transmittance * transmittance
    d_colors = [_pad(d_color[:, p], kernels.planes(_channels(p))) for p in scene.parts]

    def one_pass(state):
        cursor, signed, rests, sums = state
        _, prepared, cursor = _next_lists(plan, scene, cursor, signed)
        out = [
            kernels.backward(_channels(part), prepared, table, signed, rest, cotangent)
            for part, table, rest, cotangent in zip(scene.parts, scene.tables, rests, d_colors)
        ]
        out = walk.varying_like((params, rows, color, d_color, d_transmittance), out)
        sums = [total + new for total, (_, _, new) in zip(sums, out)]
        return cursor, out[0][0], [rest for _, rest, _ in out], sums

    widths = [GEOMETRY + _channels(part) + 2 * kernels.absgrad for part in scene.parts]
    sums = [jnp.zeros((ranked.shape[0], width), jnp.float32) for width in widths]
    init = pairs.start_cursor(rows), jnp.ones_like(transmittance), rests, sums
    init = walk.varying_like((params, rows, color, d_color, d_transmittance), init)
    *_, sums = jax.lax.while_loop(
        lambda state: jnp.any(_active(rows, state[0], state[1])), one_pass, init
    )
    moments = sum(s[:, :GEOMETRY] for s in sums)
    grads = [geometry_gradients(moments, ranked), *(s[:, GEOMETRY:] for s in sums)]
    return pairs.by_gaussian(jnp.concatenate(grads, -1), rows)


def _pad(x, planes):
    return jnp.pad(x, ((0, 0), (0, planes - x.shape[1]), (0, 0)))


def geometry_gradients(moments: jax.Array, rows: jax.Array) -> jax.Array:
    """Gradient of (mean, conic, opacity) [R, 6] from the first six sums of `Kernels.backward`.

    With sigma = (A dx^2 + C dy^2) / 2 + B dx dy: dL/du = -(A s_x + B s_y), dL/dv alike,
    dL/d(A, B, C) = -(s_xx / 2, s_xy, s_yy / 2), dL/do = s / o.
    """
    sx, sy, sxx, sxy, syy, s = (moments[:, k] for k in range(GEOMETRY))
    a, b, c, opacity = (rows[:, k] for k in range(2, GEOMETRY))
    d_mean = -(a * sx + b * sy), -(b * sx + c * sy)
    d_conic = -0.5 * sxx, -sxy, -0.5 * syy
    return jnp.stack([*d_mean, *d_conic, s / jnp.maximum(opacity, constants.ALPHA_MIN)], -1)
