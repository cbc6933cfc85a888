"""Blending backend for CPU: native XLA loops, counting sort, passes of bounded memory.

A pass lists at most `capacity` (tile, Gaussian) pairs (`xla_loop_bin`) and blends them behind what is
there (`xla_loop_passes`); passes follow until every Gaussian is spent. Pairs are listed in depth order,
so the images of one pass and of fifty are the same bit for bit, and nothing is ever truncated. The
backward pass replays the passes front to back: the lists of the first are stored, later ones rebuilt.
Everything is deterministic: no atomics, fixed order of all sums.

Images are handled one after the other; data parallelism is `jax.shard_map` over images, and
`rasterize_sharded` splits a single image into lanes. `jax.vmap` maps its axis into the image axis, because
batching a loop whose length depends on data would be ruinous.

Never lower this for a GPU or TPU: each step would become a few kernel launches. JAX before 0.12 compiles
the blending loops to native code only with the XLA flag that `gsjax.runtime` sets; without it results
are the same, about three times slower.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax

from gsjax import runtime
from gsjax.raster import project as projection
from gsjax.raster.blend import xla_loop_bin as binning
from gsjax.raster.blend import xla_loop_passes as passes
from gsjax.raster.blend.batching import fold_vmap

DEFAULT_TILE_SIZE = 8
MAX_CAPACITY = 2**20
"""Most pairs that a pass holds by default: 12 MB of lists."""

_MIN_CAPACITY = 2**14


class Spec(NamedTuple):
    """What is static: the compiled program depends on it."""

    grid: binning.Grid
    capacity: int
    max_alpha: float
    absgrad: bool = False


def default_capacity(num: int, width: int, height: int, tile_size: int) -> int:
    """Pairs a pass should hold: a guess of what a scene needs, between 2^14 and 2^20.

    A wrong guess costs another pass (about 1 % of the time), a large one only memory. Surfaces of
    small Gaussians need about 4 pairs each, and 64 a tile where they are few and large.
    """
    tiles = -(-width // tile_size) * -(-height // tile_size)
    most = num * tiles
    return max(1, min(most, MAX_CAPACITY, max(_MIN_CAPACITY, 4 * num + 64 * tiles)))


def temporary_bytes(
    num: int, width: int, height: int, channels: int, capacity: int, *, tile_size: int | None = None
) -> int:
    """Bytes that `blend` and its gradient hold for one float32 image, beside inputs and outputs.

    Args:
      num: Gaussians, N.
      width, height: pixels.
      channels: X.
      capacity: pairs a pass holds.
      tile_size: as in `blend`.

    Returns:
      An estimate: rows of Gaussians by index, by tile, and their gradient, the walk (7 floats and 4
      integers each), lists of tiles and rows before and behind their sort, planes of the image.
    """
    grid = binning.Grid(width, height, DEFAULT_TILE_SIZE if tile_size is None else tile_size)
    pixels = grid.num_tiles * grid.tile_size**2
    rows, walk = 3 * (passes.GEOMETRY + channels) * num, 11 * num
    return 4 * (rows + walk + 5 * capacity + (2 * channels + 4) * pixels)


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
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Front-to-back alpha blending of I images (3DGS, arXiv 2308.04079, Eq. 3).

    Args:
      splats: projected Gaussians with one leading axis, I images.
      features: [I, N, X] what is blended: colours, depth, anything.
      width, height: image size in pixels.
      max_alpha: upper bound of a Gaussian's alpha.
      tile_size: pixels; None is 8, the fastest measured.
      capacity: pairs a pass holds (12 bytes each, the list of the first pass is kept for the
        gradient); None is `default_capacity`. It changes memory and time, never the image.
      absgrad_probe: [I, N, 2], see `reference.blend`.

    Returns:
      color [I, H, W, X] without background, transmittance [I, H, W], and stats, each int32 [I]:
      num_pairs (tile intersections, saturating), overflow (always 0), num_passes.
    """
    tile_size = DEFAULT_TILE_SIZE if tile_size is None else tile_size
    if capacity is None:
        capacity = default_capacity(features.shape[1], width, height, tile_size)
    grid, lane = binning.Grid(width, height, tile_size), jnp.int32(0)
    return _blend_grid(splats, features, lane, grid, capacity, max_alpha, absgrad_probe)


