"""Losses and composed pictures by hand."""

import jax.numpy as jnp
import numpy as np

from gsjax.systems.unipre3d import losses


def test_transparent_pictures_are_composed_and_not_cut():
    images = jnp.asarray([[[[255, 0, 0, 51], [0, 0, 0, 255]]]], jnp.uint8)
    found, alpha = losses.compose(images, 1.0)
    np.testing.assert_allclose(found[0, 0], [[1.0, 0.8, 0.8], [0.0, 0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(alpha[0, 0, :, 0], [0.2, 1.0], atol=1e-6)
    opaque, alpha = losses.compose(images[..., :3], 1.0)
    assert alpha.min() == 1.0 and opaque[0, 0, 0, 0] == 1.0


def test_foreground_weighs_four_times_the_background():
    pred = jnp.zeros((2, 1, 1, 2, 3))
    target = pred.at[0, 0, 0, 0].set(1.0).at[0, 0, 0, 1].set(1.0)
    inside = jnp.asarray([[[[True, False]]]] * 2)
    valid = jnp.asarray([True, True])
    # Example 0: (1.6 + 0.4) / 2 = 1; example 1: 0.
    np.testing.assert_allclose(losses.weighted_mse(pred, target, inside, valid), 0.5, rtol=1e-6)
    only_object = target.at[0, 0, 0, 1].set(0.0)
    np.testing.assert_allclose(
        losses.weighted_mse(pred, only_object, inside, valid), 0.4, rtol=1e-6
    )


def test_black_parts_of_an_object_are_foreground():
    images = jnp.asarray([[[[0, 0, 0, 255], [0, 0, 0, 0]]]], jnp.uint8)
    _, alpha = losses.compose(images, 0.0)
    assert losses.foreground(alpha)[0, 0].tolist() == [True, False]


def test_padding_examples_do_not_count():
    pred, target = jnp.zeros((2, 1, 2, 2, 3)), jnp.ones((2, 1, 2, 2, 3))
    target = target.at[1].set(jnp.nan)
    valid = jnp.asarray([True, False])
    np.testing.assert_allclose(losses.mse(pred, target, valid), 1.0)
    assert float(losses.mse(pred, target, jnp.zeros(2, bool))) == 0.0
