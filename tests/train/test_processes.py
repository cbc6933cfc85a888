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


PHASES = ["start", "compile", "step", "save", "evaluation"]


def kill_in(phase, draw, run, workdir, log, eval_every):
    """Kills a run in one of its phases, a random moment after the phase was seen to begin."""
    seen = len(text_of(log))

    def said(*texts):
        new = text_of(log)[seen:]
        return any(text in new for text in texts)

    def begun():
        if phase == "start" or run.poll() is not None:
            return True
        if phase == "compile":
            return said("parameters on")
        if phase == "step":
            return said(" loss ")
        if phase == "save":
            return any(p.name.endswith("-tmp") for p in (workdir / "checkpoints").glob("*"))
        return said(*(f"step {k * eval_every} loss" for k in range(1, 100)))

    wait_for(begun, phase, 240)
    longest = {"start": 3.0, "compile": 3.0, "step": 0.5, "save": 0.1, "evaluation": 0.4}[phase]
    try:
        run.wait(timeout=draw.uniform(0, longest))
    except subprocess.TimeoutExpired:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    return run.returncode == -signal.SIGKILL


def assert_kills_change_nothing(tmp_path, begin, *, steps, eval_every):
    """``begin(workdir, log)`` starts a run; ten kills, two in each phase."""
    log, expected, workdir = tmp_path / "log", tmp_path / "whole", tmp_path / "killed"
    assert finish(begin(expected, log), log) == 0
    draw, killed = random.Random(0), []
    phases = PHASES * 2
    draw.shuffle(phases)
    while phases:
        if kill_in(phases[-1], draw, begin(workdir, log), workdir, log, eval_every):
            killed.append(phases.pop())
        else:  # it was done before: once more from the start
            shutil.rmtree(workdir)
    assert finish(begin(workdir, log), log) == 0
    assert len(killed) == 10
    assert processes.digests(workdir, steps) == processes.digests(expected, steps)
    assert processes.losses(workdir) == processes.losses(expected)
    reports = [json.loads((w / "eval.json").read_text()) for w in (workdir, expected)]
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_killed_ten_times_a_run_ends_bit_for_bit_the_same(tmp_path):
    """Kill -9 at random moments of start-up, compilation, steps, saves and evaluations."""
    options = (
        "train.num_steps=200", "train.save_every=3", "train.eval_every=10",
        "batches=10", "width=512",
    )  # fmt: skip
    assert_kills_change_nothing(
        tmp_path,
        lambda workdir, log: processes.start(workdir, *options, log=log),
        steps=200,
        eval_every=10,
    )


CLIP_GS = (
    sys.executable, "main.py", "--config=configs/clip_gs.py:quick", "--config.data.name=synthetic",
    "--config.data.num_objects=64", "--config.train.log_every=1",
)  # fmt: skip


def clip_gs(workdir, log, *options):
    """Starts main.py on CLIP-GS with objects made in memory."""
    settings = (f"--workdir={workdir}", *(f"--config.{o}" for o in options))
    return processes.start(workdir, *settings, command=CLIP_GS, log=log)


@pytest.mark.slow
def test_killed_ten_times_clip_gs_ends_bit_for_bit_the_same(tmp_path):
    options = ("train.num_steps=60", "train.save_every=5", "train.eval_every=10")
    assert_kills_change_nothing(
        tmp_path,
        lambda workdir, log: clip_gs(workdir, log, *options),
        steps=60,
        eval_every=10,
    )


@pytest.mark.slow
def test_two_processes_train_clip_gs_like_one(tmp_path):
    """Through the launcher; then one process goes on from what two wrote."""
    options = (
        "train.save_every=5",
        "train.num_steps=5",
        "optim.schedule=constant",
        "eval.show=False",
    )
    settings = [*CLIP_GS[2:], *(f"--config.{o}" for o in options), "--config.eval.evaluators={}"]
    pair = launch(2, *settings, f"--workdir={tmp_path}/pair", PYTHON=sys.executable)
    assert pair.returncode == 0, pair.stderr[-3000:]
    log = tmp_path / "log"
    assert finish(clip_gs(tmp_path / "one", log, *options, "eval.evaluators={}"), log) == 0
    found, expected = processes.losses(tmp_path / "pair"), processes.losses(tmp_path / "one")
    assert list(found) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    more = ("train.num_steps=8", *options[2:], "eval.evaluators={}")
    for name in ("pair", "one"):
        assert finish(clip_gs(tmp_path / name, log, *more), log) == 0
    found, expected = processes.losses(tmp_path / "pair"), processes.losses(tmp_path / "one")
    assert list(found) == list(range(1, 9))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)


def launch(*arguments, **environment):
    return subprocess.run(
        ["bash", str(processes.ROOT / "launch" / "local.sh"), *map(str, arguments)],
        env={**processes.environment(), **environment},
        capture_output=True, text=True, timeout=400,
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


@pytest.mark.parametrize("code, requeued", [(42, True), (1, False), (0, False)])
def test_the_slurm_script_requeues_after_42_only(tmp_path, code, requeued):
    """With stand-ins for srun and scontrol."""
    notes = tmp_path / "notes"
    commands = {"srun": f"exit {code}", "scontrol": "exit 0"}
    for name, ending in commands.items():
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n{ending}\n')
        script.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    env["SLURM_SUBMIT_DIR"] = str(processes.ROOT)
    script = processes.ROOT / "launch" / "slurm" / "train.sbatch"
    done = subprocess.run(["bash", script, "--config=c.py"], env=env, capture_output=True)
    assert done.returncode == code
    assert "main.py --config=c.py" in notes.read_text()
    assert ("requeue 7" in notes.read_text()) == requeued
