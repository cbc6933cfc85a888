"""Every backend of this version passes the suite."""

import jax
import numpy as np
import pytest

from gsjax.raster import arg_specs
from gsjax.raster.blend import backends
from tests.raster import suite


class TestXlaGroup(suite.BackendSuite):
    backend = "xla_group"

    @pytest.mark.slow
    def test_100k_gaussians_through_a_tiny_buffer(self):
        super().test_100k_gaussians_through_a_tiny_buffer()

    @pytest.mark.slow
    def test_eight_devices_equal_one(self):
        super().test_eight_devices_equal_one()

    @pytest.mark.slow
    def test_32_channels_match_reference(self):
        super().test_32_channels_match_reference()


class TestXlaLoop(suite.BackendSuite):
    backend = "xla_loop"


class _OnItsDevice(suite.BackendSuite):
    """Kernels that run on one kind of device and compute in float32; float64 goes in and comes out."""

    __test__ = False

    @pytest.fixture(autouse=True)
    def _needs_its_device(self):
        reason = backends.why_not(self.backend)
        if reason is not None:
            pytest.skip(reason)

    def test_float64_finite_differences(self):
        with jax.enable_x64(True):
            scene = arg_specs.random_scene(8, 12, 20, 17, scale=0.3)
            arrays = suite.splats_of({k: v.astype(np.float64) for k, v in scene.items()}, 20, 17)
            expected = suite.run_blend("reference", arrays, 20, 17)
            found = suite.run_blend(self.backend, arrays, 20, 17)
            assert found[0][0].dtype == np.float64
            suite.assert_images(found[0], expected[0])
            suite.assert_gradients(found[1], expected[1])


@pytest.mark.gpu
class TestMosaicGpu(_OnItsDevice):
    """On a GPU; `test_mosaic_gpu.py` interprets the same kernels elsewhere."""

    backend, __test__ = "mosaic_gpu", True


@pytest.mark.tpu
class TestMosaicTpu(_OnItsDevice):
    """On a TPU; `test_mosaic_tpu.py` interprets the same kernels elsewhere."""

    backend, __test__ = "mosaic_tpu", True


def test_every_backend_has_its_suite():
    classes = suite.BackendSuite.__subclasses__() + _OnItsDevice.__subclasses__()
    suites = {getattr(c, "backend", None) for c in classes}
    assert set(backends.available()) - {"reference"} <= suites
