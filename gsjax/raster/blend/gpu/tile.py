"""What the Mosaic GPU kernels share: tile, pixel order, table of Gaussians, and the blending step.

A tile has 16 x 16 pixels and is drawn by 128 threads, one warpgroup. Warp w owns the 8 x 8 block
(w % 2, w // 2); lane l of it owns two pixels of one column, x = l // 4 and y = l % 4 and + 4. That
is the layout of an operand of the tensor cores (PTX ISA, mma.m16n8k8, matrix B), which the backward
pass uses.

Exponents are in base 2: alpha = 2^e with e = log2 o + a dx^2 + b dx dy + c dy^2, where
(a, b, c) = -log2(e) (A / 2, B, C / 2) for a conic (A, B, C), and (dx, dy) = centre - pixel.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.raster import constants
from gsjax.raster.blend import tiles

SIZE = 16
PIXELS = SIZE * SIZE
THREADS = PIXELS // 2
GEOMETRY = 6
MAX_CHANNELS = 32
"""Most channels of one kernel call: its accumulators live in registers."""

LOG2_E = math.log2(math.e)
THRESHOLD = math.log2(constants.ALPHA_MIN)
NEVER = -1e30
"""Exponent of what is never visible."""


class Spec(NamedTuple):
    """Static settings of a kernel call.

    Attributes:
      columns: tile columns of an image.
      tiles: tiles of an image.
      channels: features a Gaussian, at most MAX_CHANNELS.
      max_alpha: upper bound of alpha.
      absgrad: gradient rows end with the sums of |q d log2(alpha) / d(x, y)| over pixels.
      interpret: None, or parameters of Pallas' GPU interpreter.
    """

    columns: int
    tiles: int
    channels: int
    max_alpha: float
    absgrad: bool = False
    interpret: object = None

    @property
    def table_width(self) -> int:
        """Floats of a table row: geometry and features, padded to 16 bytes."""
        return padded(GEOMETRY + self.channels)

    @property
    def sums(self) -> int:
        """Numbers of a gradient row: six of geometry, of the features, of absgrad."""
        return GEOMETRY + self.channels + 2 * self.absgrad


def padded(floats: int) -> int:
    """Next multiple of four: rows are moved 16 bytes at a time."""
    return -(-floats // 4) * 4


def table(rows: jax.Array) -> jax.Array:
    """What kernels read: [R, 6 + X] (mean x, y, conic A, B, C, opacity, features) -> [R + 1, table_width].

    Columns are (mean x, y, a, b, c, log2 o, features, padding). The last row is never visible.
    """
    conics = rows[:, 2:5] * jnp.array([-0.5 * LOG2_E, -LOG2_E, -0.5 * LOG2_E], rows.dtype)
    # Opacities below the threshold are never seen, whatever they are.
    opacities = jnp.log2(jnp.maximum(rows[:, 5:6], 0.5 * constants.ALPHA_MIN))
    body = jnp.concatenate([rows[:, :2], conics, opacities, rows[:, GEOMETRY:]], -1)
    body = jnp.pad(body, ((0, 1), (0, padded(body.shape[1]) - body.shape[1])))
    return body.at[-1, 2:6].set(jnp.array([-1.0, 0.0, -1.0, NEVER], rows.dtype))


def pixel_offsets(pixel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Column and line, 0 to 15, of pixels in the order of the kernels: int32 of any shape."""
    thread = pixel // 2
    lane, warp = thread % 32, thread // 32
    return 8 * (warp % 2) + lane // 4, 8 * (warp // 2) + lane % 4 + 4 * (pixel % 2)


def to_image(x: jax.Array, grid: tiles.Grid) -> jax.Array:
    """[I * tiles, X, PIXELS] in kernel order -> [I, H, W, X]."""
    channels = x.shape[1]
    # Pixel bits: block row and column, x and y inside, upper or lower half of the block.
    x = x.reshape(-1, grid.rows, grid.columns, channels, 2, 2, 8, 4, 2)
    x = x.transpose(0, 1, 4, 8, 7, 2, 5, 6, 3)
    x = x.reshape(-1, grid.rows * SIZE, grid.columns * SIZE, channels)
    return x[:, : grid.height, : grid.width]


def computed(x: jax.Array) -> jax.Array:
    """The same number as the result of an operation, for values that start a kernel's loop.

    Inside `jax.shard_map` what is read from an input has the input's type, varying over the mesh,
    and what is computed in a kernel has not; a loop's state must have one type throughout.
    """
    return x * 1


def list_range(bounds, tile) -> tuple[jax.Array, jax.Array]:
    """Begin and end of a tile's list."""
    return computed(bounds[tile]), computed(bounds[tile + 1])


def response(exponent: jax.Array, peak: jax.Array, transmittance: jax.Array, max_alpha: float):
    """One Gaussian at some pixels.

    Args:
      exponent: e, the base-2 logarithm of alpha before clamping.
      peak: largest e that counts; beyond it sigma is negative.
      transmittance: T; negative marks a closed pixel.
      max_alpha: upper bound of alpha.

    Returns:
      value (alpha before the clamp and the skips), alpha, weight, and T behind the Gaussian
      (negative: closed) with the same meaning, and whether it was excluded by the stop.
    """
    value = jnp.exp2(exponent)
    counts = (exponent >= THRESHOLD) & (exponent <= peak)
    alpha = jnp.where(counts, jnp.minimum(value, max_alpha), 0.0)
    # As in `reference`, not T - alpha T: rounded twice, that misses the stop after two Gaussians of
    # alpha 0.99, where T is 1e-4 but for the last digits.
    left = transmittance * (1.0 - alpha)
    stop = left <= constants.T_MIN
    weight = jnp.where(stop, 0.0, alpha * transmittance)
    return value, alpha, weight, jnp.where(stop, -jnp.abs(transmittance), left), stop


def exponent_gradient(value, alpha, stop, gain, rest, max_alpha: float, reciprocal=None):
    """q = alpha dL/dalpha = -dL/dsigma of one Gaussian, 0 where it is clamped, skipped or excluded.

    Args:
      value, alpha, stop: from `response`.
      gain: weight times <cotangent, feature>.
      rest: what is still to come, behind this Gaussian, of <cotangent, output>.
      max_alpha: upper bound of alpha.
      reciprocal: of numbers in [1 - max_alpha, 1]; None divides.

    dL/dalpha = T <g, f> - rest / (1 - alpha): what lies behind scales with 1 - alpha.
    """
    behind = alpha / (1.0 - alpha) if reciprocal is None else alpha * reciprocal(1.0 - alpha)
    return jnp.where(stop | (value > max_alpha), 0.0, gain - rest * behind)
