"""The benchmark of nearest neighbours checks each method against the KD-tree, and reports ratios."""

import json
import mmap

import numpy as np
import pytest

from gsjax.core import nearest
from gsjax.systems.pm_loss import bench


def test_methods_are_compared_with_the_tree(tmp_path, capsys):
    path = tmp_path / "row.json"
    bench.main(["--points=600", "--repeats=1", f"--json={path}"])
    row = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == row
    assert set(row["methods"]) == {"boxes", "blocked"}
    for method in row["methods"].values():
        assert method["wrong"] == 0 and method["seconds"] > 0
        np.testing.assert_allclose(method["to_tree"], method["seconds"] / row["tree_seconds"])
    assert "jax" in row["environment"]


def test_wrong_neighbours_are_counted(monkeypatch, capsys):
    monkeypatch.setattr(nearest, "nearest", lambda q, p, method: 0 * q[:, 0].astype(int))
    row = bench.run(bench.parse(["--points=100", "--methods=any", "--repeats=1"]))
    assert row["methods"]["any"]["wrong"] > 90


def test_memory_is_counted_from_the_start():
    peak = bench.Peak()
    with mmap.mmap(-1, 40 << 20) as fresh:  # not the allocator's: that may hold as much already
        fresh.write(b"1" * (40 << 20))
        if peak.megabytes() is not None:
            assert 35 < peak.megabytes() < 400
    if peak.megabytes() is not None:
        assert peak.megabytes() > 35


def test_sizes_below_2_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench.parse(["--points=1"])
    assert "expected at least 2" in capsys.readouterr().err
