"""Errors of depth maps, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.metrics import depth

TRUTH = jnp.asarray([[[1.0, 2.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
PRED = jnp.asarray([[[1.1, 1.0], [4.0, 7.0]], [[1.0, np.nan], [1.0, 1.0]]])


def test_values_by_hand_with_unknown_pixels_left_out():
    # Relative errors 0.1, 0.5, 0; ratios 1.1, 2, 1; the fourth pixel is unknown.
    np.testing.assert_allclose(depth.abs_rel(PRED, TRUTH), [0.2, np.nan], rtol=1e-6)
    np.testing.assert_allclose(depth.rmse(PRED, TRUTH)[0], np.sqrt((0.01 + 1) / 3), rtol=1e-6)
    np.testing.assert_allclose(depth.within(PRED, TRUTH), [2 / 3, np.nan], rtol=1e-6)
    mask = jnp.asarray([[[True, False], [False, True]]] * 2)
    np.testing.assert_allclose(depth.abs_rel(PRED, TRUTH, mask)[0], 0.1, rtol=1e-5)


def test_closeness_is_symmetric_and_refuses_what_is_no_depth():
    truth = jnp.full((1, 5), 2.0)
    pred = jnp.asarray([[2.49, 1.61, 1.59, 0.0, -2.0]])
    assert depth.within(pred, truth) == pytest.approx(0.4)
    swapped = depth.within(truth, pred)  # the last two are unknown depths then
    assert swapped == pytest.approx(2 / 3)
    assert depth.within(jnp.full((1, 2), jnp.nan), jnp.ones((1, 2))) == 0


@pytest.mark.parametrize("metric", [depth.AbsRel(), depth.Rmse(), depth.Within()])
def test_states_merge_over_pictures_with_known_depth(metric):
    rng = np.random.default_rng(0)
    truth = jnp.asarray(rng.uniform(1, 3, (5, 4, 4)), jnp.float32).at[2].set(0.0)
    pred = truth + jnp.asarray(rng.normal(size=truth.shape), jnp.float32)
    run = jax.jit(metric)
    merged = run(pred[:2], truth[:2]).merge(run(pred[2:], truth[2:]))
    assert merged.count == 4
    np.testing.assert_allclose(merged.compute(), run(pred, truth).compute(), rtol=1e-6)


def test_a_prediction_that_is_nan_shows():
    state = depth.AbsRel()(jnp.full((1, 2, 2), jnp.nan), jnp.ones((1, 2, 2)))
    assert np.isnan(state.compute()) and state.count == 1


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"expected one shape .* found \[\[2, 2\], \[2, 3\]\]"):
        depth.abs_rel(jnp.ones((2, 2)), jnp.ones((2, 3)))
