"""Layers of PointNet++ against hand-computed cases; whole networks are in models/backbones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import points
from gsjax.models import point_layers
from gsjax.models.backbones import base
from tests.models.backbones import suite


def test_maximum_over_rows_and_its_slopes():
    x = jnp.asarray([[[1.0, -5.0], [3.0, -2.0], [3.0, 9.0]], [[7.0, 7.0]] * 3])
    mask = jnp.asarray([[True, True, False], [False] * 3])
    weights = jnp.asarray([[10.0, 20.0], [30.0, 40.0]])

    def total(x):
        found = base.masked_max(x, mask)
        return jnp.sum(found * weights), found

    slopes, found = jax.jit(
        jax.grad(total, has_aux=True), compiler_options=suite.quick_jit_options
    )(x)
    np.testing.assert_array_equal(found, [[3.0, -2.0], [0.0, 0.0]])
    np.testing.assert_array_equal(slopes, [[[0, 0], [10, 20], [0, 0]], np.zeros((3, 2))])


def test_of_equal_rows_the_first_has_the_slope():
    slopes = jax.grad(lambda x: base.masked_max(x, jnp.ones(3, bool))[0])(jnp.ones((3, 1)))
    np.testing.assert_array_equal(slopes[:, 0], [1, 0, 0])


def test_slopes_do_not_depend_on_how_rows_are_rounded():
    # Compiled without optimisation, jnp.max has infinite slopes here: rows are computed twice.
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 24, 5), (5, 8)))

    def loss(x):
        y = jax.nn.relu((x @ w - 0.1) * 1.1 + 0.3)
        wide = jnp.broadcast_to(base.masked_max(y, jnp.ones((4, 24), bool))[:, None], (4, 24, 8))
        return jnp.sum(jnp.square(jnp.concatenate([y, wide], -1)))

    quick = jax.jit(jax.grad(loss), compiler_options=suite.quick_jit_options)(x)
    np.testing.assert_allclose(quick, jax.jit(jax.grad(loss))(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", point_layers.ORDERS)
def test_a_product_before_gathering_equals_one_after(order):
    rng = np.random.default_rng(0)
    feat = jnp.asarray(rng.normal(size=(2, 7, 4)), jnp.float32)
    offsets = jnp.asarray(rng.normal(size=(2, 3, 5, 3)), jnp.float32)
    idx = jnp.asarray(rng.integers(0, 7, (2, 3, 5)))
    kernel, bias = rng.normal(size=(7, 6)), rng.normal(size=6)
    layer = point_layers.GroupedDense(6, order)
    found = layer.apply({"params": {"kernel": kernel, "bias": bias}}, offsets, feat, idx)
    columns = point_layers.join(offsets, points.gather(feat, idx), order)
    assert bool((columns[..., :3] == offsets).all()) == (order == "xyz_first")
    np.testing.assert_allclose(found, columns @ kernel + bias, atol=1e-5)
