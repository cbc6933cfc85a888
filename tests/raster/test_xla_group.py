"""What is particular to `xla_group`: groups of tiles, sums of runs, lowering for accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import api, arg_specs
from gsjax.raster.blend import xla_group_walk
from tests.raster import suite


@pytest.mark.slow
def test_groups_tile_size_and_capacity_change_nothing():
    options = dict(group=3, tile_size=8, capacity=200)
    scene = arg_specs.random_scene(1, suite.BLEND_NUM, suite.WIDTH, suite.HEIGHT, cameras=2)
    arrays = suite.splats_of(scene, suite.WIDTH, suite.HEIGHT)
    expected = suite.run_blend("reference", arrays)
    found = suite.run_blend("xla_group", arrays, **options)
    suite.assert_images(found[0], expected[0], 1e-6)
    suite.assert_gradients(found[1], expected[1], 1e-5)


def test_runs_are_summed_alike_by_scan_and_by_scatter():
    starts = jnp.array([0, 0, 3, 3, 8, 12, 20], jnp.int32)
    lengths = jnp.array([0, 3, 0, 5, 4, 8, 2**31 - 30], jnp.int32)
    values = np.random.default_rng(0).normal(size=(15, 2)).astype(np.float32)
    expected = [values[s : s + n].sum(0) for s, n in zip(starts, lengths, strict=True)]
    for function in (xla_group_walk.sum_runs_by_scan, xla_group_walk.sum_runs_by_scatter):
        np.testing.assert_allclose(function(values, starts, lengths), expected, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    scene = arg_specs.random_scene(2, 16, 33, 20)

    def loss(means):
        image, _, _ = api.rasterize(
            **scene | dict(means=means), width=33, height=20, backend="xla_group"
        )
        return jnp.sum(image)

    traced = jax.jit(jax.grad(loss)).trace(scene["means"])
    assert "while" in traced.lower(lowering_platforms=(platform,)).as_text()
