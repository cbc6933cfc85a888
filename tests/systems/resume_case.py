"""A run of four steps that is stopped after two and resumed, against one that is not."""

import json

import pytest

from gsjax.train import checkpoint, loop, preemption

NOT_RESULTS = (
    "step_seconds", "examples_per_second", "data_wait", "data_wait_share", "time", "compile_seconds",
    "compile_programs", "compile_cache_hits", "compile_cache_misses",
)  # fmt: skip


class StopAtTwo(preemption.Preemption):
    """A notice that arrives after the second step."""

    def reached(self):
        self._polls += 1
        return self._polls >= 2


def read(workdir):
    """({step: its logged line without times}, {array: digest} of step 4)."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    meta = checkpoint.read_meta(workdir / "checkpoints" / "4")
    kept = {line["step"]: {k: v for k, v in line.items() if k not in NOT_RESULTS} for line in lines}
    return kept, meta["digests"]


def check_resumed_run_is_the_whole(make_config, tmp_path, monkeypatch):
    """Compares lines and arrays bit for bit.

    Args:
        make_config: () -> config of four steps, each logged.

    Returns:
        Digests of the arrays of steps 4 and 2.
    """
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.run(make_config(), whole)
    with monkeypatch.context() as m:
        m.setattr(preemption, "Preemption", StopAtTwo)
        with pytest.raises(preemption.Preempted, match="step 2"):
            loop.run(make_config(), parts)
    assert not (parts / "checkpoints" / "4").exists()
    loop.run(make_config(), parts)
    (lines, digests), (expected_lines, expected) = read(parts), read(whole)
    assert list(lines) == [1, 2, 3, 4] and lines == expected_lines
    assert len({line["loss"] for line in lines.values()}) == 4
    assert digests == expected
    return digests, checkpoint.read_meta(parts / "checkpoints" / "2")["digests"]
