"""Random changes of scenes in training: turns about z, mirroring, scale, colours.

Every cloud draws by a key of its own. The options are those of Pointcept's recipes for indoor scenes
but for tilts, elastic distortion and dropped points; a world has z up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Options(NamedTuple):
    """What is drawn; every field has a value that switches it off.

    Attributes:
        turn: greatest angle about z, either way, in half turns; 0 = off.
        flip: probability of mirroring x, and of mirroring y; 0 = off.
        scale: least and greatest factor; (1, 1) = off.
        jitter: standard deviation of each point's offset, metres, cut off at four of them; 0 = off.
        shift_colour: greatest shift of each channel of a whole cloud, of [0, 1]; 0 = off.
        jitter_colour: standard deviation of each point's channels; 0 = off.
    """

    turn: float = 1.0
    flip: float = 0.5
    scale: tuple[float, float] = (0.9, 1.1)
    jitter: float = 0.0
    shift_colour: float = 0.05
    jitter_colour: float = 0.05

    def check(self) -> "Options":
        """Itself.

        Raises:
            ValueError: an option is out of range.
        """
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(
                f"data.augment.scale: expected 0 < least <= greatest, found {tuple(self.scale)}"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"data.augment.flip: expected a probability, found {self.flip}")
        for name in ("turn", "jitter", "shift_colour", "jitter_colour"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"data.augment.{name}: expected 0 or more, found {getattr(self, name)}"
                )
        return self


def augment(
    keys: jax.Array, xyz: jax.Array, rgb: jax.Array, normal: jax.Array, options: Options
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Clouds with everything drawn anew.

    Args:
        keys: [B] PRNG keys.
        xyz: [B, N, 3], metres.
        rgb: [B, N, 3] in [0, 1].
        normal: [B, N, 3], unit or zero; turned and mirrored like the points.
        options: what is drawn.

    Returns:
        xyz, rgb (in [0, 1] again) and normal.
    """
    return jax.vmap(lambda *cloud: _one(*cloud, options))(keys, xyz, rgb, normal)


def _one(key, xyz, rgb, normal, options: Options):
    turn, flip, scale, jitter, shift, colour = jax.random.split(key, 6)
    angle = jnp.pi * options.turn * jax.random.uniform(turn, minval=-1.0)
    cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros(())
    matrix = jnp.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1]).reshape(3, 3)
    mirrored = jax.random.uniform(flip, (2,)) < options.flip
    matrix = matrix * jnp.append(jnp.where(mirrored, -1.0, 1.0), 1.0)  # mirror first, then turn
    low, high = options.scale
    factor = jax.random.uniform(scale, minval=low, maxval=high)
    xyz = factor * jnp.matmul(xyz, matrix.T, precision="highest")
    normal = jnp.matmul(normal, matrix.T, precision="highest")
    if options.jitter:
        draws = jax.random.truncated_normal(jitter, -4.0, 4.0, xyz.shape)
        xyz = xyz + options.jitter * draws
    if options.shift_colour:
        rgb = rgb + options.shift_colour * jax.random.uniform(shift, (3,), minval=-1.0)
    if options.jitter_colour:
        rgb = rgb + options.jitter_colour * jax.random.normal(colour, rgb.shape)
    return xyz, jnp.clip(rgb, 0.0, 1.0), normal
