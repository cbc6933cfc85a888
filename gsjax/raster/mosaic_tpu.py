"""Blending by Pallas kernels for TPUs (Mosaic).

XLA makes the lists (`pairs`), cuts them into blocks of 128 Gaussians (`mosaic_tpu_blocks`) and adds
up the gradients; the kernels `mosaic_tpu_forward` and `mosaic_tpu_backward` walk the blocks of a tile.
More than 512 channels go through the kernels in parts that share the lists.

Lists come in passes of at most ``capacity`` slots an image; the state of the pixels is carried from
pass to pass, and the backward pass, front to back as well, replays them. Nothing is ever cut off.
The gradient of a pair is one row, and rows are added up in a fixed order: results are the same bit
for bit every time. The arithmetic is float32 whatever the type of the inputs, and matrix products
have float32's precision.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.raster import (
    batching,
    constants,
    mosaic_tpu_backward,
    mosaic_tpu_blocks,
    mosaic_tpu_forward,
    pairs,
    tiles,
)
from gsjax.raster import mosaic_tpu_tile as tile_math
from gsjax.raster import project as projection
from gsjax.raster import xla_group_walk as walk

DEFAULT_TILE_SIZE = tile_math.SIZE
MAX_CAPACITY = 2**22
"""Most slots that a pass holds by default, over all images."""

_MIN_CAPACITY = 2**16
_MAX_TILES = 2**16
"""Most tiles of one kernel call: the numbers of their first blocks lie in scalar memory."""


class _Plan(NamedTuple):
    """Static settings of one call; capacity is that of one image."""

    grid: tiles.Grid
    capacity: int | None
    max_alpha: float
    interpret: object


def unavailable() -> str | None:
    """Why this backend cannot serve the device that JAX would use; None where it can.

    An abstract device (`jax.sharding.use_abstract_mesh`), for which one compiles ahead of time, goes
    before the default device.
    """
    abstract = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if abstract is not None:
        ok = getattr(abstract, "platform", None) == "tpu"
        return None if ok else f"compiling for {abstract}, which is no TPU"
    device = jax.config.jax_default_device
    if device is None or isinstance(device, str):
        device = jax.devices(device)[0]
    if device.platform == "tpu":
        return None
    return f"JAX's device is {device.device_kind!r} ({device.platform}), not a TPU"


def default_capacity(images: int, num: int, num_tiles: int) -> int:
    """Slots an image takes each pass: a guess of what it needs, bounded over all images."""
    guess = max(_MIN_CAPACITY, 8 * num + 64 * num_tiles)
    return max(1, min(num * num_tiles, guess, MAX_CAPACITY // images))


def blend(
    splats: projection.Splats,
    features: jax.Array,
    *,
    width: int,
    height: int,
    max_alpha: float,
    tile_size: int | None = None,
    capacity: int | None = None,
    interpret: object = False,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Front-to-back alpha blending of I images (3DGS, arXiv 2308.04079, Eq. 3).

    Args:
      splats: projected Gaussians with one leading axis, I images.
      features: [I, N, X] what is blended; any X.
      width, height: image size in pixels.
      max_alpha: upper bound of a Gaussian's alpha.
      tile_size: None or 16.
      capacity: slots an image takes each pass; None is `default_capacity`. It changes memory and
        time, never the image.
      interpret: `pltpu.InterpretParams()` runs the kernels on CPU, slowly.

    Returns:
      color [I, H, W, X] without background, transmittance [I, H, W], and stats: num_pairs (tile
      intersections listed in the passes that ran), overflow (always 0) and num_passes, int32 [I].

    Raises:
      ValueError: another tile size.
      NotImplementedError: the device cannot run the kernels.
    """
    _check(tile_size, interpret)
    images, num, channels = features.shape
    dtype = jnp.result_type(splats.means2d, features)
    if 0 in (images, num):
        return _nothing(images, height, width, channels, dtype)
    if channels == 0:  # the transmittance still counts
        features = jnp.zeros((images, num, 1), dtype)
    grid = tiles.Grid(width, height, tile_math.SIZE)
    plan = _Plan(grid, capacity, float(max_alpha), interpret)
    params = (splats.means2d, splats.conics, splats.opacities[..., None], features)
    params = jnp.concatenate([p.astype(jnp.float32) for p in params], -1)
    rows = pairs.depth_sorted_rows(jax.lax.stop_gradient(splats), grid)
    color, transmittance, num_pairs, num_passes = _composite(plan, params, rows)
    stats = dict(num_pairs=num_pairs, overflow=jnp.zeros_like(num_pairs), num_passes=num_passes)
    color = tile_math.to_image(color, grid)
    transmittance = tile_math.to_image(transmittance, grid)[..., 0]
    return color[..., :channels].astype(dtype), transmittance.astype(dtype), stats


