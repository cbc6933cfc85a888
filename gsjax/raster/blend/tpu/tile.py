"""What the Mosaic TPU kernels share: tile and block, the blending step, and the walk along a list.

A tile has 16 x 16 pixels, which lie side by side on 256 lanes, row by row; a block has 128 Gaussians,
one a sublane. Every array between the two is [128, 256]. In HBM a block is [W, 128], Gaussians on
lanes: rows of 8 to 32 numbers would be padded to the 128 lanes of a TPU tile there.

Exponents are evaluated from the offsets to the pixel, as in `reference`, not as a matrix product of
polynomials in the pixel coordinates: the product of a multiply unit at full float32 precision takes
six passes, and loses digits for needles. The transmittance inside a block is a running product in
log2(128) doubling steps, which needs no logarithm.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gsjax.raster import constants
from gsjax.raster.blend import tiles

SIZE = 16
PIXELS = SIZE * SIZE
BLOCK = 128
GEOMETRY = 8
"""Rows of a block before the features: mean x, y, conic A, B, C, opacity, and two of zeros."""
SUMS = 6
"""Numbers of a gradient before those of the features, see `tpu.backward.backward`."""
MAX_CHANNELS = 512
"""Most channels of one kernel call: what it keeps of a tile has to fit VMEM."""


class Spec(NamedTuple):
    """Static settings of a kernel call.

    Attributes:
      columns: tile columns of an image.
      tiles: tiles of an image.
      channels: features a Gaussian, at most MAX_CHANNELS.
      max_alpha: upper bound of alpha.
      first_tile: number of the first tile of the call among those of all images.
      interpret: False, or parameters of Pallas' TPU interpreter.
    """

    columns: int
    tiles: int
    channels: int
    max_alpha: float
    first_tile: int = 0
    interpret: object = False

    @property
    def features(self) -> int:
        """Channels padded to whole tiles of 8 sublanes."""
        return padded(self.channels)

    @property
    def width(self) -> int:
        """Rows of a block."""
        return GEOMETRY + self.features


def padded(channels: int) -> int:
    """Next multiple of eight."""
    return -(-channels // 8) * 8


def table(rows: jax.Array) -> jax.Array:
    """[R, 6 + X] (mean x, y, conic A, B, C, opacity, features) -> [R + 1, W]; the last is invisible."""
    features = rows[:, SUMS:]
    width = padded(features.shape[1]) - features.shape[1]
    geometry = jnp.pad(rows[:, :SUMS], ((0, 1), (0, GEOMETRY - SUMS)))
    return jnp.concatenate([geometry, jnp.pad(features, ((0, 1), (0, width)))], -1)


def to_image(x: jax.Array, grid: tiles.Grid) -> jax.Array:
    """[I * tiles, X, PIXELS] -> [I, H, W, X]."""
    channels = x.shape[1]
    x = x.reshape(-1, grid.rows, grid.columns, channels, SIZE, SIZE)
    x = x.transpose(0, 1, 4, 2, 5, 3)
    x = x.reshape(-1, grid.rows * SIZE, grid.columns * SIZE, channels)
    return x[:, : grid.height, : grid.width]


# --- inside the kernels -----------------------------------------------------------------------


class Response(NamedTuple):
    """A block of Gaussians at the pixels of a tile: [BLOCK, PIXELS] each.

    Attributes:
      dx, dy: Gaussian's centre minus pixel's.
      value: alpha before the clamp and the skips.
      alpha: 0 = skipped.
      weight: alpha times the transmittance in front; 0 behind the stop.
      left: transmittance behind; where it is T_MIN or less the Gaussian is excluded.
    """

    dx: jax.Array
    dy: jax.Array
    value: jax.Array
    alpha: jax.Array
    weight: jax.Array
    left: jax.Array


def respond(spec: Spec, geometry: jax.Array, signed: jax.Array) -> Response:
    """Blends a block behind what is there.

    Args:
      spec: static settings.
      geometry: [BLOCK, GEOMETRY].
      signed: [1, PIXELS] transmittance, negative for closed pixels.

    The stop is sticky within a block without a flag: a Gaussian that counts has an alpha of at
    least 1/255, far above rounding, so that the running product never comes back over T_MIN.
    """
    mean_x, mean_y, a, b, c, opacity = (geometry[:, k : k + 1] for k in range(SUMS))
    (left, top), (x, y) = _corner(spec), _pixel_centers()
    dx, dy = (mean_x - left) - x, (mean_y - top) - y
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    value = opacity * jnp.exp(-jnp.maximum(sigma, 0.0))
    alpha = jnp.minimum(value, spec.max_alpha)
    alpha = jnp.where((sigma >= 0) & (alpha >= constants.ALPHA_MIN), alpha, 0.0)
    through = running(1.0 - alpha, jnp.multiply, 1.0)
    left = signed * through
    weight = alpha * signed * _behind_first(through, 1, 1.0)
    return Response(dx, dy, value, alpha, jnp.where(left <= constants.T_MIN, 0.0, weight), left)


def advance(signed: jax.Array, left: jax.Array) -> jax.Array:
    """Transmittance [1, PIXELS] behind a block; negative: closed in it or before."""
    stop = left <= constants.T_MIN
    lowest = jnp.min(jnp.where(stop, 1.0, left), 0, keepdims=True)
    lowest = jnp.minimum(lowest, jnp.abs(signed))
    return jnp.where(jnp.min(left, 0, keepdims=True) <= constants.T_MIN, -lowest, lowest)


def running(x: jax.Array, combine: Callable, neutral: float) -> jax.Array:
    """Inclusive running sums or products down the sublanes of [BLOCK, PIXELS]."""
    step = 1
    while step < x.shape[0]:
        x = combine(x, _behind_first(x, step, neutral))
        step *= 2
    return x


def _behind_first(x, step, neutral):
    """x moved down by ``step`` sublanes."""
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where(row < step, neutral, pltpu.roll(x, jnp.int32(step), 0))


def dot(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Product of matrices summed over an axis of each, in full float32 precision."""
    return jax.lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _corner(spec):
    """Pixel coordinates of the tile's upper left corner, scalars."""
    tile = jax.lax.rem(pl.program_id(0) + jnp.int32(spec.first_tile), jnp.int32(spec.tiles))
    column = jax.lax.rem(tile, jnp.int32(spec.columns))
    line = jax.lax.div(tile, jnp.int32(spec.columns))
    return (column * SIZE).astype(jnp.float32), (line * SIZE).astype(jnp.float32)


