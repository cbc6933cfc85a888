"""Every backend of this version passes the suite."""

import jax
import numpy as np
import pytest

from gsjax.raster import arg_specs, backends
from tests.raster import suite


class TestXlaGroup(suite.BackendSuite):
    backend = "xla_group"


class TestXlaLoop(suite.BackendSuite):
    backend = "xla_loop"


@pytest.mark.gpu
class TestMosaicGpu(suite.BackendSuite):
    """On a GPU; `test_mosaic_gpu.py` interprets the same kernels elsewhere."""

    backend = "mosaic_gpu"

    @pytest.fixture(autouse=True)
    def _needs_its_device(self):
        reason = backends.why_not(self.backend)
        if reason is not None:
            pytest.skip(reason)

    def test_float64_finite_differences(self):
        """The kernels compute in float32; float64 goes in and comes out."""
        with jax.enable_x64(True):
            scene = arg_specs.random_scene(8, 12, 20, 17, scale=0.3)
            arrays = suite.splats_of({k: v.astype(np.float64) for k, v in scene.items()}, 20, 17)
            expected = suite.run_blend("reference", arrays, 20, 17)
            found = suite.run_blend(self.backend, arrays, 20, 17)
            assert found[0][0].dtype == np.float64
            suite.assert_images(found[0], expected[0])
            suite.assert_gradients(found[1], expected[1])


def test_every_backend_has_its_suite():
    suites = {c.backend for c in suite.BackendSuite.__subclasses__()}
    assert set(backends.available()) - {"reference"} <= suites
