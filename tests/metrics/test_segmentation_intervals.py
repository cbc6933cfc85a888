"""Intervals of a mean IoU over scenes."""

import numpy as np
import pytest

from gsjax.metrics import segmentation, segmentation_intervals


def _scenes(rng, count=12, classes=4, right=0.7):
    counts = rng.integers(0, 40, (count, classes, classes))
    counts[:, range(classes), range(classes)] += int(400 * right)
    counts[:, 0] = 0  # class 0 is nowhere
    counts[: count // 2, 3] = 0  # class 3 in half of the scenes
    return counts


def test_the_value_is_the_miou_of_all_points_and_lies_within():
    counts = _scenes(np.random.default_rng(0))
    found = segmentation_intervals.miou(counts, resamples=300)
    expected = segmentation.Confusion(counts.sum(0)).compute()["miou"]
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_more_scenes_make_it_narrower_and_more_points_do_not():
    rng = np.random.default_rng(1)
    few = _scenes(rng, 8)
    width = lambda counts: np.ptp(  # noqa: E731
        [getattr(segmentation_intervals.miou(counts, resamples=400), x) for x in ("low", "high")]
    )
    assert width(np.concatenate([few] * 16)) < 0.5 * width(few)
    assert width(100 * few) == pytest.approx(width(few))


def test_a_resample_without_a_class_is_averaged_over_the_others():
    # Class 1 is perfect and everywhere; class 2, always missed, is in one scene of two.
    counts = np.zeros((2, 3, 3), int)
    counts[:, 1, 1] = 10
    counts[1, 2, 0] = 10
    found = segmentation_intervals.miou(counts, resamples=200)
    assert (found.value, found.low, found.high) == (50.0, 50.0, 100.0)


def test_repetitions_are_averaged():
    rng = np.random.default_rng(2)
    runs = np.stack([_scenes(rng), _scenes(rng, right=0.3)])
    found = segmentation_intervals.miou(runs, resamples=50)
    alone = [segmentation_intervals.miou(run, resamples=50).value for run in runs]
    assert found.value == pytest.approx(np.mean(alone))


def test_a_difference_on_the_same_scenes_is_paired():
    rng = np.random.default_rng(3)
    counts = np.zeros((10, 2, 2), int)
    counts[:, 1, 1] = rng.integers(10, 1000, 10)  # scenes of very different difficulty
    counts[:, 1, 0] = rng.integers(10, 1000, 10)
    worse = counts.copy()
    worse[:, 1, 1] -= 5
    worse[:, 1, 0] += 5
    found = segmentation_intervals.miou_difference(counts, worse, resamples=300)
    single = segmentation_intervals.miou(counts, resamples=300)
    assert found.excludes_zero and found.value > 0
    assert found.high - found.low < 0.1 * (single.high - single.low)
    same = segmentation_intervals.miou_difference(counts, counts, resamples=20)
    assert same.value == same.low == same.high == 0


def test_what_cannot_be_compared_is_refused():
    counts = _scenes(np.random.default_rng(4))
    with pytest.raises(ValueError, match="same scenes and classes"):
        segmentation_intervals.miou_difference(counts, counts[:5])
    with pytest.raises(ValueError, match="the numbers of points of the true classes differ"):
        segmentation_intervals.miou_difference(counts, counts[::-1])
    with pytest.raises(ValueError, match=r"confusions: expected \[S, C, C\]"):
        segmentation_intervals.miou(counts[0])
    with pytest.raises(ValueError, match="confusions: no point has a label"):
        segmentation_intervals.miou(np.zeros((2, 3, 3)))
