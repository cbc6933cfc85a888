"""Random turns of upright objects, and of their cameras with them: pictures stay as they are.

The angles are those of the released code of UniPre3D (arXiv 2506.09952).
"""

import jax
import jax.numpy as jnp

from gsjax.core import rotations

# Radians about x, y, z; objects stand along +y here, along +z in the released code.
_TILT = 0.01 * jnp.pi
_SPIN = 2 * jnp.pi


def draw_rotations(keys: jax.Array) -> jax.Array:
    """Rotations [B, 3, 3]: any angle about the up axis, up to 1.8 degrees about the two others.

    Args:
        keys: [B] PRNG keys.
    """
    limits = jnp.asarray([_TILT, _SPIN, _TILT])

    def one(key):
        angles = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0) * limits
        spin, *tilts = (rotations.rotvec_to_quat(angles[i] * jnp.eye(3)[i]) for i in (1, 0, 2))
        turned = rotations.quat_multiply(tilts[0], rotations.quat_multiply(tilts[1], spin))
        return rotations.quat_to_rotmat(turned)

    return jax.vmap(one)(keys)


def rotate(rotmats: jax.Array, xyz: jax.Array, viewmats: jax.Array) -> tuple[jax.Array, jax.Array]:
    """p' = R p and W' = W [R | 0]^-1: every camera sees what it saw.

    Args:
        rotmats: [B, 3, 3].
        xyz: [B, N, 3].
        viewmats: [B, V, 4, 4].

    Returns:
        Both, turned.
    """
    xyz = jnp.einsum("bij,bnj->bni", rotmats, xyz, precision="highest")
    turned = jnp.einsum("bvij,bkj->bvik", viewmats[..., :3, :3], rotmats, precision="highest")
    return xyz, viewmats.at[..., :3, :3].set(turned)
