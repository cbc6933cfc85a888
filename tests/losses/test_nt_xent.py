"""NT-Xent against its definition in loops, its masks and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gsjax.losses import contrastive, nt_xent


def _views(count=5, dim=4, seed=0):
    x = np.random.default_rng(seed).normal(size=(2, count, dim))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _slow(a, b, t):
    views, count = np.concatenate([a, b]), len(a)
    cost = []
    for i, x in enumerate(views):
        partner = (i + count) % (2 * count)
        terms = {j: np.exp(x @ z / t) for j, z in enumerate(views) if j != i}
        cost.append(-np.log(terms[partner] / sum(terms.values())))
    return np.asarray(cost).reshape(2, count).mean(0)


@pytest.mark.parametrize("t", [0.1, 1.0])
def test_values_are_the_definitions(t):
    a, b = _views()
    np.testing.assert_allclose(nt_xent.nt_xent(a, b, t), _slow(a, b, t), rtol=1e-5)


def test_equal_views_cost_the_log_of_all_other_views():
    ones = jnp.full((6, 4), 0.5)
    np.testing.assert_allclose(nt_xent.nt_xent(ones, ones, 0.3), np.log(11), rtol=1e-6)


def test_invalid_objects_and_equal_objects_are_no_negatives():
    a, b = _views(6)
    short = nt_xent.nt_xent(a[:4], b[:4], 0.2)
    valid = jnp.asarray([True] * 4 + [False] * 2)
    np.testing.assert_allclose(nt_xent.nt_xent(a, b, 0.2, valid=valid)[:4], short, rtol=1e-5)
    # Object 3 comes twice: neither copy pushes the other away.
    again = nt_xent.nt_xent(
        a[[0, 1, 2, 3, 3]], b[[0, 1, 2, 3, 3]], 0.2, ids=jnp.array([0, 1, 2, 3, 3])
    )
    np.testing.assert_allclose(again[3:], short[3], rtol=1e-5)


@pytest.mark.parametrize("sharding", ["gather", "ring"])
def test_sharded_sums_are_the_same(sharding):
    a, b = (jnp.asarray(x, jnp.float32) for x in _views(8))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        found = jax.jit(lambda a, b: nt_xent.nt_xent(a, b, 0.2, sharding=sharding))(a, b)
    np.testing.assert_allclose(found, nt_xent.nt_xent(a, b, 0.2), rtol=1e-5)


def test_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        parts = [jnp.asarray(x) for x in _views(3)]

        def loss(*parts):
            return jnp.sum(nt_xent.nt_xent(*map(contrastive.unit, parts), 0.5))

        check_grads(loss, parts, order=1, modes=("rev",), atol=1e-6, rtol=1e-6)


def test_bad_arguments():
    a, b = _views()
    with pytest.raises(ValueError, match="temperature: expected a positive number, found 0"):
        nt_xent.nt_xent(a, b, 0.0)
    with pytest.raises(ValueError, match=r"expected one shape, found \[5, 4\], \[4, 4\]"):
        nt_xent.nt_xent(a, b[:4], 0.1)
