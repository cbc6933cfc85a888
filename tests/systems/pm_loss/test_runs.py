"""Whole runs of PM-Loss: stopped and resumed ones, eight devices, changing numbers of views, warm starts."""

import json

import jax
import numpy as np
import pytest

from gsjax.io import safetensors_file
from gsjax.systems import base
from gsjax.train import loop, warm_start
from gsjax.train import state as state_lib
from tests.systems import mesh_case, resume_case
from tests.systems.pm_loss import tiny


def run_config(steps=4, **overrides):
    config = tiny.config(**overrides)
    config.train.num_steps = steps
    config.train.save_every = 100
    config.train.compilation_cache = "off"
    config.mesh.data = 1
    config.eval.evaluators = {}
    config.eval.show = False
    return config


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    digests, halfway = resume_case.check_resumed_run_is_the_whole(
        lambda: run_config(loss__guard=0.5, loss__guard_start=1), tmp_path, monkeypatch
    )
    assert any(name.startswith("collections/guard/") for name in digests)
    assert any(digests[n] != halfway[n] for n in digests if n.startswith("opt_state/"))


@pytest.mark.slow
def test_a_step_on_eight_devices_is_that_on_one():
    config = tiny.config(loss__guard=0.5, loss__guard_start=1, loss__smooth=0.1)
    system = base.build(config)
    changed = mesh_case.check_one_against_eight(system, config, tiny.batch(system, 8))
    for part in ("params/backbone/cnn", "params/cost", "params/refine", "guard/steps"):
        assert mesh_case.moved(changed, part), part


@pytest.mark.slow
def test_steps_may_have_different_numbers_of_views(tmp_path):
    config = run_config(6, data__context_views=(2, 3), train__log_every=1)
    loop.run(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    found = [line["views"] for line in lines if "views" in line]
    assert len(found) == 6 and set(found) == {2.0, 3.0}
    assert np.isfinite([line["loss"] for line in lines if "loss" in line]).all()


def test_a_run_may_start_from_a_file_of_weights(tmp_path):
    built = tiny.system()
    abstract = jax.eval_shape(built.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=x.shape).astype(np.float32)
        for name, x in state_lib.flat(abstract).items()
    }
    path = tmp_path / "model.safetensors"
    safetensors_file.save_arrays(path, arrays)
    found = warm_start.load_variables(path, abstract)
    assert found.missing == [] and found.step == 0
    for name, value in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], value)
    first = next(iter(arrays))
    arrays[first] = arrays[first][..., None]
    arrays["params/elsewhere"] = np.zeros(3, np.float32)
    safetensors_file.save_arrays(path, arrays)
    with pytest.raises(ValueError, match="2 of its .* arrays do not fit the model.*elsewhere"):
        warm_start.load_variables(path, abstract)
