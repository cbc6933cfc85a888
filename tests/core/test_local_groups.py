"""Spread and soft maximum of neighbourhoods, against NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import local_groups

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5, 4, 2)).astype(np.float32)
MASK = RNG.uniform(size=(3, 5, 4)) < 0.7


def test_spread_is_the_unbiased_deviation_of_valid_numbers():
    got = local_groups.spread(jnp.where(MASK[..., None], X, jnp.nan), jnp.asarray(MASK))
    want = [np.std(x[m], ddof=1) for x, m in zip(X, MASK, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_spread_keeps_its_digits_far_from_the_origin():
    got = local_groups.spread(jnp.asarray(X[:, :, :, :1] + 1000.0), jnp.ones(X.shape[:-1], bool))
    want = [np.std((x[..., :1] + np.float32(1000.0)).astype(np.float64), ddof=1) for x in X]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_spread_of_equal_or_no_numbers_is_0_with_finite_gradients():
    x = jnp.ones((2, 3, 2))
    mask = jnp.asarray([[True] * 3, [False] * 3])
    value, grad = jax.value_and_grad(lambda x: jnp.sum(local_groups.spread(x, mask)))(x)
    assert value == 0 and not np.asarray(grad).any()


def test_soft_maximum_is_the_weighted_mean_of_valid_neighbours():
    got = local_groups.soft_maximum(jnp.where(MASK[..., None], X, jnp.nan), jnp.asarray(MASK))
    for index in np.ndindex(3, 5):
        rows = X[index][MASK[index]].astype(np.float64)
        want = (rows * np.exp(rows)).sum(0) / np.exp(rows).sum(0) if len(rows) else np.zeros(2)
        np.testing.assert_allclose(got[index], want, atol=1e-6)


def test_soft_maximum_of_huge_numbers_is_their_maximum():
    x = jnp.asarray([[[300.0], [1e4], [-1e4]]])
    value, grad = jax.value_and_grad(
        lambda x: local_groups.soft_maximum(x, jnp.ones((1, 3), bool))[0, 0]
    )(x)
    assert value == 1e4
    np.testing.assert_allclose(grad[0, :, 0], [0, 1, 0])


def test_gradients_with_masked_junk_are_finite_and_0_there():
    x = jnp.where(MASK[..., None], X, jnp.nan)
    mask = jnp.asarray(MASK)
    grad = jax.grad(
        lambda x: (
            jnp.sum(local_groups.soft_maximum(x, mask)) + jnp.sum(local_groups.spread(x, mask))
        )
    )(x)
    assert np.isfinite(grad).all() and not np.asarray(grad)[~MASK].any()


def test_masks_of_another_shape_are_refused():
    for function in (local_groups.spread, local_groups.soft_maximum):
        with pytest.raises(ValueError, match=r"mask: expected shape \[3, 5, 4\]"):
            function(jnp.asarray(X), jnp.ones((3, 5), bool))
