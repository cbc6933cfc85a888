"""Blending by Pallas kernels for NVIDIA GPUs of compute capability 9.0 or more (Mosaic GPU).

XLA makes the lists (`pairs`), kernels walk them: `mosaic_gpu_warp` where JAX can embed PTX,
`mosaic_gpu_simple` elsewhere. Kernels read a table of Gaussians and a list of row numbers; nothing
is copied per pair. More than 32 channels go through the kernels in parts that share the lists.

Lists come in passes of at most ``capacity`` slots an image; the state of the pixels is carried from
pass to pass, and the backward pass, front to back as well, replays them. Nothing is ever cut off.
The gradient of a pair is one row, and rows are added up in a fixed order: results are the same bit
for bit every time. The arithmetic is float32 whatever the type of the inputs.
"""

import functools
import math
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.experimental.mosaic.gpu import utils as gpu_utils

from gsjax.raster import batching, mosaic_gpu_simple, mosaic_gpu_warp, pairs, tiles
from gsjax.raster import mosaic_gpu_tile as tile_math
from gsjax.raster import project as projection
from gsjax.raster import xla_group_walk as walk

DEFAULT_TILE_SIZE = tile_math.SIZE
MAX_CAPACITY = 2**24
"""Most slots that a pass holds by default, over all images."""

KERNELS = {"warp": mosaic_gpu_warp, "simple": mosaic_gpu_simple}

_MIN_CAPACITY = 2**16
_MIN_COMPUTE_CAPABILITY = 9.0
_MAX_TABLE = 2**31  # floats: kernels count them in int32


class _Plan(NamedTuple):
    """Static settings of one call; capacity is that of one image."""

    grid: tiles.Grid
    capacity: int | None
    max_alpha: float
    absgrad: bool
    deterministic: bool
    kernels: ModuleType
    interpret: object


