"""Modules of a package as its attributes, imported on first use (PEP 562)."""

import functools
import importlib
import pkgutil


def submodules(package: str, path):
    """``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        path: its ``__path__``.
    """

    @functools.cache
    def names() -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(path))

    def get(name: str):
        if name in names():
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {names()}")

    return get, names
