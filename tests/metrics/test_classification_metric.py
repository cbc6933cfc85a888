"""metrics.classification and metrics.bootstrap: hand-made cases."""

import numpy as np
import pytest

from gsjax.metrics import bootstrap, classification


def test_ranks_and_averages_by_hand():
    classes = np.eye(3, dtype=np.float32)
    features = np.asarray([[3, 2, 1], [3, 2, 1], [3, 2, 1], [1, 2, 3]]) / np.sqrt(14)
    labels = np.asarray([0, 0, 1, 0])
    ranks = classification.class_ranks(features, classes, labels, block=3)
    np.testing.assert_array_equal(ranks, [1, 1, 2, 3])
    state = classification.TopK.from_ranks(ranks, labels, 3, ks=(1, 2))
    found = state.compute()
    assert found["top1"] == 50.0 and found["top2"] == 75.0
    np.testing.assert_allclose(found["top1_macro"], 100 * (2 / 3 + 0) / 2)
    halves = [
        classification.TopK.from_ranks(ranks[s], labels[s], 3, ks=(1, 2))
        for s in (slice(0, 1), slice(1, 4))
    ]
    assert (halves[0] + halves[1]).compute() == found


def test_constant_features_do_not_win_ties():
    classes = np.tile(np.asarray([[1.0, 0.0]]), (5, 1))
    ranks = classification.class_ranks(np.asarray([[1.0, 0.0]]), classes, np.asarray([2]))
    assert ranks[0] == 5


def test_label_out_of_range_is_refused():
    with pytest.raises(ValueError, match="expected 0 to 1"):
        classification.class_ranks(np.ones((1, 2)), np.ones((2, 2)), np.asarray([2]))


def test_interval_covers_the_mean_at_about_its_level():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        found = bootstrap.mean_interval(rng.normal(size=60), resamples=200, seed=trial)
        covered += found.low <= 0 <= found.high
    assert 86 <= covered <= 100  # 95 expected; 3 standard deviations and the method's own bias


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=200) * 10
    first, second = hard + 1 + rng.normal(size=200), hard + rng.normal(size=200)
    found = bootstrap.paired_difference(first, second, resamples=500)
    assert found.excludes_zero and 0.5 < found.value < 1.5 and found.high - found.low < 1.0


def test_group_means_weigh_classes_equally():
    values, groups = np.asarray([1.0, 1, 1, 0]), np.asarray([0, 0, 0, 5])
    assert bootstrap.mean_interval(values, groups, resamples=10).value == 0.5
    with pytest.raises(ValueError, match="same objects"):
        bootstrap.paired_difference(values, values[:2])


def test_values_that_are_not_finite_are_refused():
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="features: 1 of 1 rows hold NaN"):
        classification.class_ranks(np.full((1, 3), np.nan), x, np.zeros(1, int))
    with pytest.raises(ValueError, match="class_embeds: 3 of 3 rows"):
        classification.class_ranks(x, np.full((3, 3), np.inf), np.zeros(3, int))
