"""Only the backbone moves from one model to another, and only where all of it fits."""

import json

import jax
import ml_collections
import numpy as np
import pytest

from gsjax.cli import main
from gsjax.train import loop, transfer
from gsjax.train import state as state_lib
from tests.systems.unipre3d import tiny as pretraining


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished pre-training run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    config = pretraining.config()
    config.train.num_steps = 2
    config.train.save_every = 2
    config.mesh.data = 1
    config.train.compilation_cache = "off"
    config.eval.evaluators = {}
    loop.run(config, folder)
    return folder, config


def _abstract(config):
    built = pretraining.base.build(config)
    return jax.eval_shape(built.init, jax.random.key(0))


def test_every_array_of_the_backbone_moves_and_no_other(run):
    folder, config = run
    arrays = transfer.backbone_arrays(_abstract(config), folder, config.model)
    assert arrays and all(transfer.is_backbone(name) for name in arrays)
    wanted = [n for n in state_lib.flat(_abstract(config)) if n.split("/")[1] == "backbone"]
    assert sorted(arrays) == sorted(wanted)
    assert any(name.startswith("batch_stats/") for name in arrays)
    fresh = state_lib.flat(pretraining.variables(pretraining.base.build(config), seed=5))
    assert any(np.abs(arrays[n] - fresh[n]).max() > 1e-3 for n in arrays)


def test_an_exported_file_says_the_same(run, tmp_path, capsys):
    folder, config = run
    out = tmp_path / "backbone.safetensors"
    assert main.run(["export-backbone", str(folder), "--out", str(out)]) == 0
    assert "transformer (small), step 2" in capsys.readouterr().out
    direct, _ = transfer.read(folder)
    stored, about = transfer.read(out)
    assert about["system"] == "unipre3d" and about["model"]["backbone"] == "transformer"
    assert sorted(direct) == sorted(stored)
    for name in direct:
        np.testing.assert_array_equal(direct[name], stored[name])


def test_another_backbone_is_refused(run):
    folder, config = run
    changed = ml_collections.ConfigDict(json.loads(config.to_json_best_effort()))
    changed.model.backbone_changes.depth = 2
    with pytest.raises(ValueError, match=r"other settings; model.backbone_changes: found \{"):
        transfer.backbone_arrays(_abstract(config), folder, changed.model)


def test_arrays_that_do_not_fit_are_all_named(run):
    folder, config = run
    flat = state_lib.flat(_abstract(config))
    name = next(n for n in flat if n.endswith("backbone/reduce/kernel"))
    flat[name] = jax.ShapeDtypeStruct((3, 3), np.float32)
    flat["params/backbone/extra"] = jax.ShapeDtypeStruct((1,), np.float32)
    del flat["params/backbone/cls_token"]
    with pytest.raises(ValueError) as error:
        transfer.backbone_arrays(state_lib.nested(flat), folder, config.model)
    for part in (
        "params/backbone/extra: missing there",
        "params/backbone/cls_token: not in this model",
        "params/backbone/reduce/kernel: found (16, 16), expected (3, 3)",
    ):
        assert part in str(error.value)


def test_files_without_a_backbone_are_refused(tmp_path, capsys):
    assert main.run(["export-backbone", str(tmp_path), "--out", "x.safetensors"]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert main.run(["export-backbone", str(tmp_path), "--out", "x.bin"]) == 2
    assert "ends in .safetensors" in capsys.readouterr().err
