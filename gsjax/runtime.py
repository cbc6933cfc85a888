"""Process environment that must be settled before JAX starts. Imports no JAX.

Entry points (main.py, the console script, the benchmark, the tests) call
:func:`configure_environment` first; the library itself never changes a flag, it only reports.
"""

import os
from importlib import metadata

# XLA:CPU outlines a small ``while`` loop into one native function. JAX 0.10's default threshold
# admits only loops over scalars; the blend loops of ``raster.xla_loop`` need this one. From 0.11 on
# the default is high enough.
_LOOP_OPTION = "xla_cpu_small_while_loop_byte_threshold"
_LOOP_FLAG = f"--xla_backend_extra_options={_LOOP_OPTION}=1048576"


def jax_version() -> tuple[int, ...]:
    """Installed JAX version as integers, without importing JAX."""
    return tuple(int(part) for part in metadata.version("jax").split(".")[:3] if part.isdigit())


def needs_loop_flag() -> bool:
    """True where JAX's default keeps the CPU rasterizer's loops from becoming native code."""
    return jax_version() < (0, 11)


def loop_flag_is_set() -> bool:
    """True if ``XLA_FLAGS`` already names the native-loop threshold."""
    return _LOOP_OPTION in os.environ.get("XLA_FLAGS", "")


def configure_environment() -> None:
    """Adds the native-loop flag to ``XLA_FLAGS`` on JAX 0.10, unless the user chose a value.

    A user's own ``--xla_backend_extra_options`` is left alone: XLA keeps only one of the two.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if needs_loop_flag() and "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_LOOP_FLAG}".strip()
