"""Whole runs of UniPre3D: stopped and resumed ones, and capacities that are too small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems import resume_case
from tests.systems.unipre3d import tiny, tiny_scene


def run_config():
    """Four steps with everything that a run carries: EMA, augmentation, running statistics."""
    config = tiny.config()
    config.train.num_steps = 4
    config.train.save_every = 100
    config.train.compilation_cache = "off"
    config.mesh.data = 1
    config.data.num_threads = 1
    config.eval.evaluators = {}
    config.eval.show = False
    assert config.data.augment and config.optim.ema > 0
    return config


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    digests, halfway = resume_case.check_resumed_run_is_the_whole(run_config, tmp_path, monkeypatch)
    for kind in ("params/", "ema/", "opt_state/", "collections/batch_stats/"):
        assert any(name.startswith(kind) for name in digests), kind
    # the averaged copy is another one, and the optimiser's state is carried over, not begun anew
    assert digests["ema/head/hidden/kernel"] != digests["params/head/hidden/kernel"]
    moved = [name for name in digests if digests[name] != halfway[name]]
    assert any(name.startswith("opt_state/") for name in moved)


CAPACITIES = {
    "roomy": dict(),
    "few voxels": dict(model__backbone_changes=16),
    "few image voxels": dict(model__fusion_pixels=8),
    "small union": dict(model__fusion_union=32),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CAPACITIES)
def test_what_exceeds_a_capacity_is_counted_and_nothing_breaks(monkeypatch, case):
    overrides = dict(CAPACITIES[case])
    voxels = overrides.pop("model__backbone_changes", None)
    if voxels is not None:
        changes = tiny_scene.config().model.backbone_changes
        changes.voxels = voxels
        overrides["model__backbone_changes"] = changes
    built = tiny_scene.system(monkeypatch, **overrides)
    batch, variables = tiny_scene.batch(built, 2), tiny.variables(built)
    rest = {name: value for name, value in variables.items() if name != "params"}

    def loss(params):
        value, metrics, new = built.loss({"params": params, **rest}, batch, jax.random.key(0), True)
        return value, (metrics, new)

    (value, (metrics, new)), grads = tiny.quick_jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"]
    )
    assert (int(metrics["dropped"]) > 0) == (case != "roomy"), metrics["dropped"]
    for x in jax.tree.leaves((value, metrics, new, grads)):
        assert np.isfinite(x).all()
    assert float(jnp.abs(grads["backbone"]["stem"]["conv"]["kernel"]).max()) > 0
