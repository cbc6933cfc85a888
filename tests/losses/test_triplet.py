"""The triplet loss by hand, at its kinks, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gsjax.losses import triplet


def test_values_by_hand():
    anchor = jnp.asarray([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    positive = jnp.asarray([[3.0, 4.0], [1.0, 2.0], [0.0, 1.0]])
    negative = jnp.asarray([[6.0, 8.0], [1.0, 1.5], [0.0, 9.0]])
    found = triplet.triplet_margin(anchor, positive, negative, margin=2.0)
    # 5 - 10 + 2 < 0; 1 - 0.5 + 2; 1 - 9 + 2 < 0
    np.testing.assert_allclose(found, [0.0, 2.5, 0.0], atol=1e-5)
    found = triplet.triplet_margin(anchor, positive, negative, margin=7.0)
    np.testing.assert_allclose(found, [2.0, 7.5, 0.0], atol=1e-5)


def test_eps_stands_inside_the_norm():
    a, b = jnp.zeros((1, 4)), jnp.zeros((1, 4))
    np.testing.assert_allclose(triplet.distance(a, b), 2e-6, rtol=1e-5)
    np.testing.assert_allclose(triplet.distance(a, b, eps=0.5), 1.0)


def test_equal_features_have_finite_gradients():
    x = jnp.ones((2, 3))
    grads = jax.grad(lambda a: jnp.sum(triplet.triplet_margin(a, x, x, margin=2.0, eps=0.0)))(x)
    np.testing.assert_array_equal(grads, np.zeros((2, 3)))


def test_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        parts = [jnp.asarray(rng.normal(size=(3, 5))) for _ in range(3)]
        loss = lambda *p: jnp.sum(triplet.triplet_margin(*p, margin=2.0))  # noqa: E731
        check_grads(loss, parts, order=1, modes=("rev",), atol=1e-6, rtol=1e-6)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"expected one shape, found \[2, 3\]"):
        triplet.triplet_margin(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros((1, 3)))
