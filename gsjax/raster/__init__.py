"""The differentiable rasterizer: project, bin, blend, render.

Modules are imported on first use (PEP 562): ``import gsjax; gsjax.raster.topk`` needs no other import.
"""

from gsjax import lazy

__getattr__, __dir__ = lazy.submodules(__name__, __path__)
