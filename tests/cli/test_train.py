"""gsjax train and gsjax cost: configs by name, overrides, exit codes, and what a run will take."""

import errno
import json
import os
import subprocess
import sys

import pytest

from configs import clip_gs
from gsjax.cli import cost, main, train
from gsjax.train import checkpoint, config_files, distributed, loop, preemption


@pytest.fixture
def runs(monkeypatch):
    """Configs and folders that would have been run."""
    seen = []
    monkeypatch.setattr(loop, "run", lambda config, workdir: seen.append((config, workdir)))
    return seen


def test_a_config_by_name_with_overrides_is_that_of_main(runs):
    words = ["train", "--config", "clip_gs:quick", "--workdir", "w", "--config.seed=7"]
    assert main.run([*words, "--config.train.num_steps", "3"]) == 0
    ((config, workdir),) = runs
    expected = clip_gs.get_config("quick")
    expected.seed, expected.train.num_steps = 7, 3
    assert workdir == "w" and config.is_locked
    assert config.to_json_best_effort() == expected.to_json_best_effort()


@pytest.mark.parametrize("name", ["clip_gs:quick", "configs/clip_gs.py:quick", "clip_gs.py:quick"])
def test_names_of_the_documentation_need_no_checkout(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_files.path_of(name) == (str(config_files.folder() / "clip_gs.py"), "quick")
    assert config_files.load(name).train.num_steps == 150


def test_a_file_of_ones_own_may_import_the_shared_blocks(tmp_path, runs, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from configs import common\n\ndef get_config(arg=None):\n"
        "    arg = common.parse_arg(arg, size=1)\n    config = common.base('clip_gs')\n"
        "    config.train.num_steps = arg.size\n    return config\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main.run(["train", "--config=mine.py:size=5", "--workdir=w"]) == 0
    assert runs[0][0].train.num_steps == 5


@pytest.mark.parametrize(
    "words, answer",
    [
        (["--config=clip"], "no file 'clip'; expected the path of one, or a name of: clip_gs,"),
        (["--config=absent/clip_gs.py"], "no file 'absent/clip_gs.py'"),
        (["--config=clip_gs:quik"], "did you mean 'quick'?"),
        (["--config=clip_gs", "--config.train.num_step=3"], 'Did you mean "num_steps"'),
        (["--config=clip_gs", "--confg.x=3"], "Unknown command line flag"),
        (["--config=clip_gs", "left", "over"], "unknown arguments ['left', 'over']"),
    ],
)
def test_mistakes_end_with_2_and_a_line(words, answer, runs, capsys):
    try:
        code = main.run(["train", "--workdir=w", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and not runs
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code",
    [
        (preemption.Preempted(3), 42),
        (ValueError("no"), 2),
        (FileNotFoundError("no such file"), 2),
        (OSError(errno.ENOSPC, "full"), 1),
        (TimeoutError("the others are gone"), 1),
        (checkpoint.NotWritten("full"), 1),
    ],
)
def test_exit_codes_are_those_of_main(error, code, monkeypatch):
    def fail(config, workdir):
        raise error

    monkeypatch.setattr(loop, "run", fail)
    assert main.run(["train", "--config=clip_gs", "--workdir=w"]) == code
    if code != 42:
        with pytest.raises(type(error)):
            train.execute(None, "w", traceback=True)


@pytest.mark.parametrize(
    "error, left",
    [(OSError("full"), [1]), (RuntimeError("a peer is gone"), [1]), (ValueError("no"), [])],
)
def test_one_of_several_processes_that_fails_does_not_wait_for_the_others(
    error, left, monkeypatch, capsys
):
    def fail(config, workdir):
        raise error

    class Left(BaseException):
        pass

    def leave(code):
        codes.append(code)
        raise Left

    codes = []
    monkeypatch.setattr(loop, "run", fail)
    monkeypatch.setattr(distributed, "is_one_of_several", lambda: True)
    monkeypatch.setattr(distributed.os, "_exit", leave)
    try:
        assert main.run(["train", "--config=clip_gs", "--workdir=w"]) == 2
    except Left:
        pass
    assert codes == left and str(error) in capsys.readouterr().err


def test_configs_need_no_configs_on_the_path(tmp_path):
    """As in an installed copy: only the package is importable."""
    (tmp_path / "gsjax").symlink_to(config_files.folder().parent / "gsjax")
    (tmp_path / "configs").mkdir()  # a folder of the user's by the same name
    program = (
        "from gsjax.train import config_files as c\n"
        "import gsjax, pathlib\n"
        "places = []\n"
        f"c.folder = lambda: pathlib.Path({str(config_files.folder())!r})\n"
        "print(c.load('unipre3d_scene:quick').system)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout == "unipre3d\n", done.stderr


def test_without_a_command_all_are_listed_by_purpose(capsys):
    assert main.run([]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in main.COMMANDS)
    assert all(f"{purpose}:" in printed for purpose in main.GROUPS)


def test_words_that_no_command_knows_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main.run(["info", "--verbos"])
    assert stop.value.code == 2 and "--verbos" in capsys.readouterr().err


# Cost ------------------------------------------------------------------------------------------

ASK = ["cost", "--config", "clip_gs:quick", "--price", "2.5"]


def test_cost_is_steps_times_seconds_times_price(capsys):
    words = [
        *ASK,
        "--accelerator=h100:8",
        "--seconds_per_step=0.4",
        "--config.train.num_steps=9000",
    ]
    assert main.run(words) == 0
    printed = capsys.readouterr().out
    assert "9000 steps x 0.4 s (as given) = 1 hours" in printed
    assert "1 h x 8 x 2.5 = 20\n" in printed and "not in it" in printed


def test_cost_of_a_procedure_takes_its_steps(capsys):
    words = ["cost", "--config=scene_fit:quick", "--accelerator=cpu", "--price=0"]
    assert main.run([*words, "--seconds_per_step=1", "--config.fit.num_steps=3600"]) == 0
    assert "= 1 hours" in capsys.readouterr().out


@pytest.fixture
def run_folder(tmp_path):
    def make(devices=("NVIDIA H100 80GB HBM3",) * 2, batch_size=16, rows=9):
        times = [9.0, 9.0, 9.0, *[0.5] * (rows - 3)]
        lines = [json.dumps({"step": i + 2, "step_seconds": t}) for i, t in enumerate(times[:rows])]
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + "\n".join(lines) + "\n")
        (tmp_path / "config.json").write_text(json.dumps({"train": {"batch_size": batch_size}}))
        (tmp_path / "versions.json").write_text(json.dumps({"devices": list(devices)}))
        return str(tmp_path)

    return make


def test_cost_reads_the_seconds_of_a_run_of_the_same_setting(run_folder, capsys):
    folder = run_folder()
    assert main.run([*ASK, "--accelerator=h100:2", f"--measured={folder}"]) == 0
    assert f"150 steps x 0.5 s (median of 6 rows of {folder})" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, accelerator, answer",
    [
        (dict(batch_size=64), "h100:2", "batch_size 64 for 16"),
        (dict(), "h100:8", "2 devices for 8"),
        (dict(devices=("cpu",)), "h100", "devices ['cpu'] for 'h100'"),
        (dict(rows=2), "h100:2", "no timed steps"),
    ],
)
def test_seconds_that_do_not_carry_over_are_refused(
    run_folder, changes, accelerator, answer, capsys
):
    folder = run_folder(**changes)
    assert main.run([*ASK, f"--accelerator={accelerator}", f"--measured={folder}"]) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "h100:0", "h100:x", ":8"])
def test_an_accelerator_has_a_kind_and_a_count(text):
    with pytest.raises(ValueError, match="--accelerator"):
        cost.accelerator(text)
