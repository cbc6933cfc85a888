"""A compilation cache for tests that compile the same programs again and again."""

import contextlib

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def compiled_once(folder, min_seconds: float):
    """Programs that take at least ``min_seconds`` to compile are compiled once inside.

    Args:
        folder: where they are kept.
        min_seconds: quicker ones are not worth the disk.
    """
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    compilation_cache.reset_cache()
