"""3D Gaussian splatting in JAX: one differentiable rasterizer, four published systems on it.

Names are resolved on first use (PEP 562), so ``import gsjax`` and the input pipeline's worker
processes, which import ``gsjax.data``, never import JAX by accident.
"""

import importlib

from gsjax.version import __version__

_HOME = {
    "rasterize": "gsjax.raster.api",
    "rasterize_pixels": "gsjax.raster.sparse",
    "rasterize_sharded": "gsjax.raster.sharded",
    "plan_capacity": "gsjax.raster.api",
    "stack_scenes": "gsjax.core.batches",
    "Gaussians": "gsjax.core.gaussians",
    "RawGaussians": "gsjax.core.gaussians",
}
_SUBPACKAGES = "cli core data evals io losses metrics models raster runtime systems train".split()

__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"gsjax.{name}")
    raise AttributeError(f"module 'gsjax' has no attribute {name!r}; it has {sorted(__dir__())}")


def __dir__():
    return [*__all__, *_SUBPACKAGES]
