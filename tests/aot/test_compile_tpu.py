"""The kernels compile for real TPUs. See `compile_tpu.py`."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs the wheel libtpu (no TPU)"
    ),
]


def _compiled(*arguments, **environment):
    """What the compiler said of each part, in the order compiled."""
    command = [sys.executable, "-m", "tests.aot.compile_tpu", *arguments]
    options = dict(env=os.environ | environment, capture_output=True, text=True, timeout=1800)
    done = subprocess.run(command, cwd=ROOT, **options)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    lines = (
        line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith("compiled ")
    )
    return [json.loads(line) for _, line in lines]


@pytest.mark.parametrize(
    ("target", "channels"), [("v5e", (1, 3, 32, 512)), ("v4", (3,)), ("v6e", (3,))]
)
def test_kernels_compile(target, channels):
    parts = _compiled("--target", target, "--channels", *map(str, channels))
    expected = [(c, part) for c in channels for part in ("forward", "backward")]
    assert [(p["channels"], p["part"]) for p in parts] == expected
    assert all(p["temporary_bytes"] == 0 for p in parts), parts  # the planes are updated in place


def test_kernels_compile_where_plain_integers_have_64_bits():
    assert len(_compiled("--target", "v5e", JAX_ENABLE_X64="1")) == 2


def test_the_whole_gradient_compiles(record_property):
    (part,) = _compiled("--target", "v5e", "--whole")
    record_property("temporary bytes", part["temporary_bytes"])
    assert 0 < part["temporary_bytes"] < 2**30, part
