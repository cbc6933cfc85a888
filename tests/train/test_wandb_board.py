"""Numbers sent to a stand-in of wandb: the same as in metrics.jsonl; a failing client stops no run."""

import json
import sys
import types

import pytest

from gsjax.train import logging as logs
from gsjax.train import wandb_board


class Stand:
    """What is used of wandb."""

    def __init__(self, fail=""):
        self.started, self.rows, self.axes, self.finished = [], [], {}, 0
        self._fail = fail

    def init(self, **options):
        if self._fail == "init":
            raise RuntimeError("no account")
        self.started.append(options)
        return self

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def log(self, row):
        if self._fail == "log":
            raise ConnectionError("no network")
        self.rows.append(row)

    def finish(self):
        self.finished += 1


@pytest.fixture
def stand(request, monkeypatch):
    stand = Stand(getattr(request, "param", ""))
    module = types.ModuleType("wandb")
    module.init = stand.init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv(wandb_board.VARIABLE, "team/splats")
    return stand


def write(folder, start=0):
    log = logs.RunLog(folder, num_steps=2, batch_size=4, start=start)
    log.train(start + 1, {"loss": 2.0, "lr": 0.1}, 0.0)
    log.evaluation(start + 1, {"retrieval/R@1": 0.5})
    log.close()


def test_numbers_are_those_of_the_files(stand, tmp_path):
    folder = tmp_path / "run7"
    folder.mkdir()
    (folder / "config.json").write_text('{"seed": 3}')
    write(folder)
    (options,) = stand.started
    assert (options["entity"], options["project"], options["name"]) == ("team", "splats", "run7")
    assert options["config"] == {"seed": 3}
    (line,) = (json.loads(x) for x in (folder / "metrics.jsonl").open())
    trained, evaluated = stand.rows
    assert trained == {"step": 1, **{f"train/{k}": v for k, v in line.items() if k != "step"}}
    assert evaluated == {"step": 1, "eval/retrieval/R@1": 0.5}
    assert stand.axes == {"train/*": "step", "eval/*": "step"} and stand.finished == 1


def test_a_run_that_goes_on_is_the_same_run_there(stand, tmp_path):
    write(tmp_path)
    write(tmp_path, start=1)
    first, second = stand.started
    assert first["id"] == second["id"] and second["resume"] == "allow"


@pytest.mark.parametrize("stand", ["init", "log"], indirect=True)
def test_a_client_that_fails_stops_no_run(stand, tmp_path):
    write(tmp_path)
    assert (tmp_path / "metrics.jsonl").exists() and (tmp_path / "eval.json").exists()


def test_without_the_variable_nothing_is_imported(monkeypatch, tmp_path):
    monkeypatch.delenv(wandb_board.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert wandb_board.open_from_environment(tmp_path) is None


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(wandb_board.VARIABLE, "splats")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"gsjax\[wandb\]"):
        wandb_board.open_from_environment(tmp_path)
