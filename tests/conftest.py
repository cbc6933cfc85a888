"""Session-wide settings: native CPU loops, eight virtual devices, shared data."""

import os
import pathlib

from gsjax import runtime

runtime.configure_environment()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  (the environment above must be settled first)
import pytest  # noqa: E402

if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def gsjax_data() -> pathlib.Path:
    """Folder of real data (environment variable GSJAX_DATA); the test is skipped without it."""
    root = os.environ.get("GSJAX_DATA", "")
    if not root or not pathlib.Path(root).is_dir():
        pytest.skip("GSJAX_DATA does not name a folder of test data")
    return pathlib.Path(root)