def unavailable() -> str | None:
    """Why this backend cannot serve the device that JAX would use; None where it can.

    An abstract device (`jax.sharding.use_abstract_mesh`), for which one compiles ahead of time, goes
    before the default device.
    """
    abstract = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if abstract is not None:
        ok = getattr(abstract, "platform", None) in ("gpu", "cuda")
        return None if ok else f"compiling for {abstract}, which is no CUDA device"
    device = jax.config.jax_default_device
    if device is None or isinstance(device, str):
        device = jax.devices(device)[0]
    if device.platform != "gpu":
        return f"JAX's device is {device.device_kind!r} ({device.platform}), not a CUDA GPU"
    capability = getattr(device, "compute_capability", "")
    try:
        enough = float(capability) >= _MIN_COMPUTE_CAPABILITY
    except (TypeError, ValueError):
        enough = False
    if enough:
        return None
    return f"{device.device_kind} has compute capability {capability or 'unknown'}, 9.0 is needed"


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
    absgrad_probe: jax.Array | None = None,
    kernel: str | None = None,
    deterministic: bool = True,
    interpret: object = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Front-to-back alpha blending of I images (3DGS, arXiv 2308.04079, Eq. 3).

    Args:
      splats: projected Gaussians with one leading axis, I images.
      features: [I, N, X] what is blended; any X.
      width, height: image size in pixels.
      max_alpha: upper bound of a Gaussian's alpha.
      tile_size: None or 16.
      capacity: slots an image takes each pass (about 16 bytes each, in the backward pass 4 more a
        number of a gradient row); None is `default_capacity`. It changes memory and time, never the
        image.
      absgrad_probe: [I, N, 2], see `reference.blend`; for at most 32 channels.
      kernel: 'warp', 'simple', or None for the first that this JAX can compile.
      deterministic: False lets the 'warp' kernels add up gradients by atomic reductions: no rows in
        memory, sums in another order each time.
      interpret: `plgpu.InterpretGPUParams()` runs the kernels on CPU, slowly (JAX >= 0.11).

    Returns:
      color [I, H, W, X] without background, transmittance [I, H, W], and stats: num_pairs (tile
      intersections listed in the passes that ran), overflow (always 0) and num_passes, int32 [I].

    Raises:
      ValueError: another tile size, an unknown kernel, absgrad of more than 32 channels, or a table
        of 2^31 numbers.
      NotImplementedError: the device cannot run the kernels.
    """
    _check(features.shape, tile_size, absgrad_probe, interpret)
    images, num, channels = features.shape
    dtype = jnp.result_type(splats.means2d, features)
    if 0 in (images, num):
        return _nothing(images, height, width, channels, dtype)
    if channels == 0:  # the transmittance still counts
        features = jnp.zeros((images, num, 1), dtype)
    grid = tiles.Grid(width, height, tile_math.SIZE)
    probe = None if absgrad_probe is None else absgrad_probe.astype(jnp.float32)
    settings = float(max_alpha), probe is not None, bool(deterministic)
    plan = _Plan(grid, capacity, *settings, kernel_module(kernel), interpret)
    params = (splats.means2d, splats.conics, splats.opacities[..., None], features)
    params = jnp.concatenate([p.astype(jnp.float32) for p in params], -1)
    rows = pairs.depth_sorted_rows(jax.lax.stop_gradient(splats), grid)
    color, transmittance, num_pairs, num_passes = _composite(plan, params, probe, rows)
    stats = dict(num_pairs=num_pairs, overflow=jnp.zeros_like(num_pairs), num_passes=num_passes)
    color = tile_math.to_image(color, grid)
    transmittance = tile_math.to_image(transmittance[:, None], grid)[..., 0]
    return color[..., :channels].astype(dtype), transmittance.astype(dtype), stats


def _check(shape, tile_size, absgrad_probe, interpret):
    images, num, channels = shape
    if tile_size not in (None, tile_math.SIZE):
        raise ValueError(f"tile_size: found {tile_size}, mosaic_gpu has tiles of 16 pixels only")
    if absgrad_probe is not None and channels > tile_math.MAX_CHANNELS:
        raise ValueError(
            f"absgrad_probe: found {channels} channels, mosaic_gpu has absolute gradients for at most "
            f"{tile_math.MAX_CHANNELS}; use backend='xla_group'"
        )
    width = tile_math.padded(tile_math.GEOMETRY + min(channels, tile_math.MAX_CHANNELS))
    if (images * num + 1) * width >= _MAX_TABLE:
        raise ValueError(
            f"splats: found {images} images of {num} Gaussians, expected a table of fewer than 2^31 "
            "numbers; render fewer images at a time"
        )
    if interpret is None and (reason := unavailable()):
        raise NotImplementedError(
            f"backend 'mosaic_gpu' cannot serve: {reason}; use backend=None or 'xla_group'"
        )


def _nothing(images, height, width, channels, dtype):
    none = jnp.zeros((images,), jnp.int32)
    color = jnp.zeros((images, height, width, channels), dtype)
    return (
        color,
        jnp.ones(color.shape[:3], dtype),
        dict(num_pairs=none, overflow=none, num_passes=none),
    )


def kernel_module(name: str | None) -> ModuleType:
    """Module with `forward` and `backward`; None chooses the best that this JAX can compile.

    Raises:
      ValueError: an unknown name.
    """
    if name not in (None, *KERNELS):
        raise ValueError(f"kernel: found {name!r}, expected None or one of {', '.join(KERNELS)}")
    if name is None and not hasattr(gpu_utils, "inline_ptx"):
        _report_simple_kernels()
        name = "simple"
    return KERNELS[name or "warp"]


@functools.cache
def _report_simple_kernels():
    logging.info(
        "gsjax: JAX %s cannot embed PTX; mosaic_gpu runs its plain kernels", jax.__version__
    )


# --- derivative and batching ------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _composite(plan, params, absgrad_probe, rows):
    """params [I, N, 6 + X] -> color [M, X, 256], transmittance [M, 256], counts [I]; M tiles."""
    del absgrad_probe  # its gradient is all there is to it
    return batching.fold_vmap(functools.partial(_forward, plan))(params, rows)


def _composite_fwd(plan, params, absgrad_probe, rows):
    out = _composite(plan, params, absgrad_probe, rows)
    return out, (params, rows, out[0], out[1])


def _composite_bwd(plan, residuals, cotangents):
    backward = batching.fold_vmap(functools.partial(_backward, plan))
    grad = backward(*residuals, cotangents[0], cotangents[1])
    width = residuals[0].shape[-1]
    return grad[..., :width], grad[..., width:] if plan.absgrad else None, None


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
    grid, size = plan.grid, tile_math.GEOMETRY
    capacity = plan.capacity or default_capacity(images, num, grid.count)
    parts = _parts(ranked.shape[1] - size)
    tables = [
        tile_math.table(jnp.concatenate([ranked[:, :size], ranked[:, size:][:, p]], -1))
        for p in parts
    ]
    specs = [
        tile_math.Spec(
            grid.columns, grid.count, p.stop - p.start, plan.max_alpha, plan.absgrad, plan.interpret
        )
        for p in parts
    ]
    geometry = ranked[:, :2], ranked[:, 2:5], tiles.level(ranked[:, 5])
    return _Scene(rows, geometry, tables, specs, images * capacity)


def _active(rows, cursor, signed):
    """[I] bool: Gaussians are left, and a pixel that could take them."""
    open_pixels = jnp.max(signed.reshape(rows.order.shape[0], -1), -1) > 0
    return (cursor.rank < pairs.image_ends(rows)) & open_pixels


def _next_lists(plan, scene, cursor, signed):
    """Lists of the next pass; tiles without an open pixel get nothing."""
    is_open = jnp.max(signed, -1) > 0
    return pairs.take(scene.rows, scene.geometry, cursor, is_open, plan.grid, scene.capacity)


def _forward(plan, params, rows):
    images, num, _ = params.shape
    scene = _scene(plan, pairs.by_row(params, rows), rows)
    count = images * plan.grid.count
    first = jnp.arange(images, dtype=jnp.int32) * num

    def one_pass(state):
        cursor, signed, colors, counts = state
        active = _active(rows, cursor, signed)
        lists, cursor = _next_lists(plan, scene, cursor, signed)
        out = [
            plan.kernels.forward(spec, lists, table, signed, color)
            for spec, table, color in zip(scene.specs, scene.tables, colors)
        ]
        listed = jnp.diff(lists.bounds[:: plan.grid.count])
        reached = (cursor.rank > first) | ((cursor.rank == first) & (cursor.skipped > 0))
        counts = (
            tiles.saturating_sum(jnp.stack([counts[0], listed]), 0),
            counts[1] + (active & reached),
        )
        out = walk.varying_like((params, rows), out)
        return cursor, out[0][0], [color for _, color in out], counts

    none = jnp.zeros((images,), jnp.int32)
    init = (
        pairs.start_cursor(rows),
        jnp.ones((count, tile_math.PIXELS), jnp.float32),
        [jnp.zeros((count, s.channels, tile_math.PIXELS), jnp.float32) for s in scene.specs],
        (none, none),
    )
    init = walk.varying_like((params, rows), init)
    _, signed, colors, counts = jax.lax.while_loop(
        lambda state: jnp.any(_active(rows, state[0], state[1])), one_pass, init
    )
    return jnp.concatenate(colors, 1), jnp.abs(signed), *counts


def _backward(plan, params, rows, color, transmittance, d_color, d_transmittance):
    """Gradient of params [I, N, 6 + X], and of the probe behind; replays the passes."""
    ranked = pairs.by_row(params, rows)
    scene = _scene(plan, ranked, rows)
    parts = _parts(color.shape[1])
    # What is still to come of <cotangent, output>; that of the transmittance goes with the first.
    rests = [jnp.sum(d_color[:, p] * color[:, p], 1) for p in parts]
    rests[0] += d_transmittance * transmittance

    def one_pass(state):
        cursor, signed, rests, sums = state
        lists, cursor = _next_lists(plan, scene, cursor, signed)
        out = [
            _pass_gradients(plan, spec, lists, table, signed, rest, d_color[:, p])
            for spec, table, rest, p in zip(scene.specs, scene.tables, rests, parts)
        ]
        out = walk.varying_like((params, rows, color, d_color, d_transmittance), out)
        sums = [total + new for total, (_, _, new) in zip(sums, out)]
        return cursor, out[0][0], [rest for _, rest, _ in out], sums

    sums = [jnp.zeros((ranked.shape[0], s.sums), jnp.float32) for s in scene.specs]
    init = pairs.start_cursor(rows), jnp.ones_like(transmittance), rests, sums
    init = walk.varying_like((params, rows, color, d_color, d_transmittance), init)
    *_, sums = jax.lax.while_loop(
        lambda state: jnp.any(_active(rows, state[0], state[1])), one_pass, init
    )
    moments = sum(s[:, : tile_math.GEOMETRY] for s in sums)
    grads = [tile_math.gradients(moments, ranked), *(s[:, tile_math.GEOMETRY :] for s in sums)]
    if plan.absgrad:  # exponents are in base 2
        grads[-1] = grads[-1].at[:, -2:].divide(tile_math.LOG2_E)
    return pairs.by_gaussian(jnp.concatenate(grads, -1), rows)


def _pass_gradients(plan, spec, lists, *arrays):
    """signed and rest after a pass, and the sums of its gradient rows [R, spec.sums]."""
    if not plan.deterministic and hasattr(plan.kernels, "backward_sums"):
        signed, rest, sums = plan.kernels.backward_sums(spec, lists, *arrays)
        return signed, rest, sums[:-1, : spec.sums]
    signed, rest, grads = plan.kernels.backward(spec, lists, *arrays)
    grads = jnp.where(lists.listed[:, None], grads[:, : spec.sums], 0.0)
    return signed, rest, walk.sum_runs(grads, lists.starts, lists.taken)
