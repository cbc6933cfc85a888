"""Random similarity transforms and colour drop of whole objects, consistent over all attributes.

Uni3D's augmentation (arXiv 2310.06773) carried over from points to Gaussians: what moves a position
also turns the quaternion and shifts the log-scales, so that rendering commutes with it. The random
numbers come in from outside.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gsjax.core import gaussians, rotations, sh
from gsjax.systems.clip_gs import randomness

NO_COLOR = 0.4  # Uni3D's grey for objects without colour


def similarity(
    draws: jax.Array,
    *,
    scale: tuple[float, float],
    shift: float,
    tilt: float,
    max_tilt: float,
    spin: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random (scale [...], rotation [..., 3, 3], translation [..., 3]), one an object.

    The reference's order is scale, shift, small turns, turn about up; so the shift turns along.

    Args:
        draws: [..., 8] uniform in [0, 1).
        scale: range of the uniform scale factor.
        shift: half range of the uniform shift of each axis.
        tilt: standard deviation of the small turns about x, y and z, radians.
        max_tilt: their bound.
        spin: a uniform turn about the up axis (y).
    """
    factor = scale[0] + (scale[1] - scale[0]) * draws[..., 0]
    moved = shift * (2.0 * draws[..., 1:4] - 1.0)
    angles = jnp.clip(tilt * jax.scipy.special.ndtri(draws[..., 4:7]), -max_tilt, max_tilt)
    turns = rotations.axis_angle_to_quat(jnp.eye(3, dtype=draws.dtype), angles)
    turn = rotations.quat_multiply(
        turns[..., 2, :], rotations.quat_multiply(turns[..., 1, :], turns[..., 0, :])
    )
    if spin:
        up = jnp.asarray([0.0, 1.0, 0.0], draws.dtype)
        about_up = rotations.axis_angle_to_quat(up, 2 * jnp.pi * draws[..., 7])
        turn = rotations.quat_multiply(about_up, turn)
    matrix = rotations.quat_to_rotmat(turn)
    return factor, matrix, jnp.einsum("...ij,...j->...i", matrix, moved, precision="highest")


def augment(
    raw: gaussians.RawGaussians, draws: randomness.Draws, options
) -> gaussians.RawGaussians:
    """Augments a batch of normalised objects.

    Args:
        raw: [B, N, ...].
        draws: of the B objects.
        options: ``scale`` (lo, hi), ``shift``, ``tilt``, ``max_tilt``, ``spin``, ``color_drop``.
    """
    move = similarity(
        draws.similarity,
        scale=tuple(options.scale),
        shift=options.shift,
        tilt=options.tilt,
        max_tilt=options.max_tilt,
        spin=options.spin,
    )
    raw = gaussians.transform(raw, *move)
    return _drop_color(raw, draws.color < options.color_drop)


def _drop_color(raw, drop):
    """Replaces all colours of the objects with ``drop`` [B] by one grey."""
    grey = sh.rgb_to_sh0(jnp.full(3, NO_COLOR, raw.sh.dtype))
    colors = jnp.where(drop[:, None, None, None], grey, raw.sh)
    return dataclasses.replace(raw, sh=colors)
