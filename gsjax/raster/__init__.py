"""The differentiable rasterizer: project, bin, blend, render.

Modules are imported on first use (PEP 562): ``import gsjax; gsjax.raster.topk`` needs no other import.
"""

import importlib
import pkgutil


def __getattr__(name: str):
    if name in __dir__():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__dir__()}")


def __dir__():
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
