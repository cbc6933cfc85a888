"""The planner measures what one pass needs."""

import jax
import numpy as np
import pytest

from gsjax.raster import api, arg_specs, capacity

WIDTH, HEIGHT = 60, 44


@pytest.fixture(scope="module")
def scene():
    return arg_specs.random_scene(0, 2000, WIDTH, HEIGHT, cameras=2, scale=0.05)


def _geometry(scene):
    return {k: v for k, v in scene.items() if k != "colors"} | dict(width=WIDTH, height=HEIGHT)


@pytest.mark.parametrize("backend", ["xla_group", "xla_loop"])
def test_planned_capacity_needs_one_pass(scene, backend):
    planned = capacity.plan_capacity(**_geometry(scene), backend=backend, headroom=1.0)
    meta = api.rasterize(**scene, width=WIDTH, height=HEIGHT, backend=backend, capacity=planned)[2]
    assert meta["num_passes"].tolist() == [1, 1] and planned % 1024 == 0
    assert np.max(meta["num_pairs"]) <= planned < 4 * np.max(meta["num_pairs"])


def test_headroom_limit_and_smaller_tiles(scene):
    plan = lambda **k: capacity.plan_capacity(**_geometry(scene), backend="xla_group", **k)  # noqa: E731
    assert plan(headroom=3.0) > 2 * plan(headroom=1.0)
    assert plan(tile_size=4) > plan(tile_size=16)
    assert plan(limit=1500) == 1500


def test_an_empty_scene_wants_little(scene):
    empty = {k: v[:0] if len(v) == 2000 else v for k, v in scene.items()}
    assert capacity.plan_capacity(**_geometry(empty)) == 1024


def test_traced_arrays_are_refused(scene):
    with pytest.raises(ValueError, match="means.*outside jit"):
        jax.jit(lambda m: capacity.plan_capacity(**_geometry(scene) | dict(means=m)))(
            scene["means"]
        )