def _pixel_centers():
    """x and y of the pixels from the corner: [1, PIXELS] each."""
    pixel = jax.lax.broadcasted_iota(jnp.int32, (1, PIXELS), 1)
    return (pixel % SIZE).astype(jnp.float32) + 0.5, (pixel // SIZE).astype(jnp.float32) + 0.5


def walk(first, blocks, buffer, semaphores, signed: jax.Array, step: Callable) -> jax.Array:
    """Takes the tile's blocks one after the other until they end or all pixels are closed.

    While a block is blended the next one is on its way.

    Args:
      first: [M + 1] reference in SMEM: tile t owns the blocks [first[t], first[t + 1]).
      blocks: [B, W, BLOCK] reference in HBM.
      buffer: [2, W, BLOCK] reference in VMEM.
      semaphores: two, for copies.
      signed: [1, PIXELS] transmittance, negative for closed pixels.
      step: (block number, reference of the block, signed) -> signed.

    Returns:
      signed behind the last block taken, and how many blocks were.
    """
    tile = pl.program_id(0)
    begin, end = first[tile], first[tile + 1]

    def copy(block):
        slot = jax.lax.rem(block, jnp.int32(2))
        return pltpu.make_async_copy(blocks.at[block], buffer.at[slot], semaphores.at[slot])

    def busy(state):
        block, _, highest = state
        return (block < end) & (highest > 0)

    def body(state):
        block, signed, _ = state

        @pl.when(block + 1 < end)
        def _prefetch():
            copy(block + 1).start()

        copy(block).wait()
        signed = step(block, buffer.at[jax.lax.rem(block, jnp.int32(2))], signed)
        return block + 1, signed, jnp.max(signed)

    @pl.when(begin < end)
    def _start():
        copy(begin).start()

    block, signed, _ = jax.lax.while_loop(busy, body, (begin, signed, jnp.max(signed)))

    @pl.when(block < end)  # the walk ended early: a copy is still under way
    def _drain():
        copy(block).wait()

    return signed, block - begin
