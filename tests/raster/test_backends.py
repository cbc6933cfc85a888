"""Every backend of this version passes the suite."""

from gsjax.raster import backends
from tests.raster import suite


class TestXlaGroup(suite.BackendSuite):
    backend = "xla_group"


class TestXlaLoop(suite.BackendSuite):
    backend = "xla_loop"


def test_every_backend_has_its_suite():
    suites = {c.backend for c in suite.BackendSuite.__subclasses__()}
    assert set(backends.available()) - {"reference"} <= suites
