"""main.py: what it says to mistakes, and its exit codes."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = """
from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, res=64)
    config = common.base("clip_gs")
    config.train.batch_size = arg.res
    config.eval.evaluators = dict(retrieval=dict(split="test"))
    return config
"""


@pytest.fixture
def call(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)

    def run(*arguments, argument=""):
        command = [
            sys.executable, "main.py", f"--config={tmp_path}/config.py{argument}",
            f"--workdir={tmp_path}/run", *arguments,
        ]  # fmt: skip
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    "mistake, answer",
    [
        (
            "--config.train.num_step=3",
            'no such setting: config.train.num_step\nDid you mean "num_steps"',
        ),
        (
            "--config.eval.evaluators.retrieval.k=0",
            "give all options: --config.eval.evaluators.retrieval=\"{'k': ...}\"",
        ),
        ("--config.trian.num_steps=3", 'Did you mean "train"'),
        ("--config.optim.lr=fast", "could not convert string to float: 'fast'"),
        ("--confg.train.num_steps=3", "Unknown command line flag"),
    ],
)
def test_mistyped_settings_are_refused_in_a_line_or_two(call, mistake, answer):
    result = call(mistake)
    assert result.returncode == 2
    assert answer in result.stderr and "Traceback" not in result.stderr


def test_an_unknown_config_argument_lists_the_known_ones(call):
    result = call(argument=":quik")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "unknown name 'quik'" in result.stderr and "did you mean 'quick'?" in result.stderr


def test_a_setting_that_cannot_work_gives_one_line_and_the_traceback_on_request(call):
    result = call("--config.mode=trian")
    assert result.returncode == 2
    assert "error: config.mode: unknown mode 'trian'" in result.stderr
    assert "Traceback" not in result.stderr
    result = call("--config.mode=trian", "--traceback")
    assert result.returncode == 1 and "Traceback" in result.stderr


def test_an_incomplete_process_group_is_refused(call):
    result = call("--num_processes=2")
    assert result.returncode == 2
    assert "--coordinator_address, --num_processes and --process_id go together" in result.stderr


def test_main_stays_short():
    assert len((ROOT / "main.py").read_text().splitlines()) < 80
