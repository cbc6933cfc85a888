"""Random similarity transforms and colour drop of whole objects, consistent over all attributes.

Uni3D's augmentation (arXiv 2310.06773) carried over from points to Gaussians: what moves a position
also turns the quaternion and shifts the log-scales, so that rendering commutes with it. One key an
object.
"""

import jax
import jax.numpy as jnp

from gsjax.core import gaussians, rotations, sh

NO_COLOR = 0.4  # Uni3D's grey for objects without colour


def example_keys(rng: jax.Array, index: jax.Array) -> jax.Array:
    """One key an object, from its record number: [B]. The same on every layout of the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(index)


def purpose_keys(keys: jax.Array, purpose: int) -> jax.Array:
    """Independent keys [B] for one use of the randomness."""
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)


def random_similarity(
    key: jax.Array,
    *,
    scale: tuple[float, float],
    shift: float,
    tilt: float,
    max_tilt: float,
    spin: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws (scale [], rotation [3, 3], translation [3]) for one object.

    Args:
        key: random key.
        scale: range of the uniform scale factor.
        shift: half range of the uniform shift of each axis.
        tilt: standard deviation of the small turns about x, y and z, radians.
        max_tilt: their bound.
        spin: a uniform turn about the up axis (y).
    """
    k_scale, k_shift, k_tilt, k_spin = jax.random.split(key, 4)
    factor = jax.random.uniform(k_scale, (), minval=scale[0], maxval=scale[1])
    translation = jax.random.uniform(k_shift, (3,), minval=-shift, maxval=shift)
    angles = jnp.clip(tilt * jax.random.normal(k_tilt, (3,)), -max_tilt, max_tilt)
    turn_x, turn_y, turn_z = rotations.axis_angle_to_quat(jnp.eye(3), angles)
    turn = rotations.quat_multiply(turn_z, rotations.quat_multiply(turn_y, turn_x))
    if spin:
        angle = jax.random.uniform(k_spin, (), maxval=2 * jnp.pi)
        up = rotations.axis_angle_to_quat(jnp.asarray([0.0, 1.0, 0.0]), angle)
        turn = rotations.quat_multiply(up, turn)
    return factor, rotations.quat_to_rotmat(turn), translation


def augment(raw: gaussians.RawGaussians, keys: jax.Array, options) -> gaussians.RawGaussians:
    """Augments a batch of normalised objects.

    The reference's order is scale, shift, small turns, turn about up; so a shift turns along.

    Args:
        raw: [B, N, ...].
        keys: [B].
        options: ``scale`` (lo, hi), ``shift``, ``tilt``, ``max_tilt``, ``spin``, ``color_drop``.
    """

    def draw(key):
        factor, turn, translation = random_similarity(
            key,
            scale=tuple(options.scale),
            shift=options.shift,
            tilt=options.tilt,
            max_tilt=options.max_tilt,
            spin=options.spin,
        )
        return factor, turn, turn @ translation

    raw = gaussians.transform(raw, *jax.vmap(draw)(purpose_keys(keys, 0)))
    if options.color_drop > 0.0:
        raw = _drop_color(raw, purpose_keys(keys, 1), options.color_drop)
    return raw


def _drop_color(raw, keys, rate):
    """Replaces all colours of an object by one grey, with probability ``rate``."""
    drop = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    grey = jnp.zeros_like(raw.sh).at[..., 0, :].set(sh.rgb_to_sh0(jnp.full(3, NO_COLOR)))
    colors = jnp.where(drop[:, None, None, None], grey, raw.sh)
    return gaussians.RawGaussians(raw.means, raw.quats, raw.log_scales, raw.logit_opacities, colors)
