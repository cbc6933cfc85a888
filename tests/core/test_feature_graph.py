"""Neighbours of features against sorting, with masks, too few rows and ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import feature_graph


def test_neighbours_are_those_of_a_sort():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 25, 7)).astype(np.float32) + 100
    mask = np.ones((3, 25), bool)
    mask[1, 5:9] = False
    idx, found = jax.jit(lambda x: feature_graph.neighbours(x, 6, mask))(x)
    for b in range(3):
        gaps = np.square(x[b].astype(float)[:, None] - x[b][None]).sum(-1)
        gaps[:, ~mask[b]] = np.inf
        for i in np.flatnonzero(mask[b]):
            expected = np.argsort(gaps[i], kind="stable")[:6]
            assert idx[b, i, 0] == i and set(idx[b, i].tolist()) == set(expected.tolist())
    assert found[0].all() and not found[1, 5:9].any() and found[1, 0].all()


def test_clouds_of_few_rows_have_surplus_slots():
    x = jnp.asarray([[[0.0], [1.0], [5.0]]])
    idx, found = feature_graph.neighbours(x, 5, jnp.asarray([[True, False, True]]))
    assert found[0].sum(-1).tolist() == [2, 0, 2]
    assert idx[0, 0].tolist() == [0, 2, 0, 0, 0] and idx[0, 2, :2].tolist() == [2, 0]


def test_equal_rows_are_their_own_nearest_and_carry_no_gradient():
    x = jnp.ones((1, 4, 3))
    idx, _ = feature_graph.neighbours(x, 2, jnp.ones((1, 4), bool))
    assert idx[0, :, 0].tolist() == [0, 1, 2, 3]
    grad = jax.grad(
        lambda x: jnp.sum(x[0, feature_graph.neighbours(x, 2, jnp.ones((1, 4), bool))[0]])
    )(x)
    assert np.isfinite(grad).all()


def test_refusals():
    with pytest.raises(ValueError, match="k: expected at least 1"):
        feature_graph.neighbours(jnp.zeros((1, 4, 3)), 0, jnp.ones((1, 4), bool))
    with pytest.raises(ValueError, match=r"expected \[B, N, C\]"):
        feature_graph.neighbours(jnp.zeros((4, 3)), 1, jnp.ones((4,), bool))
