"""Differences where runs and objects are both samples."""

import numpy as np
import pytest

from gsjax.metrics import bootstrap


def test_nested_difference_counts_the_spread_of_runs():
    rng = np.random.default_rng(0)
    objects = rng.normal(0, 1, 200)
    alike = np.stack([objects + 1.0] * 4), np.stack([objects] * 4)
    found = bootstrap.nested_difference(*alike, resamples=500)
    assert found.value == pytest.approx(1.0) and found.high - found.low < 1e-9
    shifts = np.asarray([-1.0, 0.0, 2.0, 3.0])[:, None]  # runs that differ as wholes
    spread = bootstrap.nested_difference(alike[1] + shifts, alike[1], resamples=2000)
    assert spread.value == pytest.approx(1.0)
    assert -1.0 <= spread.low < -0.2 and 2.2 < spread.high <= 3.0
    paired = bootstrap.paired_difference(alike[1] + shifts, alike[1])
    assert paired.high - paired.low < 1e-9  # averages runs first: blind to their spread


def test_nested_difference_wants_equal_shapes():
    with pytest.raises(ValueError, match=r"\(1, 3\) and \(2, 3\)"):
        bootstrap.nested_difference(np.zeros(3), np.zeros((2, 3)))
