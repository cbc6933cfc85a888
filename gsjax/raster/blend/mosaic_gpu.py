"""Blending by Pallas kernels for NVIDIA GPUs of compute capability 9.0 or more (Mosaic GPU).

XLA makes the lists (`pairs`), kernels walk them, pass by pass (`kernel_passes`): `gpu.warp` where JAX
can embed PTX, `gpu.simple` elsewhere. Kernels read a table of Gaussians and a list of
row numbers; nothing is copied per pair. More than 32 channels go through them in parts. The gradient of
a pair is one row, and rows are added up in a fixed order: results are the same bit for bit every time.
The arithmetic is float32 whatever the type of the inputs.
"""

import functools
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.experimental.mosaic.gpu import utils as gpu_utils

from gsjax.core import devices
from gsjax.raster import project as projection
from gsjax.raster.blend import kernel_passes, tiles
from gsjax.raster.blend import xla_group_walk as walk
from gsjax.raster.blend.gpu import simple, warp
from gsjax.raster.blend.gpu import tile as tile_math

DEFAULT_TILE_SIZE = tile_math.SIZE
MAX_CAPACITY = 2**24
"""Most slots that a pass holds by default, over all images."""

KERNELS = {"warp": warp, "simple": simple}

_MIN_COMPUTE_CAPABILITY = 9.0
_MAX_TABLE = 2**31  # floats: kernels count them in int32


class _Kernels(NamedTuple):
    """`kernel_passes.Kernels` of this backend."""

    grid: tiles.Grid
    max_alpha: float
    absgrad: bool
    deterministic: bool
    module: ModuleType
    interpret: object
    max_channels: int = tile_math.MAX_CHANNELS
    max_capacity: int = MAX_CAPACITY

    def _spec(self, channels):
        settings = self.max_alpha, self.absgrad, self.interpret
        return tile_math.Spec(self.grid.columns, self.grid.count, channels, *settings)

    def planes(self, channels):
        return channels

    def table(self, rows):
        return tile_math.table(rows)

    def prepare(self, lists, num_rows):
        del num_rows
        return lists

    def forward(self, channels, lists, table, signed, color):
        return self.module.forward(self._spec(channels), lists, table, signed, color)

    def backward(self, channels, lists, table, signed, rest, d_color):
        spec, arrays = self._spec(channels), (table, signed, rest, d_color)
        if not self.deterministic and hasattr(self.module, "backward_sums"):
            signed, rest, sums = self.module.backward_sums(spec, lists, *arrays)
            sums = sums[:-1, : spec.sums]
        else:
            signed, rest, grads = self.module.backward(spec, lists, *arrays)
            grads = jnp.where(lists.listed[:, None], grads[:, : spec.sums], 0.0)
            sums = walk.sum_runs(grads, lists.starts, lists.taken)
        if self.absgrad:  # exponents are in base 2
            sums = sums.at[:, -2:].divide(tile_math.LOG2_E)
        return signed, rest, sums

    def to_image(self, x):
        return tile_math.to_image(x, self.grid)


def unavailable() -> str | None:
    """Why this backend cannot serve the device that JAX would use; None where it can."""
    reason = devices.why_not(("gpu", "cuda"), "CUDA GPU")
    if reason or devices.abstract() is not None:
        return reason
    device = devices.default()
    capability = getattr(device, "compute_capability", "")
    try:
        enough = float(capability) >= _MIN_COMPUTE_CAPABILITY
    except (TypeError, ValueError):
        enough = False
    if enough:
        return None
    return f"{device.device_kind} has compute capability {capability or 'unknown'}, 9.0 is needed"


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
        number of a gradient row); None is `kernel_passes.default_capacity`. It changes memory and
        time, never the image.
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
    grid = tiles.Grid(width, height, tile_math.SIZE)
    settings = float(max_alpha), absgrad_probe is not None, bool(deterministic)
    kernels = _Kernels(grid, *settings, kernel_module(kernel), interpret)
    return kernel_passes.blend(kernels, splats, features, capacity, absgrad_probe)


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
