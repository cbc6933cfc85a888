"""What is learned per training view beside the scene: a small motion of its camera, and its colours.

Held-out views never get either.
"""

import jax
import jax.numpy as jnp

from gsjax.core import cameras, rotations


def zeros(num_views: int) -> dict[str, jax.Array]:
    """Parameters that change nothing: pose [V, 9] and exposure [V, 3, 4], offsets both."""
    return {"pose": jnp.zeros((num_views, 9)), "exposure": jnp.zeros((num_views, 3, 4))}


def moved(viewmats: jax.Array, pose: jax.Array) -> jax.Array:
    """World-to-camera matrices of cameras moved in their own axes: c2w T, so T^-1 viewmat.

    Args:
      viewmats: [..., 4, 4].
      pose: [..., 9]: translation, then what is added to the first two columns (1, 0, 0) and
        (0, 1, 0) of the rotation, which Gram-Schmidt makes one (Zhou et al., arXiv 1812.07035).
    """
    unit = jnp.eye(3, dtype=pose.dtype)
    first = rotations.safe_normalize(pose[..., 3:6] + unit[0], (1.0, 0.0, 0.0))
    second = pose[..., 6:9] + unit[1]
    second = second - jnp.sum(first * second, -1, keepdims=True) * first
    second = rotations.safe_normalize(second, (0.0, 1.0, 0.0))
    rotation = jnp.stack([first, second, jnp.cross(first, second)], -1)
    top = jnp.concatenate([rotation, pose[..., :3, None]], -1)
    bottom = jnp.broadcast_to(jnp.array([0, 0, 0, 1], top.dtype), (*top.shape[:-2], 1, 4))
    motion = cameras.invert_rigid(jnp.concatenate([top, bottom], -2))
    return jnp.sum(motion[..., :, :, None] * viewmats[..., None, :, :], -2)


def exposed(image: jax.Array, exposure: jax.Array) -> jax.Array:
    """image [C, H, W, 3] through its view's affine map of colours, exposure [C, 3, 4] an offset."""
    linear = exposure[:, None, None, :, :3] + jnp.eye(3, dtype=image.dtype)
    return jnp.sum(linear * image[..., None, :], -1) + exposure[:, None, None, :, 3]
