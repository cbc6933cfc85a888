import json

import pytest

from gsjax.raster import gpu_suite, peers


@pytest.mark.slow
def test_a_row_is_timed_against_a_peer_and_printed():
    def peer(made, width, height):
        assert made["means"].shape == (2, 20, 3) and (width, height) == (16, 16)
        return {"forward": lambda: None, "fwd+bwd": lambda: None}

    def refusing(made, width, height):
        raise RuntimeError("other: one scene only")

    row = gpu_suite.Row("random", 20, 16, 16, channels=4, batch=2)
    found = gpu_suite.measure(row, ["xla_loop"], {"peer": peer, "other": refusing}, 2)
    assert set(found["times"]) == {"xla_loop", "peer"}
    assert found["times"]["xla_loop"]["fwd+bwd"]["ms"] > 0 and found["notes"]["xla_loop"] > 0
    text = "\n".join(gpu_suite.lines(found, ["xla_loop"]))
    peer_ms, own_ms = (found["times"][n]["forward"]["ms"] for n in ("peer", "xla_loop"))
    assert "2 x random 20 @ 16x16 C=4" in text
    assert f"ratio to xla_loop: x{peer_ms / own_ms:.2f}" in text
    assert "other: one scene only" in text
    json.dumps(found)


def test_rows_without_data_are_left_out(monkeypatch):
    monkeypatch.delenv("GSJAX_DATA", raising=False)
    assert gpu_suite.scene(gpu_suite.Row("garden", 100, 16, 16)) is None
    assert gpu_suite.measure(gpu_suite.Row("capture", 1, 16, 16), ["xla_loop"], {}, 1) is None


def test_real_rows_have_the_size_they_say(gsjax_data):
    del gsjax_data
    made = gpu_suite.scene(gpu_suite.Row("garden", 300_000, 192, 108, channels=5))
    assert made["means"].shape == (300_000, 3) and made["colors"].shape == (300_000, 5)
    assert (made["means"][138_766:] != made["means"][: 300_000 - 138_766]).any()
    assert gpu_suite.scene(gpu_suite.Row("capture", 1, 64, 64))["colors"].shape[-1] == 3


def test_time_that_is_over_is_said(capsys):
    result = gpu_suite.run(
        gpu_suite.parse(
            ["--quick", "--backends=xla_loop", "--peers=", "--seconds=-1", "--skip-checks"]
        )
    )
    assert len(result["skipped"]) == len(gpu_suite.QUICK) and not result["rows"]
    assert "not run, -1 s are over" in capsys.readouterr().out


def test_peers_that_cannot_run_say_why():
    with pytest.raises(ValueError, match="found 'nerf', expected one of gsplat, splax"):
        peers.build("nerf")
    if reason := peers.why_not("splax"):
        with pytest.raises(RuntimeError, match=reason):
            peers.build("splax")
