"""The benchmark prints its table and writes its figures; times themselves are not tested."""

import json
import math

import pytest

from gsjax.raster import arg_specs, bench

PEER = """
from gsjax.raster.blend import xla_loop_bin
import jax.numpy as jnp

def prepare(means2d, conics, opacities, depths, radii, width, height, tile):
    return jnp.argsort(depths)

def emit(prepared, begin, closed, width, tile, pairs, lane, lanes):
    return prepared[:5]

def blend(params, prepared, lane, size, options):
    tiles = (-(-size[0] // size[2])) * (-(-size[1] // size[2]))
    color = jnp.ones((tiles, 3, size[2] ** 2)) * jnp.sum(params)
    return color, color[:, 0], 1

def untile(x, width, height, tile):
    across = -(-width // tile)
    x = x.reshape(-1, across, x.shape[1], tile, tile).transpose(0, 3, 1, 4, 2)
    return x.reshape(-1, across * tile, x.shape[-1])[:height, :width]
"""


@pytest.fixture
def tiny(monkeypatch):
    """One small row instead of the real ones."""
    scene = arg_specs.random_scene(0, 50, 20, 20)
    monkeypatch.setattr(bench, "scenes", lambda *args: [("tiny @ 20", scene, 20)])


@pytest.mark.slow
def test_table_ratio_and_json(tiny, tmp_path, capsys):
    peer = tmp_path / "some_peer.py"
    peer.write_text(PEER)
    out = tmp_path / "out.json"
    bench.main([f"--peer={peer}", "--backends=xla_loop", "--repeats=2", f"--json={out}"])
    printed = capsys.readouterr().out
    assert "tiny @ 20" in printed and "geometric mean" in printed
    result = json.loads(out.read_text())
    figures = result["rows"][0]["figures"]
    assert set(figures) == {"xla_loop", "peer"}
    for key in ("bin_ms", "forward_ms", "both_ms", "memory_mb", "compile_s", "ratio"):
        assert figures["xla_loop"][key] > 0
    ratio = figures["xla_loop"]["both_ms"] / figures["peer"]["both_ms"]
    assert math.isclose(result["geometric_mean"]["xla_loop"], ratio)
    assert {"device", "jax", "jaxlib", "python"} <= set(result["environment"])


def test_peer_is_found_beside_the_data_or_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("GSJAX_PEER", raising=False)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "data"))
    assert bench.peer_path(None) is None
    (tmp_path / "proto").mkdir()
    file = tmp_path / "proto" / "tiles_v2.py"
    file.write_text("")
    assert bench.peer_path(None) == file
    assert bench.peer_path("none") is None
    with pytest.raises(ValueError, match="not a file"):
        bench.peer_path(str(tmp_path / "absent.py"))


def test_synthetic_rows_stand_in_for_absent_data(monkeypatch):
    monkeypatch.setenv("GSJAX_DATA", "")
    (name, scene, size), *_ = bench.scenes(False, "10k @ 256")
    assert name == "random 10k @ 256" and size == 256
    assert scene["means"].shape == (10_000, 3)


def test_geometric_mean():
    assert math.isclose(bench.geometric_mean([0.5, 2.0, 1.0]), 1.0)
