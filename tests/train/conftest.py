"""The training tests compile the same small programs again and again: once is enough."""

import pytest

from tests import compile_cache


@pytest.fixture(scope="package", autouse=True)
def compiled_once(tmp_path_factory):
    """A compilation cache for the tests of this folder."""
    with compile_cache.compiled_once(tmp_path_factory.mktemp("compiled"), 0.0):
        yield
