"""The kernels compile for real GPUs: no stack, no spills. See `compile_cuda.py`."""

import pathlib
import re
import subprocess
import sys

import pytest
from jax.experimental.mosaic.gpu import utils as gpu_utils

from gsjax.train.scaling import targets

ROOT = pathlib.Path(__file__).parents[2]
CAN_EMBED_PTX = hasattr(gpu_utils, "inline_ptx")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        targets.missing("h100") is not None,
        reason="needs the wheels jax-cuda12-plugin and jax-cuda12-pjrt (no driver)",
    ),
]


def _reports(target, kernel, channels):
    """Assembler reports by (direction, channels): registers, stack and spill bytes."""
    command = [sys.executable, "-m", "tests.aot.compile_cuda", "--target", target]
    command += ["--kernel", kernel, "--channels", *map(str, channels)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    reports = {}
    for part in re.split(r"^--- ", text, flags=re.M)[1:]:
        direction, count = part.split(maxsplit=2)[:2]
        numbers = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        )
        registers = re.search(r"Used (\d+) registers", part)
        assert numbers and registers, part
        reports[direction, int(count)] = (int(registers[1]), *map(int, numbers.groups()))
    return reports


@pytest.mark.parametrize("target", ["h100", "b200"])
@pytest.mark.parametrize(
    ("kernel", "channels"),
    [
        ("simple", (3,)),
        pytest.param(
            "warp",
            (1, 3, 4, 8, 32),
            marks=pytest.mark.skipif(not CAN_EMBED_PTX, reason="this JAX cannot embed PTX"),
        ),
    ],
)
def test_kernels_compile_without_stack_or_spills(target, kernel, channels, record_property):
    reports = _reports(target, kernel, channels)
    directions = ("forward", "backward") + ("backward_sums",) * (kernel == "warp")
    assert set(reports) == {(d, c) for d in directions for c in channels}
    for name, (registers, *memory) in reports.items():
        record_property(f"{target} {kernel} {name}", registers)
        print(target, kernel, *name, f"{registers} registers")
        assert memory == [0, 0, 0], (name, memory)
        assert registers <= 255
