"""MVSplat whole, at a tiny size, and the published size by its shapes."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models.feedforward import mvsplat, unet
from tests.models.feedforward import case

TINY = dataclasses.replace(
    mvsplat.PRESETS["tiny"],
    channels=8,
    cnn_widths=(4, 4, 8),
    candidates=4,
    cost_unet=unet.Config(8, (1, 1), (2,), head=8, post_norm=True),
    refine_unet=unet.Config(8, (1, 1), (2,), head=8, post_norm=True),
)


def _batch(views=2, size=(8, 16)):
    Ks, c2ws = case.views(1, views, seed=1)
    images = np.random.default_rng(0).uniform(size=(1, views, *size, 3))
    arrays = images, Ks, c2ws, np.asarray([0.8]), np.asarray([20.0])
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def _variables(model, batch):
    """Random numbers in the parameters' shapes: norms that start at zero hide nothing, no compilation."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.2, s.shape), s.dtype), shapes)


@pytest.mark.slow
def test_forward_and_gradients_are_finite_and_reach_every_parameter():
    batch = _batch()
    model = mvsplat.MVSplat(TINY)
    variables = _variables(model, batch)

    def loss(variables, images):
        found = model.apply(variables, images, *batch[1:])
        g = found["gaussians"]
        leaves = (g.means, g.quats, g.scales, g.opacities, g.sh, found["depths"][0])
        return sum(jnp.sum(jnp.sin(x)) for x in leaves), found

    (_, found), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables, batch[0])
    g = found["gaussians"].check()
    assert g.means.shape == (1, 2 * 8 * 16, 3) and g.sh.shape == (1, 256, 4, 3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((found, grads)))
    for depth in found["depths"]:
        assert depth.shape == (1, 2, 8, 16)
        assert 0.8 - 1e-4 <= float(depth.min()) and float(depth.max()) <= 20.0 + 1e-3
    probability = np.asarray(found["match_probability"])
    assert 0.25 <= probability.min() and probability.max() <= 1.0
    # One value for the 4 x 4 pixels of a cell.
    assert (probability[0, 0, :4, :4] == probability[0, 0, 0, 0]).all()
    flat = flax.traverse_util.flatten_dict(grads[0]["params"], sep="/")
    # A bias in front of an instance norm moves nothing, nor does a key's in front of a softmax.
    dead = [k for k, v in flat.items() if not np.asarray(v).any() and "shortcut/bias" not in k]
    assert not dead, dead
    # Means lie on the rays: projecting them gives depths back.
    means = np.asarray(g.means).reshape(2, -1, 3)
    for v in range(2):
        local = (means[v] - np.asarray(batch[2])[0, v, :3, 3]) @ np.asarray(batch[2])[0, v, :3, :3]
        np.testing.assert_allclose(local[:, 2], found["depths"][1][0, v].ravel(), rtol=1e-4)


@pytest.mark.parametrize("views", [3, 5])
def test_any_number_of_views(views):
    batch = _batch(views)
    model = mvsplat.MVSplat(dataclasses.replace(TINY, neighbours=2, remat=True))
    found = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *batch)[0])
    assert found["gaussians"].means.shape == (1, views * 8 * 16, 3)


def test_parameters_are_the_published_twelve_million():
    shapes = jax.eval_shape(mvsplat.MVSplat().init, jax.random.key(0), *_batch(size=(64, 64)))
    count = sum(s.size for s in jax.tree.leaves(shapes))
    assert abs(count - 12e6) < 0.02 * 12e6, count


def test_networks_may_compute_in_half_precision_while_geometry_does_not():
    batch = _batch()
    model = mvsplat.MVSplat(dataclasses.replace(TINY, dtype=jnp.bfloat16))
    found = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *batch)[0])
    assert found["raw"].dtype == jnp.bfloat16
    leaves = jax.tree.leaves([found["gaussians"], found["depths"], found["match_probability"]])
    assert {x.dtype for x in leaves} == {jnp.dtype(jnp.float32)}


def test_bad_input_is_named():
    model, batch = mvsplat.MVSplat(TINY), _batch()

    def init(*args):
        return jax.eval_shape(model.init, jax.random.key(0), *args)

    with pytest.raises(ValueError, match="sides 8 x 15 must be multiples of 8"):
        init(batch[0][:, :, :, :15], *batch[1:])
    with pytest.raises(ValueError, match="at least 2 posed pictures, found 1"):
        init(*(a[:, :1] for a in batch[:3]), *batch[3:])
    with pytest.raises(ValueError, match="c2ws: expected"):
        init(*batch[:2], batch[2][..., :3, :], *batch[3:])
    with pytest.raises(ValueError, match="near: expected"):
        init(*batch[:3], batch[3][0], batch[4])
