"""Validation parts and label fractions: stratified, nested, reproducible."""

import numpy as np
import pytest

from gsjax.data import label_splits

LABELS = np.repeat([0, 1, 2, 5], [30, 11, 1, 4])


def test_validation_takes_its_share_of_every_class():
    kept, held = label_splits.hold_back(LABELS, 0.2, 0)
    assert sorted([*kept, *held]) == list(range(len(LABELS)))
    counts = np.bincount(LABELS[held], minlength=6)
    assert counts.tolist() == [6, 2, 0, 0, 0, 1]
    again = label_splits.hold_back(LABELS, 0.2, 0)[1]
    np.testing.assert_array_equal(held, again)
    assert label_splits.hold_back(LABELS, 0.2, 1)[1].tolist() != held.tolist()
    assert len(label_splits.hold_back(LABELS, 0.0, 0)[1]) == 0


def test_fractions_are_nested_and_keep_every_class():
    small, middle, whole = (label_splits.fraction(LABELS, share, 3) for share in (0.1, 0.5, 1.0))
    assert set(small) < set(middle) < set(whole) == set(range(len(LABELS)))
    assert np.bincount(LABELS[small], minlength=6).tolist() == [3, 2, 1, 0, 0, 1]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match=f"found {share}"):
        label_splits.fraction(LABELS, share, 0)
    if share:
        with pytest.raises(ValueError, match="below 1"):
            label_splits.hold_back(LABELS, share, 0)
