"""Process environment that must be settled before JAX starts. Imports no JAX.

Entry points (main.py, the console script, the benchmark, the tests) call
:func:`configure_environment` first; the library itself never changes a flag, it only reports.
"""

import ctypes
import os
import sys
from importlib import metadata

# XLA:CPU outlines a small ``while`` loop into one native function. The default threshold of JAX 0.10
# and 0.11 admits only loops over scalars; the blend loops of ``xla_loop`` need this one. From 0.12 on
# the default is high enough.
_LOOP_OPTION = "xla_cpu_small_while_loop_byte_threshold"
LOOP_FLAG = f"--xla_backend_extra_options={_LOOP_OPTION}=1048576"
"""The native-loop threshold as `XLA_FLAGS` takes it. As a flag of its own XLA does not know it, and ends
the process."""


def jax_version() -> tuple[int, ...]:
    """Installed JAX version as integers, without importing JAX."""
    return tuple(int(part) for part in metadata.version("jax").split(".")[:3] if part.isdigit())


def needs_loop_flag() -> bool:
    """True where JAX's default keeps the CPU rasterizer's loops from becoming native code."""
    return jax_version() < (0, 12)


def loop_flag_is_set() -> bool:
    """True if ``XLA_FLAGS`` already names the native-loop threshold."""
    return _LOOP_OPTION in os.environ.get("XLA_FLAGS", "")


def configure_environment() -> None:
    """Adds the native-loop flag to ``XLA_FLAGS`` on JAX 0.10 and 0.11, unless the user chose a value.

    To be called before JAX's first computation; it comes too late afterwards. A user's own
    ``--xla_backend_extra_options`` is left alone: XLA keeps only one of the two (several options in
    one are separated by commas).
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if needs_loop_flag() and "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {LOOP_FLAG}".strip()


def keep_freed_memory() -> bool:
    """Lets the C library keep freed memory for the next allocation. True if it took (Linux, glibc).

    XLA:CPU allocates the temporaries of a program at every call. Large blocks would go back to the
    system each time, which maps and clears every page again: a quarter of the time of rendering with
    gradients. Process-wide, and memory once used stays with the process; hence nothing but the
    benchmark calls it unasked.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    wanted = {arena_max: 1, mmap_max: 0, trim_threshold: 2**31 - 1, top_pad: 2**26}
    return all(mallopt(key, value) == 1 for key, value in wanted.items())
