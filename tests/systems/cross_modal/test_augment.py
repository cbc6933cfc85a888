"""Crops: boxes within the picture and its limits, the resampling by hand, mirrored halves."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.systems.cross_modal import augment


def test_boxes_are_inside_and_within_the_limits():
    keys = jax.random.split(jax.random.key(0), 2000)
    boxes = np.asarray(jax.vmap(lambda k: augment.draw_box(k, 40, 60))(keys))
    top, left, height, width = boxes.T
    assert (boxes == np.round(boxes)).all() and (boxes[:, 2:] >= 1).all()
    assert (top >= 0).all() and (top + height <= 40).all()
    assert (left >= 0).all() and (left + width <= 60).all()
    area, ratio = height * width / 2400, width / height
    assert area.min() > 0.06 and area.max() <= 1
    # Wide boxes of large area do not fit, so that small ones are likelier than 1 in 2.
    assert 0.35 < area.mean() < 0.5
    assert ratio.min() > 0.7 and ratio.max() < 1.4
    assert {0.0} < set(top) and (top + height).max() == 40  # the far side is reached


def test_a_box_that_never_fits_is_the_largest_middle_part():
    # 200 x 10: no area above 8 % has a side within 10 pixels.
    box = augment.draw_box(jax.random.key(1), 200, 10)
    np.testing.assert_array_equal(box, [94, 0, 13, 10])


def test_a_crop_of_whole_pixels_is_that_part():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(12, 10, 3)), jnp.float32)
    found = augment.crop(image, jnp.asarray([3.0, 2.0, 6.0, 6.0]), 6)
    np.testing.assert_allclose(found, image[3:9, 2:8], atol=1e-6)
    whole = augment.crop(image[:, :10][:10], jnp.asarray([0.0, 0.0, 10.0, 10.0]), 10)
    np.testing.assert_allclose(whole, image[:10], atol=1e-6)


def test_half_the_size_is_the_triangle_filter():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (8, 8, 1))
    found = augment.crop(ramp, jnp.asarray([0.0, 0.0, 8.0, 8.0]), 4)
    np.testing.assert_allclose(found[1, 1:3, 0], [2.5, 4.5], atol=1e-5)  # linear stays linear


def test_half_of_the_pictures_are_mirrored():
    ramp = jnp.broadcast_to(jnp.arange(16.0)[None, None, :, None], (400, 16, 16, 1))
    found = augment.crops(jax.random.split(jax.random.key(2), 400), ramp, 8)
    mirrored = np.asarray(found[:, 4, 0, 0] > found[:, 4, -1, 0])
    assert 0.4 < mirrored.mean() < 0.6


def test_pictures_of_the_right_size_are_left_alone():
    x = jnp.ones((2, 3, 5, 5, 3))
    assert augment.resized(x, 5) is x
    assert augment.resized(x, 8).shape == (2, 3, 8, 8, 3)
