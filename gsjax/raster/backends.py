"""Names of the blending backends, and which one serves a platform.

A backend is a module of this package that exports ``blend`` (see `reference.blend`) and
``DEFAULT_TILE_SIZE``. Modules are imported on first use.
"""

import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType

import jax
from absl import logging

BACKENDS = ("reference", "xla_loop", "xla_group", "mosaic_gpu", "mosaic_tpu", "triton")

# Tried in this order for backend=None; the first that exists serves.
_PREFERRED = {
    "cpu": ("xla_loop", "xla_group"),
    "gpu": ("mosaic_gpu", "triton", "xla_group"),
    "tpu": ("mosaic_tpu", "xla_group"),
}


def available() -> tuple[str, ...]:
    """Names of the backends that this version has."""
    return tuple(n for n in BACKENDS if importlib.util.find_spec(f"gsjax.raster.{n}"))


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
    return importlib.import_module(f"gsjax.raster.{name}")


def choose(name: str | None = None) -> tuple[str, Callable]:
    """Name and ``blend`` function of a backend; None chooses for JAX's default platform."""
    if name is not None:
        return name, load(name).blend
    platform = _platform()
    preferred = _PREFERRED.get(platform, ("xla_group",))
    for candidate in preferred:
        try:
            blend = load(candidate).blend
        except NotImplementedError:
            continue
        if candidate != preferred[0]:
            _report_fallback(platform, preferred[0], candidate)
        return candidate, blend
    raise NotImplementedError(f"no rasterizer backend for platform {platform!r}")


def default_tile_size(name: str) -> int:
    """Pixels along the side of a tile where the caller leaves it to the backend."""
    return getattr(load(name), "DEFAULT_TILE_SIZE", 16)


def _platform() -> str:
    """Platform of jax.default_device where that is set, else JAX's default one."""
    device = jax.config.jax_default_device
    if device is None:
        return jax.default_backend()
    name = device if isinstance(device, str) else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


@functools.cache
def _report_fallback(platform: str, wanted: str, served: str):
    logging.info("gsjax: no %s backend for %s in this version; %s serves", wanted, platform, served)
