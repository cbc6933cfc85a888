"""The loop of procedures: outputs, exact resume, time limit, bad losses, which checkpoints stay."""

import json
import logging

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from gsjax.systems import base
from gsjax.train import identity, loop, preemption, procedure
from tests.train import processes

STEPS, CHUNK, GROWN_AT = 23, 5, 10


class Walk:
    """Random numbers that are added up row by row; a row more appears at step GROWN_AT."""

    def __init__(self, bad_step: int = 0):
        self.bad_step, self.advanced, self.finished = bad_step, [], []

    def begin(self):
        return {"step": jnp.int32(0), "x": jnp.zeros((4, 2)), "key": jnp.array([7, 9], jnp.uint32)}

    def abstract(self, layout):
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.eval_shape(self.begin) | {
            "x": jax.ShapeDtypeStruct((layout["x"][0][0], 2), jnp.float32)
        }
        put = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device)  # noqa: E731
        return jax.tree.map(put, shapes)

    def advance(self, state):
        step, x = int(state["step"]), state["x"]
        key = jax.random.wrap_key_data(state["key"])
        for _ in range(min(CHUNK, STEPS - step)):
            step += 1
            if step == GROWN_AT:
                x = jnp.concatenate([x, jnp.ones((1, 2))])
            x = 0.9 * x + jax.random.normal(jax.random.fold_in(key, step), x.shape)
        self.advanced.append(step)
        loss = float("nan") if 0 < self.bad_step <= step else float(jnp.mean(x**2))
        return state | {"step": jnp.int32(step), "x": x}, {"loss": loss, "lr": 0.1, "rows": len(x)}

    def evaluate(self, state):
        return {"sum": float(jnp.sum(state["x"]))}

    def finish(self, state, folder):
        self.finished.append(jax.device_get(state))
        np.save(folder / "x.npy", state["x"])

    def as_procedure(self) -> base.Procedure:
        return base.Procedure(
            name="walk", num_steps=STEPS, begin=self.begin, abstract=self.abstract,
            advance=self.advance, step=lambda state: int(state["step"]), evaluate=self.evaluate,
            finish=self.finish, show=("rows",),
        )  # fmt: skip


class StopAt:
    """A notice that arrives at a given poll."""

    def __init__(self, poll: int):
        self.left = poll

    def reached(self) -> bool:
        self.left -= 1
        return self.left == 0


def _config(mode="train", **train):
    settings = dict(log_every=5, eval_every=0, save_every=10, keep=10, time_limit=0.0) | train
    return ml_collections.ConfigDict(dict(mode=mode, train=settings))


def _run(folder, walk=None, stop=None, **options):
    walk = walk or Walk()
    return procedure.run(_config(**options), folder, walk.as_procedure(), stop or StopAt(0))


