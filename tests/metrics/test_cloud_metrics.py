"""Distances of clouds: by hand, and against scipy's KD-tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import spatial

from gsjax.metrics import clouds

TRUTH = jnp.asarray([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [10, 0, 0]])
PRED = jnp.asarray([[0.0, 0.1, 0], [1, 0, 0.3], [2, 0, 0], [2, 1.0, 0], [50, 0, 0]])
MASK = jnp.asarray([True, True, True, True, False])

_compare = jax.jit(clouds.compare, static_argnames="thresholds")


def test_scores_by_hand():
    # To the truth 0.1, 0.3, 0, 1; from it 0.1, 0.3, 0, 8. The fifth point is masked.
    found = _compare(PRED, TRUTH, thresholds=(0.2, 20), pred_mask=MASK)
    expected = dict(
        accuracy_mean=0.35, accuracy_median=0.2,
        # The last true point is 8 from (2, 0, 0).
        completeness_mean=2.1, completeness_median=0.2,
        precision_20=1, recall_20=1, f_20=1,
    )  # fmt: skip
    expected |= {"precision_0.2": 0.5, "recall_0.2": 0.5, "f_0.2": 0.5}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_f_is_the_harmonic_mean():
    pred = jnp.asarray([[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [6, 0, 0]])
    truth = jnp.asarray([[0.0, 0, 0], [1, 0, 0], [1, 0.01, 0], [20, 0, 0]])
    found = _compare(pred, truth, thresholds=(0.1,))
    p, r = 0.5, 0.75
    assert found["f_0.1"] == pytest.approx(2 * p * r / (p + r))


def test_scores_are_those_of_a_tree_scene_by_scene():
    rng = np.random.default_rng(0)
    pred, truth = rng.normal(size=(2, 301, 3)), rng.normal(size=(2, 260, 3))
    there, known = rng.random((2, 301)) < 0.8, rng.random((2, 260)) < 0.7
    found = _compare(
        jnp.asarray(pred, jnp.float32), jnp.asarray(truth, jnp.float32), thresholds=(0.3,),
        pred_mask=there, truth_mask=known,
    )  # fmt: skip
    for i in range(2):
        p, t = pred[i][there[i]], truth[i][known[i]]
        to_truth, to_pred = spatial.cKDTree(t).query(p)[0], spatial.cKDTree(p).query(t)[0]
        precision, recall = (to_truth <= 0.3).mean(), (to_pred <= 0.3).mean()
        expected = [
            to_truth.mean(), np.median(to_truth), to_pred.mean(), np.median(to_pred), precision,
            recall, 2 * precision * recall / (precision + recall),
        ]  # fmt: skip
        scores = [
            found[name][i]
            for name in (
                "accuracy_mean", "accuracy_median", "completeness_mean", "completeness_median",
                "precision_0.3", "recall_0.3", "f_0.3",
            )
        ]  # fmt: skip
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_medians_of_odd_and_even_numbers(count):
    values = jnp.asarray([4.0, 1.0, 9.0, 2.0, 7.0])
    mask = jnp.arange(5) < count
    assert clouds.median(values, mask) == np.median(values[:count])
    assert np.isnan(clouds.median(values, jnp.zeros(5, bool)))


def test_empty_clouds_and_points_that_are_not_finite():
    none = jnp.zeros(5, bool)
    found = _compare(PRED, TRUTH, thresholds=(1,), pred_mask=none, truth_mask=jnp.ones(4, bool))
    assert np.isnan(found["accuracy_mean"]) and found["completeness_mean"] == np.inf
    assert found["f_1"] == 0 and found["recall_1"] == 0
    all_known = jnp.ones(4, bool)
    found = _compare(PRED, TRUTH, thresholds=(1,), pred_mask=MASK, truth_mask=~all_known)
    assert all(np.isnan(x) for x in found.values())
    # A prediction that has blown up is not forgotten.
    blown = PRED.at[0, 0].set(jnp.nan)
    found = _compare(blown, TRUTH, thresholds=(1,), pred_mask=MASK, truth_mask=all_known)
    assert found["accuracy_mean"] == np.inf and found["precision_1"] == 0.75
    truth = TRUTH.at[3].set(jnp.inf)
    found = _compare(PRED, truth, thresholds=(1,), pred_mask=MASK, truth_mask=all_known)
    assert found["completeness_mean"] == pytest.approx(0.4 / 3, rel=1e-5)


def test_states_merge_and_leave_out_scenes_without_truth():
    metric = jax.jit(clouds.Clouds((0.2,)))
    pred = jnp.stack([PRED, PRED + 1, PRED])
    truth = jnp.stack([TRUTH] * 3)
    known = jnp.ones((3, 4), bool).at[2].set(False)
    there = jnp.stack([MASK] * 3)
    whole = metric(pred, truth, there, known)
    known_first, known_rest = known.at[1:].set(False), known.at[0].set(False)
    parts, rest = (metric(pred, truth, there, known) for known in (known_first, known_rest))
    for name, state in whole.items():
        assert state.count == 2
        np.testing.assert_allclose(
            parts[name].merge(rest[name]).compute(), state.compute(), rtol=1e-6
        )


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"truth_mask: expected shape \[4\], found \[5\]"):
        _compare(PRED, TRUTH, truth_mask=MASK)
    with pytest.raises(ValueError, match=r"pred: expected shape \[..., N, 3\].* found \[0, 3\]"):
        _compare(PRED[:0], TRUTH)
    with pytest.raises(ValueError, match="thresholds: expected distances above 0"):
        _compare(PRED, TRUTH, thresholds=(0,))
