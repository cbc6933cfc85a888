"""Chamfer distance against hand-computed values and a loop written from the definition."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.losses import chamfer


def _slow(a, b):
    forward = np.mean([min(np.sum((p - q) ** 2) for q in b) for p in a])
    backward = np.mean([min(np.sum((p - q) ** 2) for p in a) for q in b])
    return forward + backward


def test_hand_computed():
    a = jnp.array([[0.0, 0.0], [1.0, 0.0]])
    b = jnp.array([[0.0, 0.0]])
    # a -> b: 0 and 1, mean 0.5; b -> a: 0.
    assert float(chamfer.chamfer_distance(a, b)) == 0.5


def test_matrix_equals_the_definition_for_a_ragged_last_block():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(3, 7, 3)), rng.normal(size=(5, 9, 3))
    fast = chamfer.chamfer_matrix(jnp.asarray(queries), jnp.asarray(gallery), block=2)
    slow = [[_slow(q, g) for g in gallery] for q in queries]
    np.testing.assert_allclose(fast, slow, rtol=1e-5)


def test_gradient_is_finite_where_the_sets_coincide():
    points = jnp.ones((4, 3))
    gradient = jax.grad(chamfer.chamfer_distance)(points, points)
    np.testing.assert_array_equal(gradient, np.zeros((4, 3)))