def blend_lane(
    splats: projection.Splats,
    features: jax.Array,
    *,
    lane: jax.Array,
    num_lanes: int,
    width: int,
    height: int,
    max_alpha: float,
    tile_size: int | None = None,
    capacity: int | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """`blend` of one lane, that is of its tile rows (`xla_loop_bin.Grid.lane_rows`).

    Args:
      lane: int32 [].
      num_lanes: how many there are.
      capacity: as in `blend`; None is a lane's share of `default_capacity`.

    Returns:
      As `blend`, with the lane's rows alone, one under the other: the same number of rows in every
      lane; the last ones may lie below the image. `in_order` puts those of all lanes together.
    """
    tile_size = DEFAULT_TILE_SIZE if tile_size is None else tile_size
    if capacity is None:
        capacity = -(-default_capacity(features.shape[1], width, height, tile_size) // num_lanes)
    grid = binning.Grid(width, height, tile_size, num_lanes)
    return _blend_grid(splats, features, lane, grid, capacity, max_alpha, None)


def in_order(
    lanes: jax.Array, width: int, height: int, num_lanes: int, tile_size: int
) -> jax.Array:
    """[C, L R S, W, X], the rows of pixels lane by lane -> [C, H, W, X]."""
    grid = binning.Grid(width, height, tile_size, num_lanes)
    lines = lanes.reshape(lanes.shape[0], num_lanes * grid.lane_rows().shape[1], -1)
    index = np.argsort(grid.lane_rows().ravel(), kind="stable")[: grid.down]
    image = lines[:, index].reshape(lanes.shape[0], -1, *lanes.shape[2:])
    return image[:, :height]


def _blend_grid(splats, features, lane, grid, capacity, max_alpha, absgrad_probe):
    """The tile rows of one lane of each image; stats int32 [I]."""
    _report_missing_flag()
    images, num, channels = features.shape
    # One row of one Gaussian is never split, hence the lower bound.
    capacity, absgrad = max(int(capacity), grid.across), absgrad_probe is not None
    spec = Spec(grid, capacity, float(max_alpha), absgrad)
    dtype = jnp.result_type(splats.means2d, features)
    if 0 in (images, num, grid.num_tiles):
        none = jnp.zeros(images, jnp.int32)
        stats = dict(num_pairs=none, overflow=none, num_passes=none)
        ones = jnp.ones((images, grid.lane_height, grid.width), dtype)
        return jnp.zeros((*ones.shape, channels), dtype), ones, stats
    geometry = (splats.means2d, splats.conics, splats.opacities[..., None], features)
    rows = jnp.concatenate([x.astype(dtype) for x in geometry], -1)
    depths, radii = lax.stop_gradient((splats.depths, splats.radii))
    lane = jnp.broadcast_to(lane, (images,))
    color, transmittance, pairs, count = _blend(spec, rows, absgrad_probe, depths, radii, lane)
    stats = dict(num_pairs=pairs, overflow=jnp.zeros_like(pairs), num_passes=count)
    return _from_tiles(color, grid), _from_tiles(transmittance[:, :, None], grid)[..., 0], stats


def tile_lists(
    splats: projection.Splats,
    *,
    width: int,
    height: int,
    tile_size: int | None = None,
    capacity: int | None = None,
) -> tuple[binning.Lists, jax.Array, jax.Array]:
    """Binning alone, of one image (no leading axis): the first pass of `blend`.

    Returns:
      Lists of rows by tile, order int32 [N] (row -> Gaussian), and the number of pairs.
    """
    grid = binning.Grid(width, height, DEFAULT_TILE_SIZE if tile_size is None else tile_size)
    if capacity is None:
        num = splats.means2d.shape[0]
        capacity = default_capacity(num, width, height, grid.tile_size)
    lane, closed = jnp.int32(0), jnp.zeros(grid.num_tiles, jnp.int32)
    walk = binning.walk_order(*splats[:3], splats.depths, splats.radii, lane, grid)
    cursor, capacity = binning.start(walk), max(capacity, grid.across)
    _, lists, pairs = binning.fill(walk, cursor, closed, lane, grid, capacity, jnp.int32(0))
    return lists, walk.order, pairs


def _from_tiles(x, grid):
    """[I, T, X, P] -> [I, H, W, X], the rows of a lane."""
    images, _, channels, _ = x.shape
    size = grid.tile_size
    x = x.reshape(images, -1, grid.across, channels, size, size)
    x = x.transpose(0, 1, 4, 2, 5, 3)  # image, tile row, y, tile column, x, channel
    x = x.reshape(images, -1, grid.across * size, channels)
    return x[:, : grid.lane_height, : grid.width]


@functools.cache
def _report_missing_flag():
    if runtime.needs_loop_flag() and not runtime.loop_flag_is_set():
        logging.warning(
            "xla_loop: JAX %s runs the blending loops op by op (about 3x slower) without an XLA flag "
            "that must be there before JAX starts: begin the program with `import gsjax; "
            "gsjax.runtime.configure_environment()`, or set XLA_FLAGS='%s' (with extra options of "
            "your own in XLA_FLAGS, append this one to them after a comma).",
            jax.__version__,
            runtime.LOOP_FLAG,
        )


# --- derivative and batching ------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blend(spec, rows, absgrad_probe, depths, radii, lane):
    del absgrad_probe  # its gradient is all there is to it
    return _forward_images(spec)(rows, depths, radii, lane)[0]


def _blend_fwd(spec, rows, absgrad_probe, depths, radii, lane):
    del absgrad_probe
    out, kept = _forward_images(spec)(rows, depths, radii, lane)
    return out, (rows, lane, out[0], out[1], kept)


def _blend_bwd(spec, residuals, cotangents):
    gradient = _backward_images(spec)(*residuals, *cotangents[:2])
    width = residuals[0].shape[-1]
    absolute = gradient[..., width:] if spec.absgrad else None
    return gradient[..., :width], absolute, None, None, None


_blend.defvjp(_blend_fwd, _blend_bwd)


def _over_images(function):
    """function of one image -> the same over a leading image axis, in sequence, also under vmap."""

    def images(*args):
        if jax.tree.leaves(args)[0].shape[0] == 1:
            out = function(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: x[None], out)
        return lax.map(lambda one: function(*one), args)

    return fold_vmap(images)


@functools.cache
def _forward_images(spec):
    return _over_images(functools.partial(_forward_image, spec))


@functools.cache
def _backward_images(spec):
    return _over_images(functools.partial(_backward_image, spec))


# --- one image --------------------------------------------------------------------------------


def _forward_image(spec, rows, depths, radii, lane):
    """rows [N, 6 + X] -> (color, transmittance, pairs, passes) and what the backward pass needs."""
    grid, size = spec.grid, spec.grid.tile_size
    lane = binning.vary(lane, (rows, depths, radii))
    walk = binning.walk_order(rows[:, :2], rows[:, 2:5], rows[:, 5], depths, radii, lane, grid)
    params, centers = passes.by_row(rows, walk.order), passes.tile_centers(grid, lane, rows.dtype)

    def one(cursor, closed, state, pairs):
        cursor, lists, met = binning.fill(walk, cursor, closed, lane, grid, spec.capacity, pairs)
        state = passes.forward(params, lists, state, centers, size, spec.max_alpha)
        return cursor, state, met, lists

    shape = (grid.num_tiles, rows.shape[1] - passes.GEOMETRY, size * size)
    state = passes.Forward(jnp.ones(shape[::2], rows.dtype), jnp.zeros(shape, rows.dtype))
    state = binning.vary(state, walk)
    cursor, none = binning.start(walk), jnp.zeros(grid.num_tiles, jnp.int32)
    cursor, state, pairs, lists = one(cursor, none, state, jnp.int32(0))
    kept = walk, cursor, lists

    def again(carry):
        cursor, state, pairs, count = carry
        return *one(cursor, passes.closed_tiles(state.signed), state, pairs)[:3], count + 1

    carry = cursor, state, pairs, binning.vary(jnp.int32(1), walk)
    carry = lax.while_loop(lambda c: c[0].rank < walk.num, again, carry)
    _, state, pairs, count = carry
    return (state.color, jnp.abs(state.signed), pairs, count), kept


def _backward_image(spec, rows, lane, color, transmittance, kept, color_bar, transmittance_bar):
    """Cotangents of the outputs -> that of rows [N, 6 + X (+ 2)]."""
    grid, size = spec.grid, spec.grid.tile_size
    walk, cursor, lists = kept
    params, centers = passes.by_row(rows, walk.order), passes.tile_centers(grid, lane, rows.dtype)
    rest = jnp.sum(color_bar * color, 1) + transmittance_bar * transmittance

    def one(lists, state):
        return passes.backward(
            params, lists, state, color_bar, centers, size, spec.max_alpha, spec.absgrad
        )

    gradient = jnp.zeros((rows.shape[0], rows.shape[1] + 2 * spec.absgrad), rows.dtype)
    state = passes.Backward(jnp.ones_like(transmittance), rest, gradient)
    state = one(lists, binning.vary(state, (walk, rest)))

    def again(carry):
        cursor, state = carry
        closed = passes.closed_tiles(state.signed)
        cursor, lists, _ = binning.fill(
            walk, cursor, closed, lane, grid, spec.capacity, jnp.int32(0)
        )
        return cursor, one(lists, state)

    def unfinished(carry):
        cursor, state = carry
        return (cursor.rank < walk.num) & (jnp.max(state.signed) > 0)

    _, state = lax.while_loop(unfinished, again, (cursor, state))
    return passes.by_index(state.rows, rows, walk.order)
