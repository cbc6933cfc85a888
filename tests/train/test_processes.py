"""Runs in processes of their own: signals, kills, two processes as one run, the launcher."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.train import processes

PAIR = ("mesh.data=-1", "train.num_steps=5", "train.save_every=5")


def wait_for(condition, what, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {seconds} s"
        time.sleep(0.01)


def finish(run, log=None):
    code = run.wait(timeout=240)
    if log and code not in (0, 42):
        print(pathlib.Path(log).read_text()[-3000:])
    return code


def text_of(path):
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 20 steps in one process."""
    workdir = tmp_path_factory.mktemp("whole")
    assert finish(processes.start(workdir, "train.num_steps=20")) == 0
    return workdir


def test_sigterm_writes_a_checkpoint_exits_42_and_goes_on_exactly(tmp_path, whole):
    log = tmp_path / "log"
    run = processes.start(
        tmp_path, "train.num_steps=20", "batches=400", "train.eval_every=10", log=log
    )
    wait_for(lambda: "step 10 loss" in text_of(log), "step 10")
    run.send_signal(signal.SIGTERM)  # in the evaluation of step 10, which lasts 20 s
    assert finish(run, log) == 42
    assert (tmp_path / "checkpoints" / "10").is_dir()
    assert finish(processes.start(tmp_path, "train.num_steps=20", log=log), log) == 0
    assert processes.digests(tmp_path, 20) == processes.digests(whole, 20)
    assert processes.losses(tmp_path) == processes.losses(whole)


def test_two_processes_give_one_processs_losses_and_resume_its_checkpoint(tmp_path, whole):
    pair = tmp_path / "pair"
    runs = processes.start_pair(pair, *PAIR, log=tmp_path / "log")
    assert [finish(r, f"{tmp_path}/log.{i}") for i, r in enumerate(runs)] == [0, 0]
    expected = processes.losses(whole)
    found = processes.losses(pair)
    assert list(found) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([found[i] for i in found], [expected[i] for i in found], rtol=1e-6)
    # Two processes go on from the single process's checkpoint.
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    for step in (p for p in (copy / "checkpoints").iterdir() if int(p.name) > 16):
        shutil.rmtree(step)
    options = ("mesh.data=-1", "train.num_steps=20")
    runs = processes.start_pair(copy, *options, log=tmp_path / "log")
    assert [finish(r, f"{tmp_path}/log.{i}") for i, r in enumerate(runs)] == [0, 0]
    found = processes.losses(copy)
    np.testing.assert_allclose([found[i] for i in expected], list(expected.values()), rtol=1e-5)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_at_one_step(tmp_path):
    log = tmp_path / "log"
    options = ("mesh.data=-1", "train.num_steps=100000", "train.save_every=1000000")
    runs = processes.start_pair(tmp_path / "run", *options, log=log)
    wait_for(lambda: "step 20 loss" in text_of(tmp_path / "log.0"), "step 20")
    runs[1].send_signal(signal.SIGTERM)
    assert [finish(r, f"{log}.{i}") for i, r in enumerate(runs)] == [42, 42]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_killed_at_ten_random_moments_a_run_ends_bit_for_bit_the_same(tmp_path):
    """Kill -9 in start-up, compilation, steps, saves and evaluations."""
    options = (
        "train.num_steps=60", "train.save_every=3", "train.eval_every=10",
        "batches=10", "width=512",
    )  # fmt: skip
    expected = tmp_path / "whole"
    began = time.monotonic()
    assert finish(processes.start(expected, *options, log=tmp_path / "log")) == 0
    lasts = time.monotonic() - began
    workdir, draw, moments = tmp_path / "killed", random.Random(0), []
    while len(moments) < 10:
        run = processes.start(workdir, *options, log=tmp_path / "log")
        # Half of the kills fall into the first third, where importing and compiling are.
        moments.append(draw.uniform(0.1, 1.0 if len(moments) % 2 else 0.35) * 0.8 * lasts)
        try:
            run.wait(timeout=moments[-1])
            assert run.returncode == 0
            shutil.rmtree(workdir)  # it was done before the kill: once more from the start
        except subprocess.TimeoutExpired:
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
    assert finish(processes.start(workdir, *options, log=tmp_path / "log"), tmp_path / "log") == 0
    assert processes.digests(workdir, 60) == processes.digests(expected, 60)
    assert processes.losses(workdir) == processes.losses(expected)
    reports = [json.loads((w / "eval.json").read_text()) for w in (workdir, expected)]
    assert reports[0] == reports[1]


def launch(*arguments, **environment):
    return subprocess.run(
        ["bash", str(processes.ROOT / "launch" / "local.sh"), *map(str, arguments)],
        env={**processes.environment(), **environment},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_the_launcher_starts_again_after_42_and_after_deaths_but_not_after_mistakes(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(
        "import pathlib, sys\n"
        "argv = dict(a.lstrip('-').split('=') for a in sys.argv[1:])\n"
        "notes = pathlib.Path(__file__).with_suffix('.' + argv['process_id'])\n"
        "tries = len(notes.read_text()) if notes.exists() else 0\n"
        "notes.write_text('x' * (tries + 1))\n"
        "assert argv['num_processes'] == '2' and argv['coordinator_address']\n"
        "sys.exit([int(c) for c in argv['codes'].split(',')][tries])\n"
    )

    def codes(text, restarts="1"):
        for old in tmp_path.glob("fake.[01]"):
            old.unlink()
        run = launch(
            2, f"--codes={text}", PYTHON=sys.executable, MAIN=str(script), RESTARTS=restarts
        )
        return run.returncode, len((tmp_path / "fake.1").read_text())

    assert codes("0") == (0, 1)
    assert codes("42,42,0") == (0, 3)
    assert codes("1,0") == (0, 2)
    assert codes("1,1,1") == (1, 2)
    assert codes("2,0") == (2, 1)
    assert launch("two").returncode == 2
