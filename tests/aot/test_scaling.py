"""The table of scaling, from a tiny CLIP-GS compiled for devices that are not here. See `gsjax.train.scaling`."""

import json
import subprocess
import sys

import pytest

from gsjax.train.scaling import targets
from tests.aot import test_compile_cuda

pytestmark = pytest.mark.slow
TINY = ["--config.data.name=shapes", "--config.loss.sharding=ring"] + [
    f"--config.model.{name}={value}"
    for name, value in dict(embed_dim=32, width=32, hidden=64, depth=1).items()
]


def _run(results, *more):
    command = [sys.executable, "-m", "gsjax.train.scaling", "--config=configs/clip_gs.py:quick"]
    done = subprocess.run(
        [*command, *TINY, f"--results={results}", *more],
        cwd=test_compile_cuda.ROOT, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_eight_and_sixty_four_devices(tmp_path, target):
    if remedy := targets.missing(target):
        pytest.skip(f"no compiler for {target}: {remedy}")
    results = tmp_path / "scaling.jsonl"
    table = _run(results, f"--target={target}", "--devices=8,64")
    rows = {row["devices"]: row for row in map(json.loads, results.read_text().splitlines())}
    assert [row["status"] for row in rows.values()] == ["compiled"] * 2
    few, many = rows[8], rows[64]
    assert few["batch"] == 8 * few["per_device"] and many["batch"] == 64 * many["per_device"]
    # The ring's chunks go round as often as there are devices; the loss looks at text and K views.
    hops = {n: row["collectives"]["collective-permute"] for n, row in rows.items()}
    assert hops[64]["count"] == 8 * hops[8]["count"]
    assert hops[64]["bytes"] == 8 * hops[8]["bytes"]
    assert hops[8]["wire_between_hosts"] == 0
    assert (hops[64]["wire_between_hosts"] > 0) == (target == "h100")  # one slice holds 64 chips
    # Gradients are summed once, whatever the number of devices.
    sums = {n: row["collectives"]["all-reduce"]["bytes"] for n, row in rows.items()}
    assert sums[8] >= 4 * few["parameters"] and sums[64] < 1.1 * sums[8]
    assert table.count("\n| configs/clip_gs.py:quick ") == 2

    _run(results, f"--target={target}", "--devices=8")  # known by the hash of the lowered program
    assert len(results.read_text().splitlines()) == 2
