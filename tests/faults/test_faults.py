"""A fault of each kind, and how the matrix is planned and told. The whole of it: tests.faults.run."""

import json
import random

import pytest

from tests.faults import cases, damage, disk, report, run
from tests.faults.job import Topology

SAMPLE = (
    "kill_worker:0,kill_coordinator:2,sigterm:0,kill_in_save:0,"
    "other_processes:1,other_devices:0,bit_flipped:0,disk_full:0"
)


@pytest.mark.slow
def test_eight_faults_lose_nothing_beyond_the_last_checkpoint(tmp_path):
    """Eight kinds; 1 and 2 processes, 1 and 2 devices. One test, as all share the undisturbed runs."""
    out = tmp_path / "rows.jsonl"
    code = run.main(["--only", SAMPLE, "--out", str(out), "--keep", str(tmp_path / "keep")])
    rows = run.rows_of(out)
    assert len(rows) == len({row["kind"] for row in rows}) == 8
    assert code == 0, "\n".join(report.line(row) for row in rows)
    again = run.main(["--only", SAMPLE, "--out", str(out)])
    assert again == 0 and run.rows_of(out) == rows  # what is there is passed over


def test_the_whole_matrix_has_a_hundred_faults_and_eight_of_each_kind():
    plan = cases.plan(seed=0)
    assert len(plan) >= 100 and len({case.key for case in plan}) == len(plan)
    assert min(sum(case.kind == kind for case in plan) for kind in cases.KINDS) >= 8
    assert {case.before.processes for case in plan} == {1, 2, 4}
    moved = [case for case in plan if case.kind == "other_processes"]
    assert {(c.before.processes, c.after.processes) for c in moved} == {
        (a, b) for a in (1, 2, 4) for b in (1, 2, 4) if a != b
    }


def test_a_fault_is_told_by_kind_number_and_seed():
    one, same, other = (cases.case("sigterm", 3, seed) for seed in (0, 0, 1))
    assert one.draw().random() == same.draw().random() != other.draw().random()
    assert cases.plan(0, "sigterm:3") == [one] and one.command.endswith("sigterm:3 --seed 0")
    assert one.before == one.after == Topology(2, 1)
    with pytest.raises(ValueError, match="unknown kind 'flood'; known: kill_worker"):
        cases.plan(0, "flood")


@pytest.mark.parametrize("kind", ["truncated", "bit_flipped", "file_missing"])
def test_damage_is_of_one_file(tmp_path, kind):
    (tmp_path / "d").mkdir()
    contents = {"d/large": bytes(range(256)), "small": b"1234"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    done = damage.inflict(kind, tmp_path, random.Random(0), vital=True)
    assert done["file"] == "d/large" and (tmp_path / "small").read_bytes() == b"1234"
    path = tmp_path / "d" / "large"
    if kind == "file_missing":
        assert not path.exists()
        return
    found, before = path.read_bytes(), contents["d/large"]
    if kind == "truncated":
        assert found == before[: done["place"]] and len(found) < len(before)
    else:
        bits = [(a ^ b).bit_count() for a, b in zip(found, before, strict=True)]
        assert sum(bits) == bits[done["place"]] == 1


def test_a_small_disk_fills_to_the_byte_it_is_told(tmp_path):
    try:
        with disk.SmallDisk.mounted(tmp_path / "disk") as small:
            small.fill(leave=50_000)
            with pytest.raises(OSError, match="No space left"):
                (small.folder / "big").write_bytes(bytes(60_000))
            (small.folder / "big").unlink()
            small.free()
            (small.folder / "big").write_bytes(bytes(60_000))
    except OSError as error:
        if "no tmpfs" not in str(error):
            raise
        pytest.skip(str(error))


def test_the_report_counts_by_kind_and_names_what_went_wrong(tmp_path):
    row = dict(kind="sigterm", number=0, seed=0, before="2x1", after="2x1", phase="step", reached=7)
    row |= dict(resumed=7, lost=0, same_bits=True, seconds=60.0, cpu_seconds=30.0, wrong=[])
    row |= dict(outcome="recovered", command="c")
    bad = {**row, "number": 1, "lost": 9, "outcome": "wrong", "wrong": ["9 steps lost"]}
    out = tmp_path / "rows.jsonl"
    out.write_text(json.dumps(row) + "\n" + json.dumps(bad) + '\n{"kind": "sig')
    text = report.table(run.rows_of(out))
    assert "| SIGTERM to one process | 2 | step 2 | 1 of 2 | 9, 9 | 2 of 2 bit for bit |" in text
    assert "2 faults, 1 recovered" in text and "9 steps lost: `c`" in text
