"""The loop in one process: outputs, exact resume, warm start, stopping, evaluation."""

import json
import signal

import jax
import numpy as np
import pytest

from gsjax.train import checkpoint, loop, preemption, sharding
from gsjax.train import state as state_lib
from tests.train import processes, tiny


def params_of(workdir):
    system = tiny.build()
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    mesh = sharding.make_mesh(1, 1)
    abstract = sharding.abstract(shapes, sharding.of_state(mesh, shapes))
    return checkpoint.load_variables(workdir, abstract).arrays


def run(workdir, system=None, **overrides):
    return loop.run(tiny.config(**overrides), workdir, system=system or tiny.build())


def stopping(at_poll):
    """A notice that arrives at a given poll."""

    class Stop(preemption.Preemption):
        def reached(self):
            self._polls += 1
            return self._polls >= at_poll

    return Stop


class CountingEvaluator:
    runs = []

    def __init__(self, system, options):
        self._options = options

    def run(self, variables, put_batch):
        self.runs.append(float(variables["params"]["scale"]))
        for _ in range(3):
            put_batch({"index": np.arange(8, dtype=np.int32)})
        return {"score": self._options["score"]}


@pytest.fixture
def evaluator(monkeypatch):
    CountingEvaluator.runs = []
    monkeypatch.setattr(loop, "_evaluator", lambda name: CountingEvaluator)
    return {"eval__evaluators": {"count": {"score": 7.0}}, "train__eval_every": 6}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir, optim__ema=0.9)
    return workdir


def test_a_run_leaves_everything_in_its_folder(uninterrupted):
    names = {p.name for p in uninterrupted.iterdir()}
    assert {"metrics.jsonl", "checkpoints", "config.json", "versions.json", "eval.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (uninterrupted / "checkpoints" / "12").is_dir()
    losses = processes.losses(uninterrupted)
    assert list(losses) == list(range(1, 13))
    assert np.mean([losses[i] for i in (10, 11, 12)]) < np.mean([losses[i] for i in (1, 2, 3)])
    assert json.loads((uninterrupted / "config.json").read_text())["train"]["num_steps"] == 12
    assert json.loads((uninterrupted / "versions.json").read_text())["packages"]["jax"]


@pytest.mark.parametrize("polls", [[5], [3, 2, 4]])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path, uninterrupted, monkeypatch, polls
):
    for poll in polls:
        with monkeypatch.context() as m:
            m.setattr(preemption, "Preemption", stopping(poll))
            with pytest.raises(preemption.Preempted):
                run(tmp_path, optim__ema=0.9)
    run(tmp_path, optim__ema=0.9)
    assert processes.digests(tmp_path, 12) == processes.digests(uninterrupted, 12)
    assert processes.losses(tmp_path) == processes.losses(uninterrupted)


def test_another_system_seed_or_data_set_is_refused_and_other_learning_rates_go_on(tmp_path):
    config = dict(train__num_steps=2)
    run(tmp_path, **config)
    for change, said in (
        ({"seed": 1}, "seed: found 0, expected 1"),
        ({"data__num_objects": 7}, "data.num_objects: found 512, expected 7"),
    ):
        with pytest.raises(ValueError, match=f"of another run .*{said}"):
            run(tmp_path, **config, **change)
    run(tmp_path, train__num_steps=3, optim__lr=1e-4, data__num_threads=2)
    assert (tmp_path / "checkpoints" / "3").is_dir()


def test_a_real_signal_writes_a_checkpoint(tmp_path):
    system = tiny.build()
    calls = []

    def signalling(variables, batch, rng, train):
        calls.append(signal.raise_signal(signal.SIGTERM))  # while the step is traced
        return system.loss(variables, batch, rng, train)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(preemption.Preempted, match="step 1"):
        run(tmp_path, system=tiny_with(system, loss=signalling))
    assert calls and (tmp_path / "checkpoints" / "1").is_dir()
    assert signal.getsignal(signal.SIGTERM) == before


def tiny_with(system, **changes):
    import dataclasses

    return dataclasses.replace(system, **changes)


def test_lines_past_the_checkpoint_are_dropped_and_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(preemption, "Preemption", stopping(5))
    with pytest.raises(preemption.Preempted):
        run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as f:  # steps a killed run had not saved
        f.write('{"step": 6, "loss": 99.0}\n{"step": 7, "lo')
    monkeypatch.undo()
    run(tmp_path)
    losses = processes.losses(tmp_path)
    assert list(losses) == list(range(1, 13)) and losses[6] < 10


