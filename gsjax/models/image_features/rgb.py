"""The picture itself as features: colours and sines of them at several frequencies. No weights.

    rgb?bands=4

What a network can see of colour without any learned image knowledge: the baseline for the others.
"""

import functools

import jax
import jax.numpy as jnp

from gsjax.models.image_features import base

OPTIONS = dict(bands="4")


def build(path, options, open_state_dict=None) -> base.ImageEncoder:
    """``bands`` 0 .. 12: frequencies; C = 3 + 6 bands. See ``base.load``."""
    del open_state_dict
    base.no_path("rgb", path)
    bands = base.whole_number("rgb", options, "bands", 0, 12)
    return base.ImageEncoder(
        name="rgb",
        channels=3 + 6 * bands,
        digest=base.digest("rgb", dict(bands=bands), {}),
        licence="none needed",
        description=f"2 x - 1, then sin and cos of 2^k pi x for k < {bands}; RGB x in [0, 1]",
        arrays={},
        apply=functools.partial(features, bands),
    )


def features(bands: int, arrays: base.Arrays, images: jax.Array) -> jax.Array:
    """[B, H, W, 3 + 6 bands]: 2 x - 1, then for each frequency the sines and the cosines of RGB."""
    del arrays
    base.check_images(images)
    x = images.astype(jnp.float32)
    waves = [wave(2.0**k * jnp.pi * x) for k in range(bands) for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([2.0 * x - 1.0, *waves], -1)
