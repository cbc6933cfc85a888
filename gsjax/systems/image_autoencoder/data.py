"""Batches of single pictures, and the augmentation that only this system uses."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.data import pictures
from gsjax.models import towers

_PICTURE_MEMORY = 1 << 30  # larger sets are decoded as they are read
_FIELDS = ("index", "valid", "view")


def batch_spec(image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """One example: ``view`` uint8 [S, S, 3], ``index`` int32 [], ``valid`` bool []."""
    return {
        "index": jax.ShapeDtypeStruct((), jnp.int32),
        "valid": jax.ShapeDtypeStruct((), jnp.bool_),
        "view": jax.ShapeDtypeStruct((image_size, image_size, 3), jnp.uint8),
    }


def synthetic_batch(image_size: int, size: int, seed: int = 0) -> dict:
    """A batch of random squares on white, for tests and timing."""
    rng = np.random.default_rng(seed)
    half = image_size // 2
    view = np.full((size, image_size, image_size, 3), 255, np.uint8)
    for row in range(size):
        top, left = rng.integers(0, half, 2)
        view[row, top : top + half, left : left + half] = rng.integers(0, 256, 3)
    return {
        "index": np.arange(size, dtype=np.int32),
        "valid": np.ones(size, bool),
        "view": view,
    }


def examples(dataset_dir, split: str, image_size: int, *, seed: int, train: bool):
    """Single examples of one split: a random view of each object in training, else the first."""
    records = pictures.open_decoded(
        dataset_dir,
        split,
        lambda picture: towers.resize_rgb(picture, image_size),
        _PICTURE_MEMORY,
    )
    made = pictures.picture_examples(
        records, tokenize=lambda caption: np.zeros(0, np.int32), seed=seed, train=train
    )
    return made.map(lambda example: {name: example[name] for name in _FIELDS})


def augment(rng: jax.Array, pixels: jax.Array, *, shift, flip, invert, mix, gain) -> jax.Array:
    """Moves, mirrors and recolours one picture, so that few objects stand for many.

    Args:
        rng: key of this example.
        pixels: [S, S, 3] in [-1, 1].
        shift: largest move in pixels, each way; what comes in repeats the border.
        flip: probability that left and right are exchanged.
        invert: probability that the picture becomes its negative: renders stand on white, and
            pictures that the encoder is for may stand on black.
        mix: probability that the three colours change their places.
        gain: largest relative loss of contrast, after which any grey is added that fits.
    """
    keys = jax.random.split(rng, 6)
    side = pixels.shape[0]
    pixels = jnp.where(jax.random.bernoulli(keys[0], flip), pixels[:, ::-1], pixels)
    wide = jnp.pad(pixels, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
    top, left = jax.random.randint(keys[1], (2,), 0, 2 * shift + 1)
    pixels = jax.lax.dynamic_slice(wide, (top, left, 0), (side, side, 3))
    order = jnp.where(
        jax.random.bernoulli(keys[2], mix), jax.random.permutation(keys[3], 3), jnp.arange(3)
    )
    pixels = pixels[..., order]
    pixels = jnp.where(jax.random.bernoulli(keys[4], invert), -pixels, pixels)
    loss, grey = jax.random.uniform(keys[5], (2,), pixels.dtype)
    loss = gain * loss
    return (1.0 - loss) * pixels + loss * (2.0 * grey - 1.0)