def test_too_many_bad_steps_stop_the_run(tmp_path):
    system = tiny.build(poison=0, poisons=1)
    with pytest.raises(FloatingPointError, match="3 updates in a row"):
        run(tmp_path, system=system, train__max_bad_steps=3)


def test_warm_start_loads_what_fits_and_names_the_rest(tmp_path, uninterrupted, caplog):
    system = tiny.build()

    def wider(rng):
        variables = system.init(rng)
        return {**variables, "params": {**variables["params"], "extra": np.zeros(2, np.float32)}}

    run(
        tmp_path,
        system=tiny_with(system, init=wider),
        init_from=str(uninterrupted),
        train__num_steps=1,
        optim__lr=0.0,
    )
    assert "initialised instead of loaded: params/extra" in caplog.text
    old, new = params_of(uninterrupted), params_of(tmp_path)
    for path in ("params/dense/kernel", "params/head/kernel"):
        np.testing.assert_array_equal(new[path], old[path])


def test_evaluation_in_and_after_training(tmp_path, evaluator):
    result = run(tmp_path, **evaluator)
    assert result == {"count/score": 7.0} and len(CountingEvaluator.runs) == 2
    report = json.loads((tmp_path / "eval.json").read_text())
    assert report["step"] == 12 and [e["step"] for e in report["history"]] == [6, 12]
    again = run(tmp_path, **evaluator)  # finished: nothing is trained or evaluated twice
    assert again == result and len(CountingEvaluator.runs) == 2


def test_a_signal_in_evaluation_saves_and_the_evaluation_is_done_again(
    tmp_path, evaluator, monkeypatch
):
    # Polls: one a step, three in the evaluation of step 6; the 7th is inside it. Step 6 has no
    # regular checkpoint.
    with monkeypatch.context() as m:
        m.setattr(preemption, "Preemption", stopping(7))
        with pytest.raises(preemption.Preempted, match="step 6"):
            run(tmp_path, **evaluator)
    assert (tmp_path / "checkpoints" / "6").is_dir()
    run(tmp_path, **evaluator)
    report = json.loads((tmp_path / "eval.json").read_text())
    assert [e["step"] for e in report["history"]] == [6, 12]


def test_mode_eval_uses_the_newest_checkpoint_and_leaves_the_log_alone(
    tmp_path, uninterrupted, evaluator
):
    result = run(tmp_path, mode="eval", init_from=str(uninterrupted), **evaluator)
    assert result == {"count/score": 7.0}
    assert json.loads((tmp_path / "eval.json").read_text())["step"] == 12
    lines = (uninterrupted / "metrics.jsonl").read_text()
    run(uninterrupted, mode="eval", **evaluator)
    assert (uninterrupted / "metrics.jsonl").read_text() == lines
    with pytest.raises(ValueError, match="no checkpoint found"):
        run(tmp_path / "empty", mode="eval", **evaluator)


def test_eight_devices_resume_what_one_device_wrote(tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setattr(preemption, "Preemption", stopping(6))
    with pytest.raises(preemption.Preempted):
        run(tmp_path)
    monkeypatch.undo()
    run(tmp_path, mesh__data=4, mesh__fsdp=2)
    losses, expected = processes.losses(tmp_path), processes.losses(uninterrupted)
    np.testing.assert_allclose(list(losses.values()), list(expected.values()), rtol=1e-4)


def test_pictures_are_drawn_from_host_copies(tmp_path):
    seen = []

    def show(variables, folder):
        seen.append(state_lib.flat(variables))
        (folder / "a.png").write_bytes(b"")

    run(tmp_path, system=tiny_with(tiny.build(), show=show), train__num_steps=1)
    assert all(isinstance(x, np.ndarray) for x in seen[0].values())
    assert (tmp_path / "pictures" / "a.png").exists()


def test_a_profile_window_is_written(tmp_path):
    run(tmp_path, train__num_steps=3, train__profile__start_step=1, train__profile__num_steps=1)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_unknown_modes_and_evaluators_are_refused(tmp_path):
    with pytest.raises(ValueError, match="known: \\['eval', 'train'\\]"):
        run(tmp_path, mode="trian")
    with pytest.raises(ValueError, match="no module gsjax.evals.nothing"):
        loop._evaluator("nothing")
