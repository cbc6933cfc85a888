"""The two objectives by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.losses import means
from gsjax.systems.cross_modal import losses


def test_equal_logits_cost_three_times_ln_2():
    zeros = jnp.zeros((4, 2))
    found = losses.cross_modality(zeros, zeros, zeros, "2to1")
    np.testing.assert_allclose(found, np.full(4, 3 * np.log(2)), rtol=1e-6)
    found = losses.cross_modality(zeros, zeros, zeros, "balanced")
    np.testing.assert_allclose(found, np.full(4, 2 * np.log(2)), rtol=1e-6)


def test_column_one_says_that_they_belong_together():
    yes, no = jnp.asarray([[-3.0, 3.0]]), jnp.asarray([[3.0, -3.0]])
    good = losses.cross_modality(yes, yes, no, "2to1")
    bad = losses.cross_modality(no, no, yes, "2to1")
    np.testing.assert_allclose(good, 3 * np.log1p(np.exp(-6.0)), rtol=1e-4)
    np.testing.assert_allclose(bad, 3 * np.log1p(np.exp(6.0)), rtol=1e-5)
    half = losses.cross_modality(no, yes, no, "balanced") - losses.cross_modality(
        yes, yes, no, "balanced"
    )
    np.testing.assert_allclose(half, 3.0, rtol=1e-4)  # half of 6


def test_unknown_balance():
    x = jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="known: 2to1, balanced"):
        losses.cross_modality(x, x, x, "even")


def test_means_leave_padding_out():
    found = means.mean_of_valid(jnp.asarray([1.0, 3.0, jnp.nan]), jnp.asarray([True, True, False]))
    assert found == 2.0
