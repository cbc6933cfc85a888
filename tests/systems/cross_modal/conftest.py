"""One prepared set for all tests of this folder."""

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Cache root of prepared sets."""
    return tmp_path_factory.mktemp("paired")
