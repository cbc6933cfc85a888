"""Rays of pixels: from image positions and intrinsics to directions of depth 1, and to world points.

Intrinsics and positions only have to be in the same unit, pixels or fractions of the image. All products
are float32 at least and at the highest precision: TF32 or bfloat16 would move points by pixels.
"""

import jax
import jax.numpy as jnp


def pixel_centers(height: int, width: int, dtype=jnp.float32) -> jax.Array:
    """[H, W, 2] positions (x, y) of pixel centres as fractions of the image: ((u + 0.5) / W, ...)."""
    x = (jnp.arange(width, dtype=dtype) + 0.5) / width
    y = (jnp.arange(height, dtype=dtype) + 0.5) / height
    return jnp.stack(jnp.meshgrid(x, y), axis=-1)


def pixel_indices(height: int, width: int, dtype=jnp.float32) -> jax.Array:
    """[H, W, 2] column and row of each cell, from 0, in cells.

    Plane sweeps of the GMFlow family unproject and sample at these, half a cell off ``pixel_centers``.
    """
    x, y = jnp.arange(width, dtype=dtype), jnp.arange(height, dtype=dtype)
    return jnp.stack(jnp.meshgrid(x, y), axis=-1)


def camera_directions(Ks: jax.Array, xy: jax.Array) -> jax.Array:
    """K^-1 (x, y, 1), whose third component is 1: times the depth it is the point in camera axes.

    Args:
        Ks: [..., 3, 3], upper triangular with last row (0, 0, 1); skew is honoured.
        xy: [..., 2]; leading axes broadcast against those of Ks.

    Returns:
        [..., 3].
    """
    y = (xy[..., 1] - Ks[..., 1, 2]) / Ks[..., 1, 1]
    x = (xy[..., 0] - Ks[..., 0, 2] - Ks[..., 0, 1] * y) / Ks[..., 0, 0]
    return jnp.stack((x, y, jnp.ones_like(x)), axis=-1)


def unproject(xy: jax.Array, depths: jax.Array, Ks: jax.Array, c2ws: jax.Array) -> jax.Array:
    """World points of image positions with depths along the optical axis.

    Args:
        xy: [..., P, 2] in the unit of Ks; leading axes broadcast.
        depths: [..., P].
        Ks: [..., 3, 3].
        c2ws: [..., 4, 4] camera to world.

    Returns:
        [..., P, 3].
    """
    points = camera_directions(Ks[..., None, :, :], xy) * depths[..., None]
    turned = jnp.einsum("...ij,...pj->...pi", c2ws[..., :3, :3], points, precision="highest")
    return turned + c2ws[..., None, :3, 3]


def project(points: jax.Array, Ks: jax.Array, c2ws: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Image positions and depths of world points: the inverse of ``unproject``.

    Args:
        points: [..., P, 3].
        Ks: [..., 3, 3].
        c2ws: [..., 4, 4], rigid.

    Returns:
        ([..., P, 2] in the unit of Ks, [..., P]); positions of points with depth 0 are not finite, those
        of points behind the camera are mirrored.
    """
    offset = points - c2ws[..., None, :3, 3]
    local = jnp.einsum("...ji,...pj->...pi", c2ws[..., :3, :3], offset, precision="highest")
    image = jnp.einsum("...ij,...pj->...pi", Ks, local, precision="highest")
    return image[..., :2] / local[..., 2:], local[..., 2]


def pixel_intrinsics(Ks: jax.Array, height: int, width: int) -> jax.Array:
    """Normalised intrinsics [..., 3, 3] in cells of a map: first row times width, second times height."""
    return Ks * jnp.asarray((width, height, 1), Ks.dtype)[:, None]
