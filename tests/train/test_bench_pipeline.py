"""The benchmark of pipelines reads what a run reads, and its arithmetic is right."""

import json

import grain
import numpy as np
import pytest

from gsjax.systems import base
from gsjax.train import bench_pipeline, loop
from tests.train import tiny


@pytest.fixture
def slow(monkeypatch):
    """The tiny system, whose every example takes a moment of a core."""
    read = []

    def busy(example):
        read.append(int(example["index"]))
        sum(range(20_000))
        return example

    system = tiny.build()
    made = grain.MapDataset.source(tiny.Points()).map(busy)
    changed = {**vars(system), "train_data": lambda: made}
    monkeypatch.setattr(base, "build", lambda config: base.System(**changed))
    return read


def test_a_row_counts_examples_bytes_and_cores(slow):
    config = tiny.config(data__num_threads=2)
    row = bench_pipeline.measure(config, batches=5, warm_up=1)
    assert (row["global_batch"], row["hosts"], row["threads"]) == (16, 1, 2)
    assert 5 * 16 <= row["records"] <= len(slow)
    example = tiny.Points()[0]
    assert row["delivered_mb_a_record"] == pytest.approx(
        sum(value.nbytes for value in example.values()) / 1e6
    )
    assert row["core_seconds_a_record"] > 1e-4  # twenty thousand sums
    assert row["seconds_a_batch"] == pytest.approx(16 / row["records_per_second"], rel=0.01)
    assert row["cores_used"] == pytest.approx(
        row["core_seconds_a_record"] * row["records_per_second"], rel=0.01
    )


def test_one_of_four_hosts_reads_a_quarter_of_every_batch(slow):
    row = bench_pipeline.measure(tiny.config(data__num_threads=0), batches=3, warm_up=0, hosts=4)
    assert row["hosts"] == 4 and row["records"] == len(slow) == 3 * 4


def test_no_batch_is_begun_after_the_time_is_up(slow):
    row = bench_pipeline.measure(tiny.config(data__num_threads=0), batches=99, seconds=0.0)
    assert row["records"] == 16


def test_what_buffers_held_when_the_clock_started_does_not_count(slow):
    config = tiny.config(data__num_threads=4, data__prefetch=500)
    made = bench_pipeline.measure(config, batches=8, warm_up=1)["records"]
    assert 8 * 16 <= made < len(slow)


def test_sequences_that_depend_on_the_step_are_counted_too():
    class Steps:
        def __len__(self):
            return 4

        def endless(self, seed, global_batch):
            return grain.MapDataset.source(range(seed + global_batch))

    counter = bench_pipeline._Counter()
    watched = counter.watch(Steps())
    sequence = watched.endless(3, 5)
    assert len(watched) == 4 and [sequence[i] for i in range(8)] == list(range(8))
    assert counter.made == 8


def test_batches_are_those_of_a_training_run(slow):
    config = tiny.config()
    source = loop.train_source(config, base.build(config))
    with source:
        batch = next(source)
    assert {k: v.shape for k, v in batch.items()} == {
        k: (16, *spec.shape) for k, spec in tiny.SPEC.items()
    }
    halves = []
    for index in range(2):
        with loop.train_source(config, base.build(config), index, 2) as part:
            halves.append(next(part)["index"])
    np.testing.assert_array_equal(np.concatenate(halves), batch["index"])


def test_what_a_step_needs_is_computed_from_core_seconds():
    row = dict(global_batch=384, hosts=4, records_per_second=100.0, core_seconds_a_record=0.01)
    found = bench_pipeline.needs(row, 0.5)
    # 96 examples in half a second; twice that at 10 ms each.
    assert found == dict(
        step_seconds=0.5, needed_records_per_second=192.0, ratio=0.5208, cores_for_twice=3.84
    )
    with pytest.raises(ValueError, match="step_seconds: expected a time above 0"):
        bench_pipeline.needs(row, 0.0)


def scaling_row(**changes):
    row = dict(
        config="configs/pm_loss.py:paper", target="h100", devices=8, fsdp=1, batch=8, status="compiled",
        flops={"fp32": 8 * 67e12 * 0.4}, memory_traffic=1.0, collectives={},
    )  # fmt: skip
    return row | changes


def test_steps_are_those_of_one_host_at_the_same_size(tmp_path):
    path = tmp_path / "scaling.jsonl"
    assert bench_pipeline.estimated_step(path, "pm_loss", True) is None
    rows = [
        scaling_row(),  # one second of arithmetic on each of eight
        scaling_row(devices=64, batch=64, flops={"fp32": 1.0}),
        scaling_row(status="not done in 1200 s"),
        scaling_row(config="configs/pm_loss.py:quick", batch=2),
        scaling_row(config="configs/clip_gs.py:paper,size=giant", batch=384),
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = bench_pipeline.estimated_step(path, "pm_loss", True)
    assert found["batch"] == 8 and found["step_seconds"] == pytest.approx(1.0)
    assert bench_pipeline.estimated_step(path, "pm_loss", False)["batch"] == 2
    assert bench_pipeline.estimated_step(path, "cross_modal", True) is None


def test_a_system_without_batches_is_refused(monkeypatch):
    monkeypatch.setattr(base, "build", lambda config: object())
    with pytest.raises(ValueError, match="trains on no batches"):
        bench_pipeline.measure(tiny.config(), batches=1)
