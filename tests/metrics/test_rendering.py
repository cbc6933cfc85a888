"""Foreground PSNR and silhouette IoU by hand."""

import jax.numpy as jnp
import numpy as np

from gsjax.metrics import rendering


def test_only_the_objects_pixels_count():
    target = jnp.zeros((2, 2, 3))
    pred = target.at[0, 0].set(0.1).at[1, 1].set(1.0)
    alpha = jnp.asarray([[1.0, 0.9], [0.4, 0.0]])
    # mean of 0.01 and 0 over two pixels: 0.005
    np.testing.assert_allclose(
        rendering.foreground_psnr(pred, target, alpha), -10 * np.log10(0.005), rtol=1e-5
    )
    assert np.isnan(rendering.foreground_psnr(pred, target, jnp.zeros((2, 2))))
    assert float(rendering.foreground_psnr(target, target, alpha)) == 100.0


def test_iou_of_silhouettes():
    a = jnp.asarray([[1.0, 1.0], [0.0, 0.0]])
    b = jnp.asarray([[1.0, 0.2], [0.8, 0.0]])
    np.testing.assert_allclose(rendering.silhouette_iou(a, b), 1 / 3)
    assert float(rendering.silhouette_iou(0 * a, 0 * a)) == 1.0
