"""The benchmark of sparse convolutions measures what it says, on surfaces."""

import json

import numpy as np

from gsjax.core import voxels
from gsjax.models import bench_sparse_conv


def test_rows_and_ratios(tmp_path, capsys):
    out = tmp_path / "rows.json"
    options = ["--sides", "8", "--channels", "2", "--batch", "1", "--repeats", "1"]
    bench_sparse_conv.main([*options, "--json", str(out)])
    result = json.loads(out.read_text())
    tables, conv = result["rows"]
    assert {"searched_3_ms", "refined_5_ms"} <= set(tables["tables"])
    figures = conv["figures"]
    assert set(figures) == {"scan", "gather", "dense"} and conv["channels"] == 2
    for column in ("forward", "fwd_bwd"):
        ratio = figures["scan"][f"{column}_ms"] / figures["dense"][f"{column}_ms"]
        np.testing.assert_allclose(figures["scan"][f"{column}_to_dense"], ratio)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [*result["rows"], result["environment"]]
    assert result["environment"]["jax"] and result["environment"]["device"]


def test_the_voxels_are_a_surface():
    keys = np.asarray(bench_sparse_conv.sets(16, 2))
    valid = keys != voxels.SENTINEL
    assert (np.diff(keys.astype(np.int64)) >= 0).all() and valid.any(1).all()
    # About pi side^2 voxels of side^3, none twice.
    assert all(
        300 < m.sum() < 1600 and len(np.unique(k[m])) == m.sum() for k, m in zip(keys, valid)
    )
