"""The batch files in a real SLURM on this machine: preempted, requeued, resumed, finished.

Opt-in (``-m slow``) and skipped where slurm-wlm and munge are not installed. What SLURM and the run
say is printed (``-s``).
"""

import os
import sys
import time

import numpy as np
import pytest

from tests.launch import slurm
from tests.train import processes

LAUNCH = processes.ROOT / "launch"
TINY = ("mesh.data=-1", "train.num_steps=40", "train.save_every=1000", "train.eval_every=10")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm.missing()),
        reason=f"no SLURM here (apt-get install slurm-wlm munge, as root): {slurm.missing()}",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def _environment(**more):
    return {**processes.environment(), "PYTHON": sys.executable, **more}


def _text(path):
    return path.read_text() if path.exists() else ""


def _checkpoints(workdir):
    """Steps of the checkpoints that are whole."""
    found = (workdir / "checkpoints").glob("*")
    return sorted(int(path.name) for path in found if path.name.isdigit())


def test_two_tasks_are_preempted_and_told_to_stop_and_finish_as_if_undisturbed(tmp_path, cluster):
    """Preempted by a job of a higher partition; then told to stop (scancel), as at a time limit."""
    run, log = tmp_path / "run", tmp_path / "log"
    # Evaluations of 10 s leave time to be interrupted in.
    job = cluster.submit(
        "--partition=low", "--nodes=1", "--ntasks-per-node=2", f"--output={log}",
        LAUNCH / "slurm" / "train.sbatch", run, *TINY, "batches=200",
        environment=_environment(MAIN="-m tests.train.run_tiny"), cwd=processes.ROOT,
    )  # fmt: skip
    cluster.wait(lambda: "step 10 loss" in _text(log), "step 10")
    rival = cluster.submit("--partition=high", "--output=/dev/null", "--wrap=sleep 1")
    assert cluster.field(job, "Requeue") == "1"
    cluster.wait(lambda: "back into the queue" in _text(log), "preemption")
    first = _checkpoints(run)
    assert first and 10 <= first[-1] < 40, "no checkpoint was written before the job was requeued"
    cluster.wait(lambda: cluster.state(rival) == "COMPLETED", "end of the job that took the node")
    cluster.wait(lambda: "step 20 loss" in _text(log), "step 20, by the requeued job")
    assert int(cluster.field(job, "Restarts")) >= 1
    cluster.run("scancel", "--signal=TERM", job)
    cluster.wait(lambda: _text(log).count("back into the queue") == 2, "second requeue")
    assert first[-1] < _checkpoints(run)[-1] < 40
    cluster.wait(
        lambda: cluster.state(job) in ("COMPLETED", "FAILED", "CANCELLED"), "end of the job"
    )
    print(_text(log))
    print(cluster.run("scontrol", "show", "job", job))
    assert cluster.state(job) == "COMPLETED"

    whole = tmp_path / "whole"
    pair = processes.start_pair(whole, *TINY, log=tmp_path / "pair")
    assert [process.wait(timeout=240) for process in pair] == [0, 0]
    assert processes.losses(run) == processes.losses(whole)
    assert processes.digests(run, 40) == processes.digests(whole, 40)


def test_a_cancelled_job_stays_cancelled(tmp_path, cluster):
    """scancel sends SIGTERM, too: the run saves and exits with 42, but must not come back."""
    run, log = tmp_path / "run", tmp_path / "log"
    job = cluster.submit(
        "--ntasks=1", f"--output={log}", LAUNCH / "slurm" / "train.sbatch", run,
        "train.num_steps=1000000", "train.save_every=1000000",
        environment=_environment(MAIN="-m tests.train.run_tiny"), cwd=processes.ROOT,
    )  # fmt: skip
    cluster.wait(lambda: "step 10 loss" in _text(log), "step 10")
    cluster.run("scancel", job)
    cluster.wait(lambda: cluster.state(job) not in ("RUNNING", "COMPLETING"), "end of the job")
    time.sleep(8)  # longer than a requeued job is held back here
    print(_text(log)[-2000:])
    assert cluster.state(job) == "CANCELLED"
    assert "back into the queue" not in _text(log)
    assert _checkpoints(run)


