"""SSIM and PSNR against loops over windows in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gsjax.core import image

_ssim = jax.jit(image.ssim, static_argnames=("data_range", "padding", "unbiased"))
_psnr = jax.jit(image.psnr, static_argnames="data_range")


def _pair(*shape, noise=0.1):
    rng = np.random.default_rng(0)
    a = rng.random(shape)
    return a, np.clip(a + noise * rng.normal(size=shape), 0, 1)


def _slow_ssim(a, b, padding, factor=1.0):
    """One channel [H, W], window by window, from Wang et al. 2004."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    if padding == "same":
        a, b = np.pad(a, 5), np.pad(b, 5)
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
            cov = (window * x * y).sum() - mx * my
            vx, vy, cov = factor * vx, factor * vy, factor * cov
            luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
            values.append(luminance * (2 * cov + 9e-4) / (vx + vy + 9e-4))
    return np.mean(values)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_ssim_is_the_windowed_definition(padding):
    a, b = _pair(2, 16, 13, 2)
    expected = [
        np.mean([_slow_ssim(a[n, ..., c], b[n, ..., c], padding) for c in range(2)])
        for n in range(2)
    ]
    np.testing.assert_allclose(_ssim(a, b, padding=padding), expected, atol=1e-5)


def test_moments_of_a_sample_are_larger_by_their_number():
    a, b = (0.1 * x for x in _pair(14, 13, 1))  # of the size of the constants
    expected = _slow_ssim(a[..., 0], b[..., 0], "valid", factor=121 / 120)
    found = _ssim(a, b, padding="valid", unbiased=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert abs(_slow_ssim(a[..., 0], b[..., 0], "valid") - expected) > 1e-5


def test_ssim_of_equal_images_is_one_with_finite_gradient():
    flat = jnp.full((12, 12, 3), 0.5)
    gradient = jax.jit(jax.grad(image.ssim))
    np.testing.assert_allclose(_ssim(flat, flat), 1, atol=1e-6)
    assert np.isfinite(gradient(flat, flat)).all()
    assert np.isfinite(gradient(0 * flat, 0 * flat)).all()


def test_scale_of_the_values_does_not_matter():
    a, b = _pair(12, 12, 1)
    np.testing.assert_allclose(_ssim(255 * a, 255 * b, data_range=255), _ssim(a, b), atol=1e-5)
    np.testing.assert_allclose(
        image.psnr(255 * a, 255 * b, data_range=255), image.psnr(a, b), rtol=1e-5
    )


def test_batched_gradient_is_that_of_single_images():
    a, b = (jnp.asarray(x) for x in _pair(2, 11, 12, 1))
    gradient = jax.jit(jax.vmap(jax.grad(image.ssim)))(a, b)
    summed = jax.jit(jax.grad(lambda x: image.ssim(x, b).sum()))(a)
    np.testing.assert_allclose(gradient, summed, atol=1e-6)


def test_psnr_by_hand_and_capped():
    a = jnp.zeros((2, 4, 4, 3))
    b = a.at[0].set(0.1)
    np.testing.assert_allclose(image.psnr(a, b), [20, 100], rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: image.psnr(x, b).sum())(a)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, bool])
def test_integer_images_are_their_float_copies(dtype):
    most = 1 if dtype is bool else 255
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, most + 1, (12, 12, 3)).astype(dtype) for _ in range(2))
    wide = a.astype(np.float32), b.astype(np.float32)
    for fn in (_ssim, _psnr):
        expected = fn(*wide, data_range=most)
        np.testing.assert_allclose(fn(a, b, data_range=most), expected, rtol=1e-6)
        np.testing.assert_allclose(fn(wide[0], b, data_range=most), expected, rtol=1e-6)


def test_black_and_white_bytes_are_0_db_apart():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    np.testing.assert_allclose(image.psnr(black, white, data_range=255), 0, atol=1e-5)
    np.testing.assert_allclose(image.psnr(white, black, data_range=255), 0, atol=1e-5)


def test_float64_finite_differences():
    with jax.enable_x64(True):
        a, b = (jnp.asarray(x) for x in _pair(12, 11, 2))
        for fn in (_ssim, _psnr):
            check_grads(fn, (a, b), 1, modes=["rev"], atol=1e-5, rtol=1e-5)
            assert fn(a, b).dtype == jnp.float64


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="equal shape"):
        image.ssim(jnp.zeros((4, 4, 3)), jnp.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match="at least 11x11"):
        image.ssim(jnp.zeros((4, 4, 3)), jnp.zeros((4, 4, 3)), padding="valid")
    with pytest.raises(ValueError, match="'same' or 'valid', found 'zero'"):
        image.ssim(jnp.zeros((4, 4, 3)), jnp.zeros((4, 4, 3)), padding="zero")
