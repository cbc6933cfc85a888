"""Blending by Pallas kernels for TPUs (Mosaic).

XLA makes the lists (`pairs`), cuts them into blocks of 128 Gaussians (`tpu.blocks`) and adds
up the gradients; the kernels `tpu.forward` and `tpu.backward` walk the blocks of a tile,
pass by pass (`kernel_passes`). More than 512 channels go through them in parts. The gradient of a pair
is one row, and rows are added up in a fixed order: results are the same bit for bit every time. The
arithmetic is float32 whatever the type of the inputs, and matrix products have float32's precision.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import devices
from gsjax.raster import project as projection
from gsjax.raster.blend import kernel_passes, tiles
from gsjax.raster.blend import xla_group_walk as walk
from gsjax.raster.blend.tpu import backward as backward_kernel
from gsjax.raster.blend.tpu import blocks as block_lists
from gsjax.raster.blend.tpu import forward as forward_kernel
from gsjax.raster.blend.tpu import tile as tile_math

DEFAULT_TILE_SIZE = tile_math.SIZE
MAX_CAPACITY = 2**22
"""Most slots that a pass holds by default, over all images."""

_MAX_TILES = 2**16
"""Most tiles of one kernel call: the numbers of their first blocks lie in scalar memory."""


class _Kernels(NamedTuple):
    """`kernel_passes.Kernels` of this backend."""

    grid: tiles.Grid
    max_alpha: float
    interpret: object
    absgrad: bool = False
    max_channels: int = tile_math.MAX_CHANNELS
    max_capacity: int = MAX_CAPACITY

    def _spec(self, channels, first_tile):
        settings = self.max_alpha, first_tile, self.interpret
        return tile_math.Spec(self.grid.columns, self.grid.count, channels, *settings)

    def planes(self, channels):
        return tile_math.padded(channels)

    def table(self, rows):
        return tile_math.table(rows)

    def prepare(self, lists, num_rows):
        return lists, block_lists.cut(lists, num_rows)

    def forward(self, channels, lists, table, signed, color):
        _, blocks = lists
        rows, signed, out = block_lists.gather(table, blocks), signed[:, None], []
        for part in _tile_ranges(signed.shape[0]):
            first, spec = blocks.first[part.start : part.stop + 1], self._spec(channels, part.start)
            out.append(forward_kernel.forward(spec, first, rows, signed[part], color[part]))
        signed, color = (jnp.concatenate(x) for x in zip(*out))
        return signed[:, 0], color

    def backward(self, channels, lists, table, signed, rest, d_color):
        lists, blocks = lists
        rows, signed, rest = block_lists.gather(table, blocks), signed[:, None], rest[:, None]
        grads, out = jnp.zeros_like(rows), []
        for part in _tile_ranges(signed.shape[0]):
            first, spec = blocks.first[part.start : part.stop + 1], self._spec(channels, part.start)
            *planes, grads = backward_kernel.backward(
                spec, first, rows, signed[part], rest[part], d_color[part], grads
            )
            out.append(planes)
        signed, rest = (jnp.concatenate(x)[:, 0] for x in zip(*out))
        grads = block_lists.by_slot(grads, blocks, lists.listed)
        sums = walk.sum_runs(grads, lists.starts, lists.taken)
        features = sums[:, tile_math.GEOMETRY : tile_math.GEOMETRY + channels]
        return signed, rest, jnp.concatenate([sums[:, : tile_math.SUMS], features], -1)

    def to_image(self, x):
        return tile_math.to_image(x, self.grid)


def _tile_ranges(count):
    """Tiles of each kernel call."""
    starts = range(0, count, _MAX_TILES)
    return [slice(start, min(start + _MAX_TILES, count)) for start in starts]


def unavailable() -> str | None:
    """Why this backend cannot serve the device that JAX would use; None where it can."""
    return devices.why_not(("tpu",), "TPU")


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
      capacity: slots an image takes each pass; None is `kernel_passes.default_capacity`. It
        changes memory and
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
    grid = tiles.Grid(width, height, tile_math.SIZE)
    kernels = _Kernels(grid, float(max_alpha), interpret)
    return kernel_passes.blend(kernels, splats, features, capacity)


def _check(tile_size, interpret):
    if tile_size not in (None, tile_math.SIZE):
        raise ValueError(f"tile_size: found {tile_size}, mosaic_tpu has tiles of 16 pixels only")
    if not interpret and (reason := unavailable()):
        raise NotImplementedError(
            f"backend 'mosaic_tpu' cannot serve: {reason}; use backend=None or 'xla_group'"
        )
