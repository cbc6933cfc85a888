"""What a fit minimises: one pure function a term."""

import jax
import jax.numpy as jnp

from gsjax.core import image as images


def photometric(
    image: jax.Array, target: jax.Array, mask: jax.Array | None = None, *, ssim: float = 0.2
) -> jax.Array:
    """(1 - ssim) L1 + ssim (1 - SSIM) (3DGS, arXiv 2308.04079, Eq. 7), mean over images.

    Args:
      image, target: [C, H, W, 3].
      mask: bool [C, H, W], True where pixels count: L1 is the mean over these, and both images are
        black elsewhere for SSIM.
      ssim: weight of the structural term.

    Returns:
      [].
    """
    error = jnp.abs(image - target)
    if mask is None:
        l1 = jnp.mean(error)
    else:
        kept = mask[..., None].astype(image.dtype)
        image, target = image * kept, target * kept
        l1 = jnp.sum(error * kept) / jnp.maximum(3 * jnp.sum(kept), 1.0)
    if ssim == 0:
        return l1
    return (1 - ssim) * l1 + ssim * (1 - jnp.mean(images.ssim(image, target)))


def regularizers(opacities: jax.Array, scales: jax.Array, alive: jax.Array):
    """Means of opacity and of scale over Gaussians that are alive (3DGS-MCMC, arXiv 2404.09591, Sec. 4.4).

    Args:
      opacities: [N], scales: [N, 3], alive: bool [N].
    """
    count = jnp.maximum(jnp.sum(alive), 1)
    small = jnp.where(alive[:, None], scales, 0.0)
    return jnp.sum(jnp.where(alive, opacities, 0.0)) / count, jnp.sum(small) / (3 * count)


def disparity(depth: jax.Array, target: jax.Array, alpha: jax.Array, scene_scale) -> jax.Array:
    """Mean |1/z - 1/z'| times the scene's scale, over pixels with a target and something drawn.

    Args:
      depth: [C, H, W] expected depth, target: [C, H, W] with 0 = unknown, alpha: [C, H, W].
      scene_scale: world units.
    """
    known = (target > 0) & (alpha > 0.5) & (depth > 0)
    difference = 1 / jnp.where(known, depth, 1.0) - 1 / jnp.where(known, target, 1.0)
    count = jnp.maximum(jnp.sum(known), 1)
    return scene_scale * jnp.sum(jnp.where(known, jnp.abs(difference), 0.0)) / count
