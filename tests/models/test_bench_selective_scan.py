"""The benchmark of the selective scan runs and reports what it promises."""

import json

import pytest

from gsjax.models import bench_selective_scan

SMALL = ["--batch=1", "--tokens=9", "--channels=3", "--state=2", "--chunk=4", "--repeats=1"]


def test_row_has_ratios_device_and_versions(tmp_path, capsys):
    path = tmp_path / "row.json"
    row = bench_selective_scan.main([*SMALL, f"--json={path}"])
    assert json.loads(path.read_text()) == row
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == row
    assert row["sizes"] == {"batch": 1, "tokens": 9, "channels": 3, "state": 2, "chunk": 4}
    for stage in ("forward", "fwd+bwd"):
        times = [row["seconds"][way][stage] for way in bench_selective_scan.WAYS]
        ratios = [row["ratio to chunked"][way][stage] for way in bench_selective_scan.WAYS]
        assert min(times) > 0
        assert ratios == [t / times[0] for t in times]
    assert {"device", "platform", "jax", "jaxlib", "gsjax"} <= set(row)


def test_sizes_below_1_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench_selective_scan.parse(["--chunk=0"])
    assert "--chunk is 0, expected at least 1" in capsys.readouterr().err
