"""Session-wide settings: native CPU loops, eight virtual devices, quick compiling, shared data."""

import atexit
import os
import pathlib
import shutil
import tempfile

from gsjax import runtime
from tests import compiling

runtime.configure_environment()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {compiling.FLAGS}"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and commands inherit this one
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gsjax-tests-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402  (the environment above must be settled first)
import pytest  # noqa: E402

if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module", autouse=True)
def programs_are_forgotten():
    """Every compiled program holds memory maps, of which Linux grants a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def gsjax_data() -> pathlib.Path:
    """Folder of real data (environment variable GSJAX_DATA); the test is skipped without it."""
    root = os.environ.get("GSJAX_DATA", "")
    if not root or not pathlib.Path(root).is_dir():
        pytest.skip("GSJAX_DATA does not name a folder of test data")
    return pathlib.Path(root)
