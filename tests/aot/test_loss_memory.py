"""The loss of 32,768 objects on 256 GPUs fits as predicted. See `loss_memory.py`."""

import json
import subprocess
import sys

import pytest

from tests.aot import test_compile_cuda

pytestmark = [*test_compile_cuda.pytestmark]
if not test_compile_cuda.CAN_EMBED_PTX:
    pytestmark.append(pytest.mark.skip(reason="JAX before 0.11 cannot describe many hosts"))


def test_the_ring_holds_chunks_and_the_gathered_form_one_slot():
    command = [sys.executable, "-m", "tests.aot.loss_memory", "--batch", "32768"]
    command += ["--kinds", "softmax", "sigmoid"]
    done = subprocess.run(
        command, cwd=test_compile_cuda.ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {(row["kind"], row["form"]): row for row in map(json.loads, done.stdout.splitlines())}
    for row in rows.values():
        assert row["devices"] == 256 and row["argument"] < 1.01 * row["predicted"]["inputs"]
        assert row["temp"] >= row["predicted"]["other_side"]
    for kind, slots in (("softmax", 1.3), ("sigmoid", 3)):
        gather, ring = rows[kind, "gather"], rows[kind, "ring"]
        assert gather["peak"] < slots * gather["predicted"]["other_side"]
        assert ring["peak"] < gather["peak"] / 20
