"""How well a rendered object matches its picture: foreground PSNR and silhouette IoU, an image each.

Whole-image PSNR and SSIM are in ``gsjax.core.image``; with a plain background and a small object a
blank picture scores high there.
"""

import jax
import jax.numpy as jnp

THRESHOLD = 0.5  # of opacity: what belongs to the object
MAX_PSNR = 100.0


def foreground_psnr(pred: jax.Array, target: jax.Array, alpha: jax.Array) -> jax.Array:
    """PSNR in dB over the object's pixels, at most 100; NaN for pictures without any.

    Args:
        pred, target: [..., H, W, 3] in [0, 1].
        alpha: [..., H, W] opacity of the target.
    """
    inside = (alpha > THRESHOLD)[..., None]
    squared = jnp.sum(jnp.where(inside, jnp.square(pred - target), 0.0), (-3, -2, -1))
    count = 3 * jnp.sum(inside, (-3, -2, -1))
    mse = squared / jnp.maximum(count, 1)
    psnr = -10 * jnp.log10(jnp.maximum(mse, 10 ** (-MAX_PSNR / 10)))
    return jnp.where(count > 0, psnr, jnp.nan)


def silhouette_iou(pred_alpha: jax.Array, alpha: jax.Array) -> jax.Array:
    """Intersection over union of the two silhouettes [..., H, W]; 1 where both are empty."""
    a, b = pred_alpha > THRESHOLD, alpha > THRESHOLD
    both, either = jnp.sum(a & b, (-2, -1)), jnp.sum(a | b, (-2, -1))
    return jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)
