"""rgb and random_conv, which need no weights of anybody."""

import jax
import numpy as np
import pytest

from gsjax.models.image_features import base, random_conv
from tests.models.image_features import case


def test_rgb_is_the_picture_and_sines_of_it():
    encoder = base.load("rgb?bands=2")
    images = case.pictures(3, 5)
    found, x = case.check(encoder, images, 1), np.asarray(images, np.float64)
    waves = [f(2**k * np.pi * x) for k in (0, 1) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(found, np.concatenate([2 * x - 1, *waves], -1), atol=1e-6)
    assert encoder.channels == 15 and encoder.arrays == {}


def test_rgb_without_bands_is_the_picture_alone():
    encoder, images = base.load("rgb?bands=0"), case.pictures(2, 2)
    np.testing.assert_allclose(case.run(encoder, images), 2 * np.asarray(images) - 1, atol=1e-6)


def test_random_conv_is_three_convolutions():
    encoder = base.load("random_conv?seed=3&channels=5")
    images = case.pictures(4, 6)
    found = case.check(encoder, images, 1)
    x = 2 * np.asarray(images, np.float64) - 1
    for layer in range(3):
        part = jax.tree.map(np.asarray, encoder.arrays[f"conv_{layer}"])
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        x = part["bias"] + sum(
            wide[:, i : i + 4, j : j + 6] @ part["kernel"][i, j] for i in range(3) for j in range(3)
        )
        x = np.maximum(x, 0) if layer < 2 else x
    np.testing.assert_allclose(found, x, atol=1e-5)


def test_random_weights_are_the_same_numbers_on_every_machine():
    encoder = base.load("random_conv?seed=3")
    assert encoder.digest.startswith("5434b0fa26b43cb6")
    again = base.load("random_conv?seed=3")
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), encoder.arrays, again.arrays)
    )
    assert base.load("random_conv?seed=4").digest != encoder.digest
    with jax.threefry_partitionable(False):
        assert base.load("random_conv?seed=3").digest == encoder.digest


def test_random_weights_are_spread_as_promised():
    layer = random_conv.weights(0, 64)["conv_2"]
    inputs = 9 * 64
    bound = np.sqrt(6 / inputs)
    assert layer["kernel"].shape == (3, 3, 64, 64) and np.abs(layer["kernel"]).max() <= bound
    # A uniform variable's deviation is its bound / sqrt 3; 36,864 draws tell it to 1 %.
    assert layer["kernel"].std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert abs(layer["kernel"].mean()) < 0.02 * bound
    assert np.abs(layer["bias"]).max() <= inputs**-0.5
