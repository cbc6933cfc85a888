"""Scenes of rigid objects: every Gaussian moves with the object that it belongs to.

For one motion of a whole scene see `gaussians.transform`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gsjax.core import gaussians, rotations, sh


def move_objects(
    g: gaussians.Gaussians | gaussians.RawGaussians,
    object_ids: jax.Array,
    object_poses: jax.Array,
) -> gaussians.Gaussians | gaussians.RawGaussians:
    """Applies x -> R x + t of its object to each Gaussian: means, quaternions and SH colours.

    Rotations of quaternions and SH are worked out once an object. Gradients reach poses and Gaussians.
    Those of poses are right along rigid motions; a step off these (a matrix that is no rotation any
    more) means nothing: optimise a rotation vector and a translation (`rotations.rotvec_to_quat`).

    Args:
      g: leading axes [...], N Gaussians.
      object_ids: [..., N] integers; below 0 or at least O means that the Gaussian stays.
      object_poses: [..., O, 4, 4] object to world, rigid.

    Returns:
      The same class as g.

    Raises:
      ValueError: an argument has the wrong shape or type.
    """
    object_ids, poses = jnp.asarray(object_ids), jnp.asarray(object_poses, g.means.dtype)
    _check(g, object_ids, poses)
    count = poses.shape[-3]
    # One more object, that stays where it is.
    rest = jnp.broadcast_to(jnp.eye(4, dtype=poses.dtype), (*poses.shape[:-3], 1, 4, 4))
    poses = jnp.concatenate([poses, rest], -3)
    index = jnp.where((object_ids >= 0) & (object_ids < count), object_ids, count)

    def of_gaussians(per_object):
        """[..., O + 1, *] -> [..., N, *]."""
        trailing = per_object.shape[index.ndim :]
        places = index.reshape(*index.shape, *(1,) * len(trailing))
        return jnp.take_along_axis(per_object, places, index.ndim - 1)

    rotmats = poses[..., :3, :3]
    means = _product(of_gaussians(rotmats), g.means) + of_gaussians(poses[..., :3, 3])
    # Normalised first: a zero quaternion stands for the identity, and its product would stay zero.
    turns = of_gaussians(rotations.rotmat_to_quat(rotmats))
    quats = rotations.quat_multiply(turns, rotations.quat_normalize(g.quats))
    levels = [g.sh[..., :1, :]]
    for level in range(1, g.sh_degree + 1):
        matrix = of_gaussians(sh.rotation_matrix(level, rotmats))
        part = g.sh[..., level * level : (level + 1) ** 2, :]
        levels.append(jnp.einsum("...mn,...nd->...md", matrix, part, precision="highest"))
    return dataclasses.replace(g, means=means, quats=quats, sh=jnp.concatenate(levels, -2))


def _product(matrices, vectors):
    return jnp.sum(matrices * vectors[..., None, :], -1)


def _check(g, object_ids, poses):
    leading = g.means.shape[:-1]
    if not jnp.issubdtype(object_ids.dtype, jnp.integer) or object_ids.shape != leading:
        raise ValueError(
            f"object_ids: found {object_ids.dtype} {list(object_ids.shape)}, expected integers "
            f"{list(leading)}: the object of each Gaussian, -1 for none"
        )
    if poses.ndim != len(leading) + 2 or poses.shape[:-3] != leading[:-1]:
        expected = f"[{', '.join(map(str, (*leading[:-1], 'O', 4, 4)))}]"
        raise ValueError(
            f"object_poses: found shape {list(poses.shape)}, expected {expected}: the scene axes of "
            "means, then objects"
        )
    if poses.shape[-2:] != (4, 4):
        raise ValueError(
            f"object_poses: found shape {list(poses.shape)}, expected [..., O, 4, 4]: whole "
            "matrices, object to world"
        )
