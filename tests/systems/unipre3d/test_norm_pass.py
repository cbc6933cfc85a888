"""Norms measured on points alone: the backbone's, all of them, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.evals import batch_statistics
from gsjax.models.backbones import base as backbones
from gsjax.train import state as state_lib
from tests.systems.unipre3d import tiny, tiny_scene


def measured(built, variables, batches=1):
    put = lambda batch: {k: jnp.asarray(v) for k, v in batch.items()}  # noqa: E731
    return batch_statistics.reestimate(built, variables, put, batches=batches, batch_size=8)


def check_one_batch(built, variables, batch, features):
    """With the statistics of one batch, inference on it is what training does, without a picture."""
    found = measured(built, variables)
    before, after = (state_lib.flat(v["batch_stats"]) for v in (variables, found))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("backbone/")}
    backbone, points = features
    own = {name: value["backbone"] for name, value in variables.items() if "backbone" in value}
    expected, _ = jax.jit(lambda v: backbone.apply(v, points, train=True, mutable=["batch_stats"]))(
        own
    )
    again = jax.jit(built.predict_fns["embed"])(found, batch)["gaussian"]
    stale = jax.jit(built.predict_fns["embed"])(variables, batch)["gaussian"]
    size = np.abs(expected.pooled).max()
    assert np.abs(again - expected.pooled).max() < 1e-3 * size
    assert np.abs(stale - expected.pooled).max() > 0.1 * size


def test_an_object_backbone_is_measured_on_points(monkeypatch):
    built = tiny.system()
    batch, variables = tiny.batch(built, 8), tiny.variables(built)
    m = tiny.config().model
    changes = {k: backbones.plain(v) for k, v in m.backbone_changes.items()}
    backbone = backbones.build(m.backbone, m.backbone_size, channels=0, **changes)
    points = backbones.with_features(batch["xyz"], batch["mask"], ())
    check_one_batch(built, variables, batch, (backbone, points))


@pytest.mark.slow
def test_a_scene_backbones_norms_behind_the_fusion_are_measured_without_it(monkeypatch):
    built = tiny_scene.system(monkeypatch)
    batch, variables = tiny_scene.batch(built), tiny.variables(built)
    assert any("fusion" in name for name in variables["batch_stats"])
    m = tiny_scene.config().model
    changes = {k: backbones.plain(v) for k, v in m.backbone_changes.items()}
    backbone = backbones.build(m.backbone, m.backbone_size, channels=6, **changes)
    points = backbones.with_features(
        batch["xyz"], batch["mask"], ("normal", "rgb"), rgb=batch["rgb"], normal=batch["normal"]
    )
    check_one_batch(built, variables, batch, (backbone, points))
