"""Whole steps and runs: on eight devices as on one, resumed as uninterrupted."""

import numpy as np
import pytest

from gsjax.systems.cross_modal import system
from tests.systems import mesh_case, resume_case
from tests.systems.cross_modal import tiny

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("calls, negatives", [("one", "batch"), ("each", "dataset")])
def test_a_step_on_eight_devices_is_that_on_one(folder, calls, negatives):
    config = tiny.config(folder, model__calls=calls, loss__negatives=negatives)
    built = system.build(config)
    data = built.train_data()
    items = [data[i] for i in range(16)]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    batch["index"] = np.arange(16, dtype=np.int32)  # draws of their own for each
    changed = mesh_case.check_one_against_eight(built, config, batch)
    for part in ("params/pictures", "params/backbone", "params/hidden", "batch_stats/pictures"):
        assert mesh_case.moved(changed, part), part


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(folder, tmp_path, monkeypatch):
    def run_config():
        config = tiny.config(folder)
        config.train.num_steps, config.train.save_every = 4, 100
        config.train.compilation_cache = "off"
        config.data.num_threads = 1
        config.eval.evaluators = {}
        return config

    digests, halfway = resume_case.check_resumed_run_is_the_whole(run_config, tmp_path, monkeypatch)
    moved = [name for name in digests if digests[name] != halfway[name]]
    for kind in ("params/", "opt_state/", "collections/batch_stats/"):
        assert any(name.startswith(kind) for name in moved), kind