def _saved(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run, its results and its last state."""
    folder, walk = tmp_path_factory.mktemp("whole"), Walk()
    results = _run(folder, walk)
    assert walk.advanced == [5, 10, 15, 20, 23] and len(walk.finished) == 1
    return folder, results, walk.finished[0]


def test_a_run_finishes_and_leaves_its_results(whole):
    folder, results, state = whole
    assert int(state["step"]) == STEPS and state["x"].shape == (5, 2)
    assert results == {"sum": pytest.approx(float(state["x"].sum()), rel=1e-6)}
    np.testing.assert_array_equal(np.load(folder / "x.npy"), state["x"])
    report = json.loads((folder / "eval.json").read_text())
    assert report["step"] == STEPS and report["metrics"] == results
    assert [entry["step"] for entry in report["history"]] == [STEPS]
    assert {10, 15, 20} <= set(processes.losses(folder))  # each once


def test_out_of_time_it_saves_and_goes_on_to_the_same_bits(whole, tmp_path):
    stops = []
    for _ in range(4):
        walk = Walk()
        with pytest.raises(preemption.Preempted) as error:
            _run(tmp_path, walk, time_limit=1e-9)
        stops.append(error.value.step)
        assert len(walk.advanced) == 1 and not walk.finished and stops[-1] in _saved(tmp_path)
    assert stops == [5, 10, 15, 20]
    walk = Walk()
    results = _run(tmp_path, walk, time_limit=1e-9)  # the last chunk is no reason to stop
    assert walk.advanced == [STEPS] and results == whole[1]
    for name, value in whole[2].items():
        np.testing.assert_array_equal(walk.finished[0][name], value, err_msg=name)
    assert processes.digests(tmp_path, STEPS) == processes.digests(whole[0], STEPS)


def test_a_notice_stops_it_before_and_after_the_rows_grew(whole, tmp_path):
    for poll, step in ((1, 5), (2, 15)):
        with pytest.raises(preemption.Preempted, match=f"step {step};"):
            _run(tmp_path, stop=StopAt(poll))
    walk = Walk()
    _run(tmp_path, walk)
    assert walk.advanced == [20, 23]
    np.testing.assert_array_equal(walk.finished[0]["x"], whole[2]["x"])


def test_a_finished_run_is_evaluated_and_not_advanced(whole, tmp_path):
    _run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text()
    for mode in ("train", "eval"):
        walk = Walk()
        assert _run(tmp_path, walk, mode=mode) == whole[1]
        assert not walk.advanced and len(walk.finished) == 1
    assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_evaluation_without_a_checkpoint_is_refused(tmp_path):
    walk = Walk()
    with pytest.raises(ValueError, match="holds no checkpoint; train first"):
        _run(tmp_path, walk, mode="eval")
    assert not walk.advanced and not walk.finished


def test_evaluation_of_a_run_that_was_stopped_takes_its_checkpoint(tmp_path):
    with pytest.raises(preemption.Preempted):
        _run(tmp_path, stop=StopAt(2))
    walk = Walk()
    _run(tmp_path, walk, mode="eval")
    assert not walk.advanced and int(walk.finished[0]["step"]) == 10
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == 10


def test_a_loss_that_is_not_finite_is_refused_and_not_saved(tmp_path):
    walk = Walk(bad_step=15)
    with pytest.raises(FloatingPointError, match="nan at step 15; .*learning rates"):
        _run(tmp_path, walk, save_every=5)
    assert _saved(tmp_path) == [5, 10] and not walk.finished
    _run(tmp_path)  # what was wrong is mended: it goes on from the last good step
    assert _saved(tmp_path) == [5, 10, 20, 23]


@pytest.mark.parametrize(
    "save_every, keep, expected",
    [(10, 10, [10, 20, 23]), (10, 2, [20, 23]), (5, 1, [23]), (7, 10, [10, 15, 23]), (0, 3, [23])],
)
def test_checkpoints_are_written_and_kept_as_the_config_says(tmp_path, save_every, keep, expected):
    _run(tmp_path, save_every=save_every, keep=keep)
    assert _saved(tmp_path) == expected


def test_evaluations_on_the_way_are_in_the_history(tmp_path):
    _run(tmp_path, eval_every=10)
    report = json.loads((tmp_path / "eval.json").read_text())
    assert [entry["step"] for entry in report["history"]] == [10, 20, 23]


# Which run a folder is of: identity.py, called by loop.run -----------------------------------------

_DATA = dict(source="", downscale=1, num_threads=4)
_FIT = dict(num_steps=STEPS, refine_stop=20, num_gaussians=50)


def _full_config(mode="train", seed=0, data=(), fit=(), **train):
    config = _config(mode, compilation_cache="off", **train)
    config.update(dict(system="walk", seed=seed, data=_DATA | dict(data), fit=_FIT | dict(fit)))
    return config


def _loop(folder, **options) -> Walk:
    """Runs the loop on a fresh walk, as ``gsjax fit`` does."""
    walk = Walk()
    loop.run(_full_config(**options), folder, system=walk.as_procedure())
    return walk


@pytest.mark.parametrize(
    "change, said",
    [
        (
            dict(data={"source": "/scenes/b"}),
            "data.source: found '/scenes/a', expected '/scenes/b'",
        ),
        (dict(data={"downscale": 2}), "data.downscale: found 1, expected 2"),
        (dict(seed=7), "seed: found 0, expected 7"),
        (dict(fit={"num_gaussians": 60}), "fit.num_gaussians: found 50, expected 60"),
        (dict(fit={"refine_stop": 9}), "fit.refine_stop: found 20, expected 9"),
        (dict(fit={"num_steps": 10}), "fit.num_steps: found 23, expected 10"),
    ],
)
def test_the_folder_of_another_run_is_refused_and_stays_as_it_is(tmp_path, change, said):
    _loop(tmp_path, data={"source": "/scenes/a"})
    before = (tmp_path / "config.json").read_bytes(), (tmp_path / "x.npy").read_bytes()
    data = {"source": "/scenes/a"} | change.pop("data", {})
    with pytest.raises(ValueError, match="step 23 of another run .*another folder") as error:
        _loop(tmp_path, data=data, **change)
    assert said in str(error.value) and str(tmp_path / "checkpoints" / "23") in str(error.value)
    assert ((tmp_path / "config.json").read_bytes(), (tmp_path / "x.npy").read_bytes()) == before


def test_rhythm_place_and_a_longer_fit_are_the_same_run(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    with pytest.raises(preemption.Preempted):
        _loop(folder, data={"source": "scene"}, time_limit=1e-9)
    with caplog.at_level(logging.WARNING):
        walk = _loop(
            folder, data={"source": str(tmp_path / "scene"), "num_threads": 1}, log_every=1,
            fit={"num_steps": 2 * STEPS, "refine_stop": 40},
        )  # fmt: skip
    assert walk.advanced == [10, 15, 20, 23] and "config differs" in caplog.text


def test_checkpoints_that_do_not_say_their_run_only_warn(tmp_path, caplog, monkeypatch):
    facts = identity.info
    monkeypatch.setattr(
        identity, "info", lambda c: {k: v for k, v in facts(c).items() if k != identity.KEY}
    )
    _loop(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert not _loop(tmp_path, seed=7).advanced
    assert "config differs" in caplog.text


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="found 2 processes; it runs in one"):
        _run(tmp_path)


def test_what_a_system_fills_into_its_config_is_no_difference():
    config = ml_collections.ConfigDict(dict(system="x", seed=0, model=dict(embed_dim=0, width=3)))
    before = identity.of_config(config)
    config.model.embed_dim = 128
    assert identity.of_config(config) == before
    config.model.width = 4
    assert identity.of_config(config) != before