def _check(tile_size, interpret):
    if tile_size not in (None, tile_math.SIZE):
        raise ValueError(f"tile_size: found {tile_size}, mosaic_tpu has tiles of 16 pixels only")
    if not interpret and (reason := unavailable()):
        raise NotImplementedError(
            f"backend 'mosaic_tpu' cannot serve: {reason}; use backend=None or 'xla_group'"
        )


def _nothing(images, height, width, channels, dtype):
    none = jnp.zeros((images,), jnp.int32)
    color = jnp.zeros((images, height, width, channels), dtype)
    stats = dict(num_pairs=none, overflow=none, num_passes=none)
    return color, jnp.ones(color.shape[:3], dtype), stats


# --- derivative and batching ------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _composite(plan, params, rows):
    """params [I, N, 6 + X] -> color [M, X, 256], transmittance [M, 1, 256], counts [I]; M tiles."""
    return batching.fold_vmap(functools.partial(_forward, plan))(params, rows)


def _composite_fwd(plan, params, rows):
    out = _composite(plan, params, rows)
    return out, (params, rows, out[0], out[1])


def _composite_bwd(plan, residuals, cotangents):
    backward = batching.fold_vmap(functools.partial(_backward, plan))
    return backward(*residuals, cotangents[0], cotangents[1]), None


_composite.defvjp(_composite_fwd, _composite_bwd)


# --- passes -----------------------------------------------------------------------------------


class _Scene(NamedTuple):
    """What every pass needs: boxes, and the Gaussians by row."""

    rows: pairs.Rows
    geometry: tuple[jax.Array, jax.Array, jax.Array]
    tables: list[jax.Array]
    specs: list[tile_math.Spec]
    capacity: int


def _parts(channels: int) -> list[slice]:
    """Channels of each kernel call, of nearly equal number."""
    count = -(-channels // tile_math.MAX_CHANNELS)
    ends = [math.ceil(channels * k / count) for k in range(count + 1)]
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:])]


def _scene(plan, ranked, rows):
    images, num = rows.order.shape
    grid, size = plan.grid, tile_math.SUMS
    capacity = plan.capacity or default_capacity(images, num, grid.count)
    parts = _parts(ranked.shape[1] - size)
    tables = [
        tile_math.table(jnp.concatenate([ranked[:, :size], ranked[:, size:][:, p]], -1))
        for p in parts
    ]
    settings = dict(max_alpha=plan.max_alpha, interpret=plan.interpret)
    specs = [tile_math.Spec(grid.columns, grid.count, p.stop - p.start, **settings) for p in parts]
    geometry = ranked[:, :2], ranked[:, 2:5], tiles.level(ranked[:, 5])
    return _Scene(rows, geometry, tables, specs, images * capacity)


def _active(rows, cursor, signed):
    """[I] bool: Gaussians are left, and a pixel that could take them."""
    open_pixels = jnp.max(signed.reshape(rows.order.shape[0], -1), -1) > 0
    return (cursor.rank < pairs.image_ends(rows)) & open_pixels


def _next_lists(plan, scene, cursor, signed):
    """Lists of the next pass, the same in blocks; tiles without an open pixel get nothing."""
    is_open = jnp.max(signed, (1, 2)) > 0
    lists, cursor = pairs.take(
        scene.rows, scene.geometry, cursor, is_open, plan.grid, scene.capacity
    )
    return lists, mosaic_tpu_blocks.cut(lists, scene.rows.count.shape[0]), cursor


def _forward(plan, params, rows):
    images, num, _ = params.shape
    scene = _scene(plan, pairs.by_row(params, rows), rows)
    count = images * plan.grid.count
    first = jnp.arange(images, dtype=jnp.int32) * num

    def one_pass(state):
        cursor, signed, colors, counts = state
        active = _active(rows, cursor, signed)
        lists, blocks, cursor = _next_lists(plan, scene, cursor, signed)
        out = [
            _forward_tiles(spec, blocks, table, signed, color)
            for spec, table, color in zip(scene.specs, scene.tables, colors)
        ]
        listed = jnp.diff(lists.bounds[:: plan.grid.count])
        reached = (cursor.rank > first) | ((cursor.rank == first) & (cursor.skipped > 0))
        counts = (
            tiles.saturating_sum(jnp.stack([counts[0], listed]), 0),
            counts[1] + (active & reached),
        )
        return cursor, out[0][0], [color for _, color in out], counts

    none = jnp.zeros((images,), jnp.int32)
    init = (
        pairs.start_cursor(rows),
        jnp.ones((count, 1, tile_math.PIXELS), jnp.float32),
        [jnp.zeros((count, s.features, tile_math.PIXELS), jnp.float32) for s in scene.specs],
        (none, none),
    )
    init = walk.varying_like((params, rows), init)
    _, signed, colors, counts = jax.lax.while_loop(
        lambda state: jnp.any(_active(rows, state[0], state[1])), one_pass, init
    )
    colors = [color[:, : s.channels] for s, color in zip(scene.specs, colors)]
    return jnp.concatenate(colors, 1), jnp.abs(signed), *counts


