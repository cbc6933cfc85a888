"""The benchmark of grouping checks that its forms agree, and reports ratios."""

import json

import pytest

from gsjax.models import bench_grouping

SMALL = ["--batch=2", "--points=40", "--centres=9", "--samples=8", "--repeats=1"]


@pytest.mark.parametrize("radius", [0.2, 2.5])  # groups with repeats, and full ones
def test_both_forms_are_the_same_groups_and_are_timed(tmp_path, capsys, radius):
    path = tmp_path / "row.json"
    bench_grouping.main([*SMALL, f"--radius={radius}", f"--json={path}"])
    row = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == row
    assert row["to_top_k"]["top_k"] == 1.0 and min(row["milliseconds"].values()) > 0
    assert (row["full"] < 1) == (radius == 0.2)
    assert "jax" in row["environment"]


def test_sizes_below_1_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench_grouping.parse(["--points=0"])
    assert "expected at least 1" in capsys.readouterr().err
