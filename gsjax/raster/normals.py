"""Normals of Gaussians, to be rendered like any other feature."""

import jax
import jax.numpy as jnp

from gsjax.core import cameras, rotations


def smallest_axis_normals(
    quats: jax.Array, scales: jax.Array, means: jax.Array, viewmats: jax.Array
) -> jax.Array:
    """The shortest axis of each Gaussian as a unit normal that faces the camera.

    Gradients reach quats; which axis is the shortest and which side faces the camera are choices.
    As ``colors`` of `api.rasterize` the normals blend to an image [..., C, H, W, 3]; divide by alpha
    or normalise it as the loss wants. For normals in camera axes multiply by ``viewmats[..., :3, :3]``.

    Args:
      quats: [..., N, 4] rotations (w, x, y, z), of any length.
      scales: [..., N, 3]; only their order counts, so logarithms will do.
      means: [..., N, 3] world units.
      viewmats: [..., C, 4, 4] world to camera.

    Returns:
      [..., C, N, 3] unit vectors in world axes.

    Example:
      >>> normals = smallest_axis_normals(quats, scales, means, viewmats)
      >>> image, alpha, _ = rasterize(means, quats, scales, opacities, normals, viewmats, Ks, w, h)
    """
    axes = rotations.quat_to_rotmat(quats)  # its columns
    shortest = jnp.argmin(jax.lax.stop_gradient(scales), -1)
    normals = jnp.take_along_axis(axes, shortest[..., None, None], -1)[..., None, :, :, 0]
    centers = cameras.camera_centers(viewmats)[..., :, None, :]
    facing = jnp.sum(normals * (centers - means[..., None, :, :]), -1, keepdims=True)
    return jnp.where(jax.lax.stop_gradient(facing) < 0, -normals, normals)
