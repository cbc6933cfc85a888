"""The Gaussian head: channels, activations, start, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import sh
from gsjax.systems.unipre3d import head


def _made(config, features=None, mask=None, seed=0):
    rng = np.random.default_rng(seed)
    xyz = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    features = jnp.zeros((2, 5, 7)) if features is None else features
    mask = jnp.ones((2, 5), bool) if mask is None else mask
    module = head.GaussianHead(config)
    variables = module.init(jax.random.key(seed), xyz, features, mask)
    return xyz, variables, module.apply(variables, xyz, features, mask)


def test_channels_in_the_released_order():
    config = head.HeadConfig()
    assert config.channels == 23
    raw = np.zeros((1, 1, 1, 23), np.float32)
    raw[..., :3] = 0.1, 0.2, 0.3
    raw[..., 3] = 1.0
    raw[..., 4:7] = -1.0, 0.0, 1.0
    raw[..., 7:11] = 1.0, 2.0, 2.0, 4.0
    raw[..., 11:14] = 0.5, 0.6, 0.7
    raw[..., 14:] = np.arange(9)
    xyz = jnp.asarray([[[1.0, 2.0, 3.0]]])
    found = head.activate(jnp.asarray(raw), xyz, jnp.ones((1, 1), bool), config)
    np.testing.assert_allclose(found.means[0, 0], [1, 2, 3] + np.tanh([0.1, 0.2, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(found.opacities[0, 0], 1 / (1 + np.exp(-1.0)), rtol=1e-6)
    logistic = 1 / (1 + np.exp(-np.asarray([-1.0, 0, 1])))
    np.testing.assert_allclose(found.scales[0, 0], 0.002 + 0.298 * logistic, rtol=1e-5)
    np.testing.assert_allclose(found.quats[0, 0], [0.2, 0.4, 0.4, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found.sh[0, 0, 0], [0.5, 0.6, 0.7], rtol=1e-6)
    np.testing.assert_allclose(found.sh[0, 0, 1:], np.arange(9).reshape(3, 3))  # (coefficient, rgb)


@pytest.mark.parametrize(
    "act, expected", [("exp", np.exp([-3.0, 0, 2])), ("exp_clip", np.exp([-1.0, 0, 2]))]
)
def test_scales_of_the_released_code(act, expected):
    config = head.HeadConfig(scale_act=act)
    found = head.activate_scales(jnp.asarray([-3.0, 0.0, 2.0]), config)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bounded_scales_have_a_gradient_everywhere_in_reach():
    config = head.HeadConfig()
    x = jnp.linspace(-8.0, 8.0, 33)
    slope = jax.vmap(jax.grad(lambda v: head.activate_scales(v, config)))(x)
    assert (slope > 0).all()
    scales = head.activate_scales(jnp.asarray([-50.0, 50.0]), config)
    np.testing.assert_allclose(scales, [config.scale_min, config.scale_max], rtol=1e-5)


def test_fresh_gaussians_are_small_faint_grey_and_at_their_points():
    config = head.HeadConfig(per_token=1)
    xyz, _, found = _made(config)
    np.testing.assert_allclose(found.means, xyz, atol=1e-6)
    np.testing.assert_allclose(found.scales, config.scale_init, rtol=1e-5)
    np.testing.assert_allclose(found.opacities, 1 / (1 + np.exp(2.0)), rtol=1e-5)
    np.testing.assert_allclose(found.quats[..., 0], 1.0)
    np.testing.assert_allclose(sh.sh0_to_rgb(found.sh[..., 0, :]), 0.5, atol=1e-6)


def test_the_gaussians_of_a_token_start_spread_around_it():
    config = head.HeadConfig(per_token=8, spread=0.05)
    xyz, _, found = _made(config)
    means = found.means.reshape(2, 5, 8, 3)
    offsets = means - xyz[:, :, None]
    np.testing.assert_allclose(jnp.linalg.norm(offsets, axis=-1), 0.05, rtol=1e-3)
    np.testing.assert_allclose(offsets.mean(2), 0.0, atol=2e-3)
    gaps = jnp.linalg.norm(offsets[:, :, :, None] - offsets[:, :, None], axis=-1)
    assert gaps[..., ~np.eye(8, dtype=bool)].min() > 0.02


def test_released_start_has_large_half_opaque_gaussians():
    _, _, found = _made(head.HeadConfig(init="released", scale_act="exp"))
    np.testing.assert_allclose(found.opacities, 0.5, atol=1e-6)
    np.testing.assert_allclose(found.scales, 1.0, atol=1e-6)


def test_masked_tokens_give_invisible_finite_gaussians():
    mask = jnp.asarray([[True] * 3 + [False] * 2] * 2)
    features = jnp.full((2, 5, 7), jnp.nan).at[:, :3].set(0.3)
    _, _, found = _made(head.HeadConfig(per_token=2), features, mask)
    visible = np.asarray(found.opacities.reshape(2, 5, 2) > 0)
    np.testing.assert_array_equal(visible, np.broadcast_to(mask[..., None], (2, 5, 2)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_zero_quaternion_has_a_finite_gradient():
    config = head.HeadConfig()

    def loss(raw):
        found = head.activate(raw, jnp.zeros((1, 1, 3)), jnp.ones((1, 1), bool), config)
        return jnp.sum(found.quats * jnp.arange(4.0))

    assert np.isfinite(jax.grad(loss)(jnp.zeros((1, 1, 1, 23)))).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(scale_act="softplus"), "head.scale_act: unknown 'softplus'; known: sigmoid, exp"),
        (dict(init="zero"), "head.init: unknown 'zero'"),
        (dict(per_token=0), "per_token and hidden from 1 on, found 0"),
        (dict(scale_init=0.5), "scale_min < scale_init < scale_max"),
        (dict(spread=2.0), "0 <= spread < offset_scale"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        head.HeadConfig(**settings)
