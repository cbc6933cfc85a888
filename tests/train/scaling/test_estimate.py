"""Times from counts and rates, and the table."""

import math

import pytest

from gsjax.train.scaling import estimate

CHIP = estimate.Chip(
    name="toy", flops=dict(bf16=100.0, fp32=10.0, other=10.0), memory=50.0, link=4.0, network=1.0,
    capacity=1.0,
)  # fmt: skip
FULL = estimate.Shares(1.0, 1.0, 1.0)


def row(devices, **changes):
    made = dict(
        config="c.py", devices=devices, fsdp=1, batch=2 * devices, per_device=2, status="compiled",
        flops=dict(bf16=300.0 * devices, other=20.0 * devices), memory_traffic=100,
        collectives={} if devices == 1 else {
            "all-reduce": dict(count=1, bytes=9, wire=16.0, wire_between_hosts=4.0, unknown=0)
        },
        memory=dict(peak=10**9), unknown_loops=0, unknown_loops_compiled=0, opaque={},
    )  # fmt: skip
    return made | changes


def test_times_by_hand():
    found = estimate.times(row(8), CHIP, FULL)
    assert found.arithmetic == 300 / 100 + 20 / 10
    assert found.memory == 100 / 50
    assert found.communication == 12 / 4 + 4 / 1
    assert (found.device, found.apart, found.overlapped) == (5.0, 12.0, 7.0)
    halved = estimate.times(row(8), CHIP, estimate.Shares(0.5, 0.5, 0.5))
    assert halved.apart == 24.0
    bound = estimate.times(row(8, memory_traffic=500), CHIP, FULL)
    assert bound.device == 10.0


def test_efficiency_by_hand():
    found = estimate.efficiency(row(8), row(1), CHIP, FULL)
    assert found == pytest.approx((5 / 12, 5 / 7))
    assert estimate.efficiency(row(1), row(1), CHIP, FULL) == pytest.approx((1.0, 1.0))
    larger = row(8, batch=32, flops=dict(bf16=4800.0, other=320.0))
    assert math.isclose(estimate.efficiency(larger, row(1), CHIP, FULL)[1], 1.0)


def test_table_says_what_was_not_compiled_and_what_is_a_lower_bound():
    rows = [row(1), row(8, unknown_loops=3), row(64, status="not done in 1200 s")]
    text = estimate.table(rows, CHIP, FULL)
    lines = text.splitlines()
    assert "arithmetic 1.0" in lines[0]
    assert len({line.count("|") for line in lines[2:]}) == 1
    assert "0.71 .. 0.42" in lines[5] and "lower bound" in lines[5]
    assert lines[6].endswith("| not done in 1200 s |")


def test_a_kind_of_arithmetic_without_a_rate_is_named():
    with pytest.raises(ValueError, match=r"toy has no published rate for \['fp64'\]"):
        estimate.times(row(1, flops=dict(fp64=1.0)), CHIP)


def test_a_slice_of_tpus_sends_nothing_to_other_hosts():
    sums = dict(count=1, bytes=9, wire=4e9, wire_between_hosts=0.0, unknown=0)
    made = row(8, collectives={"all-reduce": sums})
    assert estimate.times(made, estimate.V5E, FULL).communication == 4e9 / 200e9


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_shares_lie_in_the_unit_interval(share):
    with pytest.raises(ValueError, match="shares.memory"):
        estimate.Shares(memory=share)