def _forward_tiles(spec, blocks, table, signed, color):
    """signed and color after a pass of all tiles."""
    rows = mosaic_tpu_blocks.gather(table, blocks)
    out = []
    for part in _tile_ranges(signed.shape[0]):
        first = blocks.first[part.start : part.stop + 1]
        spec = spec._replace(first_tile=part.start)
        out.append(mosaic_tpu_forward.forward(spec, first, rows, signed[part], color[part]))
    return tuple(jnp.concatenate(x) for x in zip(*out))


def _tile_ranges(count):
    starts = range(0, count, _MAX_TILES)
    return [slice(start, min(start + _MAX_TILES, count)) for start in starts]


def _backward(plan, params, rows, color, transmittance, d_color, d_transmittance):
    """Gradient of params [I, N, 6 + X]; replays the passes."""
    ranked = pairs.by_row(params, rows)
    scene = _scene(plan, ranked, rows)
    parts = _parts(color.shape[1])
    # What is still to come of <cotangent, output>; that of the transmittance goes with the first.
    rests = [jnp.sum(d_color[:, p] * color[:, p], 1, keepdims=True) for p in parts]
    rests[0] += d_transmittance * transmittance
    d_colors = [_pad_channels(d_color[:, p], s) for p, s in zip(parts, scene.specs)]

    def one_pass(state):
        cursor, signed, rests, sums = state
        lists, blocks, cursor = _next_lists(plan, scene, cursor, signed)
        out = [
            _backward_tiles(spec, lists, blocks, table, signed, rest, cotangent)
            for spec, table, rest, cotangent in zip(scene.specs, scene.tables, rests, d_colors)
        ]
        sums = [total + new for total, (_, _, new) in zip(sums, out)]
        return cursor, out[0][0], [rest for _, rest, _ in out], sums

    sums = [jnp.zeros((ranked.shape[0], s.width), jnp.float32) for s in scene.specs]
    init = pairs.start_cursor(rows), jnp.ones_like(transmittance), rests, sums
    init = walk.varying_like((params, rows, color, d_color, d_transmittance), init)
    *_, sums = jax.lax.while_loop(
        lambda state: jnp.any(_active(rows, state[0], state[1])), one_pass, init
    )
    moments = sum(s[:, : tile_math.SUMS] for s in sums)
    features = [s[:, tile_math.GEOMETRY :][:, : k.channels] for s, k in zip(sums, scene.specs)]
    grads = jnp.concatenate([_geometry_gradients(moments, ranked), *features], -1)
    return pairs.by_gaussian(grads, rows)


def _pad_channels(x, spec):
    return jnp.pad(x, ((0, 0), (0, spec.features - x.shape[1]), (0, 0)))


def _backward_tiles(spec, lists, blocks, table, signed, rest, d_color):
    """signed and rest after a pass of all tiles, and the sums of its gradients [R, spec.width]."""
    rows = mosaic_tpu_blocks.gather(table, blocks)
    grads, out = jnp.zeros_like(rows), []
    for part in _tile_ranges(signed.shape[0]):
        first = blocks.first[part.start : part.stop + 1]
        spec = spec._replace(first_tile=part.start)
        *planes, grads = mosaic_tpu_backward.backward(
            spec, first, rows, signed[part], rest[part], d_color[part], grads
        )
        out.append(planes)
    signed, rest = (jnp.concatenate(x) for x in zip(*out))
    grads = mosaic_tpu_blocks.by_slot(grads, blocks, lists.listed)
    return signed, rest, walk.sum_runs(grads, lists.starts, lists.taken)


def _geometry_gradients(moments, rows):
    """Gradient of (mean, conic, opacity) [R, 6] from the moments of `mosaic_tpu_backward.backward`.

    With sigma = (A dx^2 + C dy^2) / 2 + B dx dy: dL/du = -(A s_x + B s_y), dL/dv alike,
    dL/d(A, B, C) = -(s_xx / 2, s_xy, s_yy / 2), dL/do = s / o.
    """
    sx, sy, sxx, sxy, syy, s = (moments[:, k] for k in range(tile_math.SUMS))
    a, b, c, opacity = (rows[:, k] for k in range(2, tile_math.SUMS))
    d_mean = -(a * sx + b * sy), -(b * sx + c * sy)
    d_opacity = s / jnp.maximum(opacity, constants.ALPHA_MIN)
    return jnp.stack([*d_mean, -0.5 * sxx, -sxy, -0.5 * syy, d_opacity], -1)