def test_all_tasks_are_started_again_in_the_job_when_one_dies(tmp_path, cluster):
    """Task 1 kills itself once; the other cannot go on alone."""
    script = tmp_path / "mortal.py"
    script.write_text(
        "import os, pathlib, signal, sys, threading, time\n"
        "from tests.train import run_tiny\n"
        "mark = pathlib.Path(sys.argv[1] + '.died')\n"
        "def die():\n"
        "    while not list(pathlib.Path(sys.argv[1], 'checkpoints').glob('[0-9]')): time.sleep(.05)\n"
        "    mark.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ['SLURM_PROCID'] == '1' and not mark.exists():\n"
        "    threading.Thread(target=die, daemon=True).start()\n"
        "run_tiny.main(sys.argv)\n"
    )
    run, log = tmp_path / "run", tmp_path / "log"
    job = cluster.submit(
        "--nodes=1", "--ntasks-per-node=2", f"--output={log}", LAUNCH / "slurm" / "train.sbatch",
        run, "mesh.data=-1", "train.num_steps=8", "train.save_every=4", "train.eval_every=4",
        "batches=100", environment=_environment(MAIN=str(script)), cwd=processes.ROOT,
    )  # fmt: skip
    cluster.wait(lambda: cluster.state(job) in ("COMPLETED", "FAILED"), "end of the job", 240)
    print(_text(log))
    assert cluster.state(job) == "COMPLETED"
    assert _text(log).count("starting all tasks again") == 1
    assert list(processes.losses(run)) == list(range(1, 9))


def test_an_array_requeues_only_the_task_that_has_more_to_do(tmp_path, cluster):
    """Of two tasks, one exits with 42 at first; `gsjax fit-objects` is stood in for."""
    script = tmp_path / "fit.py"
    script.write_text(
        "import pathlib, sys\n"
        "words = sys.argv[1:]\n"
        "options = dict(w[2:].split('=') for w in words if w.startswith('--'))\n"
        "notes = pathlib.Path(options['out'], options['shard'])\n"
        "notes.parent.mkdir(exist_ok=True)\n"
        "with notes.open('a') as f: print(*words, file=f)\n"
        "sys.exit(42 if options['shard'] == '1' and len(open(notes).readlines()) < 2 else 0)\n"
    )
    job = cluster.submit(
        "--array=0-1", "--time=01:00:00", f"--output={tmp_path}/log-%a",
        LAUNCH / "slurm" / "fit_array.sbatch", "objects", f"--out={tmp_path}/out",
        environment=_environment(SHARDS="2", GSJAX_COMMAND=f"{sys.executable} {script}"),
        cwd=processes.ROOT,
    )  # fmt: skip
    cluster.wait(lambda: cluster.state(job).split() == ["COMPLETED"] * 2, "end of the array")
    lines = {i: _text(tmp_path / "out" / str(i)).splitlines() for i in (0, 1)}
    assert [len(lines[i]) for i in (0, 1)] == [1, 2]
    for shard, line in [(0, lines[0][0]), (1, lines[1][0]), (1, lines[1][1])]:
        words = dict(w[2:].split("=") for w in line.split() if w.startswith("--"))
        assert (words["shard"], words["num_shards"]) == (str(shard), "2")
        np.testing.assert_allclose(float(words["time_limit"]), 3600 - 900, atol=60)
    assert "back into the queue" in _text(tmp_path / "log-1")


@pytest.mark.parametrize("name", ["train.sbatch", "fit_array.sbatch"])
def test_slurm_accepts_the_batch_file(name, cluster):
    cluster.run("sbatch", "--test-only", LAUNCH / "slurm" / name, environment=dict(os.environ))
