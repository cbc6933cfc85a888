"""Terms of the loss beside PM-Loss, by hand and against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.systems.pm_loss import photometric

smoothness = jax.jit(photometric.smoothness, static_argnames=("order", "sigma"))


def test_mse_leaves_out_large_errors_and_never_divides_by_nothing():
    pred = jnp.asarray([[0.1, 0.5, 1.0], [2.0, 2.0, 2.0]])
    mean, share = photometric.mse(pred, jnp.zeros_like(pred), 0.26)
    np.testing.assert_allclose(mean, [(0.01 + 0.25) / 2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(share, [1 / 3, 1.0], rtol=1e-6)
    np.testing.assert_allclose(photometric.mse(pred, jnp.zeros_like(pred))[0], [1.26 / 3, 4.0])
    grads = jax.grad(lambda x: photometric.mse(x, jnp.zeros_like(x), 0.26)[0].sum())(pred)
    np.testing.assert_allclose(grads, [[0.1, 0.5, 0.0], [0.0] * 3], rtol=1e-6)


@pytest.mark.parametrize("count, expected", [(0, []), (1, [0.9]), (2, [0.81, 0.9])])
def test_older_depths_weigh_less(count, expected):
    np.testing.assert_allclose(photometric.step_weights(count, 0.9), expected)


def test_inverse_depth_error_is_over_known_pixels_and_free_of_units():
    true = np.array([[[[2.0, 0.0], [4.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    inverse = np.array([[[[0.6, 9.0], [0.2, 9.0]]], [[[9.0, 9.0], [9.0, 9.0]]]])
    near, far = np.array([1.0, 1.0]), np.array([5.0, 5.0])
    found = photometric.inverse_depth_l1(*map(jnp.asarray, (inverse, true, near, far)))
    np.testing.assert_allclose(found, [(0.1 + 0.05) / 2 / 0.8, 0.0], rtol=1e-6)
    grown = photometric.inverse_depth_l1(
        *map(jnp.asarray, (inverse / 7, true * 7, near * 7, far * 7))
    )
    np.testing.assert_allclose(grown, found, rtol=1e-5)


def _loop(depth, image, near, far, order, sigma):
    """The definition for one example: depth [T, H, W], image [T, H, W, 3]."""
    place = np.log(np.clip(depth, near, far) / near) / np.log(far / near)
    total = 0.0
    for shift in ((0, 1), (1, 0)):
        values = []
        T, H, W = depth.shape
        for t in range(T):
            for i in range(H - order * shift[0]):
                for j in range(W - order * shift[1]):
                    at = [(t, i + k * shift[0], j + k * shift[1]) for k in range(order + 1)]
                    d = [place[a] for a in at]
                    change = d[1] - d[0] if order == 1 else d[2] - 2 * d[1] + d[0]
                    edges = [np.abs(image[b] - image[a]).max() for a, b in zip(at, at[1:])]
                    values.append(abs(change) * np.exp(-sigma * max(edges)))
        total += np.mean(values)
    return total


@pytest.mark.parametrize("order, sigma", [(1, 0.0), (2, 12.0), (1, 3.0)])
def test_smoothness_is_that_of_the_true_logarithm(order, sigma):
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 9, (2, 2, 4, 5))
    depth[0, 0, 0, 0] = 0.0  # nothing there
    image = rng.uniform(size=(2, 2, 4, 5, 3))
    near, far = np.array([0.8, 1.0]), np.array([6.0, 20.0])
    arrays = [jnp.asarray(x, jnp.float32) for x in (depth, image, near, far)]
    found = smoothness(*arrays, order=order, sigma=sigma)
    expected = [_loop(depth[b], image[b], near[b], far[b], order, sigma) for b in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    grads = jax.grad(lambda d: smoothness(d, *arrays[1:], order=order).sum())(arrays[0])
    assert np.isfinite(grads).all() and grads[0, 0, 0, 0] == 0.0


def test_a_plane_in_log_depth_has_no_second_differences():
    ramp = jnp.exp(0.1 * jnp.arange(6.0))[None, None, None, :] * jnp.ones((1, 1, 4, 1))
    bounds = jnp.asarray([0.5]), jnp.asarray([9.0])
    image = jnp.zeros((1, 1, 4, 6, 3))
    assert float(smoothness(ramp, image, *bounds, order=2)[0]) < 1e-6
    assert float(smoothness(ramp, image, *bounds, order=1)[0]) > 0.01
    with pytest.raises(ValueError, match="order: expected 1 or 2, found 3"):
        photometric.smoothness(ramp, image, *bounds, order=3)


def test_bad_examples_are_those_above_the_limit_once_training_has_begun():
    error = jnp.asarray([0.05, 0.2])
    assert not photometric.bad(error, jnp.int32(300), 0.1, 300).any()
    np.testing.assert_array_equal(photometric.bad(error, jnp.int32(301), 0.1, 300), [False, True])
