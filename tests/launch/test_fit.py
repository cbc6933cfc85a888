"""Launchers of `gsjax fit-objects`: what they run, what they do with exit code 42."""

import argparse
import os
import subprocess

import pytest

from gsjax.cli import fit_objects
from tests.launch import manifests

LAUNCH = manifests.LAUNCH
SBATCH = LAUNCH / "slurm" / "fit_array.sbatch"


def _parse(words):
    """The options of a command line of `gsjax fit-objects`; unknown ones end the test."""
    parser = argparse.ArgumentParser()
    fit_objects.add_arguments(parser)
    return parser.parse_args(words)


def _submit(folder, code=0, left="2:00:00", state="RUNNING", **variables):
    """Runs the batch script with stand-ins for SLURM's commands; its exit code and their arguments."""
    notes = folder / "notes"
    # 70 alone is the whole array, for which squeue prints a line a task.
    squeue = f"case $* in *--job=70_5*) ;; *) echo; echo 1:00;; esac; case $* in *%L*) echo ' {left} ';; *%T*) echo {state};; esac"
    commands = {"srun": f"exit {code}", "scontrol": "exit 0", "squeue": squeue}
    for name, ending in commands.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\necho "{name} $@" >> {notes}\n{ending}\n')
        script.chmod(0o755)
    env = {
        **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "70", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "5", **variables,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", SBATCH, "objects_cc0", "--out=/o", "--recipe=paper"], env=env, capture_output=True
    )
    lines = notes.read_text().splitlines() if notes.exists() else []
    return done.returncode, {line.split()[0]: line.split()[1:] for line in lines}


def test_a_task_of_the_array_fits_its_shard_and_stops_before_its_job_ends(tmp_path):
    code, ran = _submit(tmp_path)
    assert code == 0 and "scontrol" not in ran
    words = ran["srun"]
    args = _parse(words[words.index("fit-objects") + 1 :])
    assert (args.source, args.out, args.recipe) == ("objects_cc0", "/o", "paper")
    assert (args.shard, args.num_shards) == (5, 64)
    assert args.time_limit == 2 * 3600 - 900


@pytest.mark.parametrize(
    "left, limit",
    [("1-02:03:04", 93784 - 900), ("59:08", 3548 - 900), ("10:00", 300), ("UNLIMITED", 0)],
)
def test_the_time_limit_is_what_the_job_has_left_less_a_margin(tmp_path, left, limit):
    _, ran = _submit(tmp_path, left=left)
    assert _parse(ran["srun"][ran["srun"].index("fit-objects") + 1 :]).time_limit == limit


@pytest.mark.parametrize("code, requeued", [(42, True), (1, False), (2, False)])
def test_a_task_goes_back_into_the_queue_after_42_only(tmp_path, code, requeued):
    found, ran = _submit(tmp_path, code)
    assert found == code
    # 70 alone would be the whole array.
    assert ran.get("scontrol") == (["requeue", "70_5"] if requeued else None)


def test_a_task_that_slurm_is_ending_is_left_alone(tmp_path):
    code, ran = _submit(tmp_path, 42, state="COMPLETING")  # cancelled by its owner
    assert code == 42 and "scontrol" not in ran


def test_a_task_gives_up_in_the_end(tmp_path):
    code, ran = _submit(tmp_path, 42, SLURM_RESTART_COUNT="50")
    assert code == 1 and "scontrol" not in ran


def test_a_task_beyond_the_shards_is_a_mistake(tmp_path):
    assert _submit(tmp_path, SHARDS="5") == (2, {})


def _expanded(script, variables):
    """Words of the `gsjax fit-objects` in a shell script, its variables put in by the shell."""
    stub = 'gsjax() { printf "%s\\n" "$@"; }; exec() { "$@"; }; timeout() { shift 2; "$@"; }\n'
    run = subprocess.run(
        ["bash", "-c", stub + script], env={"PATH": os.environ["PATH"], **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = run.stdout.splitlines()
    assert words[0] == "fit-objects"
    return _parse(words[1:])


def test_the_indexed_job_gives_every_index_its_shard_and_starts_42_again():
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (document,) = manifests.load("fit_indexed_job.yaml")
    job = document["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["gsjax", "fit-objects"]
    (shard,) = [item for item in container["env"] if item["name"] == "SHARD"]
    assert "job-completion-index" in shard["valueFrom"]["fieldRef"]["fieldPath"]
    args = _parse([word.replace("$(SHARD)", "7") for word in container["args"]])
    assert (args.shard, args.num_shards) == (7, job["completions"])
    assert (args.source, args.out, args.recipe) == ("/shared/meshes", "/shared/fitted", "fast")
    assert 0 < args.time_limit < pod["activeDeadlineSeconds"]
    assert job["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
    assert "backoffLimit" not in job and job["backoffLimitPerIndex"] > 0
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {"containerName": container["name"], "values": []})
        assert codes["containerName"] == container["name"]
        actions |= {code: rule["action"] for code in codes["values"]}
    assert actions == {fit_objects.EXIT_CODE: "Ignore", 2: "FailJob"}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_the_sky_task_fits_a_shard_and_is_started_again_after_42():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    task = yaml.safe_load((LAUNCH / "sky" / "fit.yaml").read_text())
    assert all(isinstance(value, str) for value in task["envs"].values())
    args = _expanded(task["run"], task["envs"] | {"SHARD": "3", "NUM_SHARDS": "16"})
    assert (args.shard, args.num_shards) == (3, 16)
    assert 0 < args.time_limit < float(task["envs"]["WALL_CLOCK"])
    assert args.out.startswith("/shared/") and "/shared" in task["file_mounts"]
    recovery = task["resources"]["job_recovery"]
    assert fit_objects.EXIT_CODE in recovery["recover_on_exit_codes"]
