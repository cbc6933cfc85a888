"""Whole runs compile one step several times: once is enough."""

import pytest

from tests import compile_cache


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """A compilation cache for the tests of a file that ask for it."""
    with compile_cache.compiled_once(tmp_path_factory.mktemp("compiled"), 0.5):
        yield
