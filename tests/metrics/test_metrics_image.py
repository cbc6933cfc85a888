"""Mergeable image metrics: uneven batches, padding, hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import image as core_image
from gsjax.metrics import image


def _images(n=5):
    rng = np.random.default_rng(0)
    target = rng.random((n, 12, 12, 3)).astype(np.float32)
    noise = rng.normal(size=target.shape) * np.linspace(0.05, 0.3, n)[:, None, None, None]
    return jnp.asarray(target + noise, jnp.float32), jnp.asarray(target)


@pytest.mark.parametrize("metric", [image.Psnr(), image.Ssim()], ids=["psnr", "ssim"])
def test_merging_uneven_batches_is_the_mean_over_images(metric):
    pred, target = _images()
    run = jax.jit(metric)
    whole = run(pred, target)
    parts = run(pred[:4], target[:4]).merge(run(pred[4:], target[4:]))
    np.testing.assert_allclose(parts.compute(), whole.compute(), rtol=1e-5)
    one = core_image.psnr if isinstance(metric, image.Psnr) else core_image.ssim
    one = jax.jit(one)
    expected = np.mean([one(p, t) for p, t in zip(pred, target)])
    np.testing.assert_allclose(whole.compute(), expected, rtol=1e-5)


def test_padding_is_not_counted_even_when_it_is_nan():
    pred, target = _images()
    expected = image.Psnr()(pred[:3], target[:3])
    padded = jax.jit(image.Psnr())(pred.at[3:].set(np.nan), target, jnp.arange(5) < 3)
    np.testing.assert_allclose(padded.compute(), expected.compute(), rtol=1e-5)
    assert padded.count == 3


def test_value_by_hand():
    target = jnp.zeros((2, 4, 4, 1))
    pred = target.at[0].set(0.1).at[1].set(0.01)
    np.testing.assert_allclose(image.Psnr()(pred, target).compute(), 30, rtol=1e-5)
    np.testing.assert_allclose(image.Psnr(data_range=10.0)(pred, target).compute(), 50, rtol=1e-5)


def test_images_of_bytes_do_not_wrap_around():
    black = jnp.zeros((2, 12, 12, 3), jnp.uint8)
    white = black + jnp.uint8(255)
    psnr = image.Psnr(data_range=255.0)(black, white)
    np.testing.assert_allclose(psnr.compute(), 0, atol=1e-5)
    ssim = image.Ssim(data_range=255.0)(white, white).compute()
    np.testing.assert_allclose(ssim, 1, atol=1e-5)


def test_no_images_is_nan_and_a_wrong_mask_is_named():
    pred, target = _images(2)
    assert np.isnan(image.Psnr()(pred, target, jnp.zeros(2, bool)).compute())
    with pytest.raises(ValueError, match=r"mask: .*shape \[2\], found \[3\]"):
        image.Psnr()(pred, target, jnp.ones(3, bool))
