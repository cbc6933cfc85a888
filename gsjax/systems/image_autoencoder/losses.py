"""The loss of the autoencoder: squared error of pixels and of their differences to the next pixel."""

import jax
import jax.numpy as jnp

from gsjax.core import image


def pixel_loss(found: jax.Array, pictures: jax.Array) -> jax.Array:
    """[B]: mean squared error of each picture.

    Args:
        found, pictures: [B, H, W, 3].
    """
    return jnp.mean((found - pictures) ** 2, axis=(1, 2, 3))


def edge_loss(found: jax.Array, pictures: jax.Array) -> jax.Array:
    """[B]: the same of the differences between neighbours, rows and columns with equal weight.

    It asks for edges where they are and no others; shifted by a constant, a picture costs nothing.

    Args:
        found, pictures: [B, H, W, 3], H and W from 2 on.
    """
    error = found - pictures
    down, right = jnp.diff(error, axis=1), jnp.diff(error, axis=2)
    return 0.5 * (jnp.mean(down**2, axis=(1, 2, 3)) + jnp.mean(right**2, axis=(1, 2, 3)))


def total_loss(
    found: jax.Array, pictures: jax.Array, valid: jax.Array, edges: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean over valid pictures of pixels + ``edges`` * edges, and the figures to log.

    Args:
        found, pictures: [B, H, W, 3] in [-1, 1].
        valid: bool [B].
        edges: weight.
    """
    pixels = pixel_loss(found, pictures)
    each = pixels + edges * edge_loss(found, pictures) if edges else pixels
    decibels = psnr(found, pictures)
    return _mean(each, valid), {"mse": _mean(pixels, valid), "psnr": _mean(decibels, valid)}


def psnr(found: jax.Array, pictures: jax.Array) -> jax.Array:
    """[B]: PSNR in dB of pictures in [-1, 1], as they would be shown: ``found`` clipped."""
    return image.psnr(jnp.clip(found, -1.0, 1.0), pictures, data_range=2.0)


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(valid.sum(), 1)
