"""Names of the blending backends, and which one serves a platform.

A backend is a module of this folder that exports ``blend`` (see `reference.blend`) and
``DEFAULT_TILE_SIZE``; one that needs a certain device also ``unavailable``, which says why it cannot
serve JAX's, or None. Modules are imported on first use.
"""

import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType

from absl import logging

from gsjax.core import devices

BACKENDS = ("reference", "xla_loop", "xla_group", "mosaic_gpu", "mosaic_tpu", "triton")

# Tried in this order for backend=None; the first that exists and can serve the device does.
_PREFERRED = {
    "cpu": ("xla_loop", "xla_group"),
    "gpu": ("mosaic_gpu", "triton", "xla_group"),
    "tpu": ("mosaic_tpu", "xla_group"),
}


def available() -> tuple[str, ...]:
    """Names of the backends that this version has."""
    return tuple(n for n in BACKENDS if importlib.util.find_spec(f"gsjax.raster.blend.{n}"))


def load(name: str) -> ModuleType:
    """Module of a backend.

    Raises:
      ValueError: unknown name.
      NotImplementedError: a known name that this version does not have.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: found {name!r}, expected None or one of {', '.join(BACKENDS)}")
    if name not in available():
        raise NotImplementedError(
            f"backend {name!r} is not part of this version; use one of {', '.join(available())}, "
            "or backend=None to let the platform choose"
        )
    return importlib.import_module(f"gsjax.raster.blend.{name}")


def why_not(name: str) -> str | None:
    """Why a backend cannot serve JAX's device (its kind, the JAX version); None where it can.

    Raises:
      ValueError: unknown name.
    """
    try:
        module = load(name)
    except NotImplementedError:
        return "not part of this version"
    return getattr(module, "unavailable", lambda: None)()


def choose(name: str | None = None) -> tuple[str, Callable]:
    """Name and ``blend`` function of a backend; None chooses for JAX's default platform."""
    if name is not None:
        return name, load(name).blend
    platform = devices.platform()
    passed_over = []
    for candidate in _PREFERRED.get(platform, ("xla_group",)):
        reason = why_not(candidate)
        if reason is None:
            if passed_over:
                _report_fallback(platform, candidate, "; ".join(passed_over))
            return candidate, load(candidate).blend
        passed_over.append(f"not {candidate}: {reason}")
    raise NotImplementedError(f"no rasterizer backend for {platform!r}: {'; '.join(passed_over)}")


def default_tile_size(name: str) -> int:
    """Pixels along the side of a tile where the caller leaves it to the backend."""
    return getattr(load(name), "DEFAULT_TILE_SIZE", 16)


@functools.cache
def _report_fallback(platform: str, served: str, passed_over: str):
    logging.info("gsjax: %s renders on %s (%s)", served, platform, passed_over)
