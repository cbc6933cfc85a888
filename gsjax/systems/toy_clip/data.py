"""Batches for the image/text pair, and the augmentation that only this system uses."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.data import pictures
from gsjax.models import towers, toy_towers

# Fits pictures of the sets that this pair is for; larger sets are decoded as they are read.
_PICTURE_MEMORY = 1 << 30


def batch_spec(config: toy_towers.TowerConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """One example: ``view`` uint8 [S, S, 3], ``tokens`` int32 [W, 1 + G], ``category`` int32 [],
    ``caption_hash`` uint32 [], ``index`` int32 [], ``valid`` bool []; see ``data.pictures``."""
    size = config.image_size
    return {
        "index": jax.ShapeDtypeStruct((), jnp.int32),
        "valid": jax.ShapeDtypeStruct((), jnp.bool_),
        "category": jax.ShapeDtypeStruct((), jnp.int32),
        "view": jax.ShapeDtypeStruct((size, size, 3), jnp.uint8),
        "tokens": jax.ShapeDtypeStruct(config.tokenizer.shape, jnp.int32),
        "caption_hash": jax.ShapeDtypeStruct((), jnp.uint32),
    }


def synthetic_batch(config: toy_towers.TowerConfig, size: int, seed: int = 0) -> dict:
    """A batch of random squares on white with captions that name them, for tests and timing."""
    rng = np.random.default_rng(seed)
    side = config.image_size
    view = np.full((size, side, side, 3), 255, np.uint8)
    captions = []
    for row in range(size):
        colour, (top, left) = rng.integers(0, 200, 3), rng.integers(0, side // 2, 2)
        view[row, top : top + side // 2, left : left + side // 2] = colour
        captions.append(f"square {row} of shade {colour[0]}")
    return {
        "index": np.arange(size, dtype=np.int32),
        "valid": np.ones(size, bool),
        "category": np.zeros(size, np.int32),
        "view": view,
        "tokens": config.tokenizer(captions),
        "caption_hash": np.arange(size, dtype=np.uint32),
    }


def examples(
    dataset_dir,
    split: str,
    config: toy_towers.TowerConfig,
    *,
    seed: int,
    train: bool,
    with_text: bool = False,
):
    """Single examples of one split: a random view and caption in training, else the first ones.

    ``with_text`` adds the caption itself, for pictures to look at.
    """
    records = pictures.open_decoded(
        dataset_dir,
        split,
        lambda picture: towers.resize_rgb(picture, config.image_size),
        _PICTURE_MEMORY,
    )
    return pictures.picture_examples(
        records, tokenize=config.tokenizer, seed=seed, train=train, with_text=with_text
    )


def augment_picture(
    rng: jax.Array, pixels: jax.Array, *, zoom, shift, gain, tint, grey, flip
) -> jax.Array:
    """Mirrors, zooms, shifts and shades one picture; what comes in at the border is white.

    Args:
        rng: key of this example.
        pixels: [S, S, 3] in [-1, 1].
        zoom: largest relative change of size, e.g. 0.15 for 0.85 .. 1.15.
        shift: largest shift, as a share of the side.
        gain: largest relative change of the distance from white, all channels alike.
        tint: the same for each channel on its own; small where captions name colours.
        grey: probability that the picture loses its colours.
        flip: probability that left and right are exchanged; 0 where captions tell them apart.
    """
    keys = jax.random.split(rng, 6)
    side = pixels.shape[0]
    pixels = jnp.where(jax.random.bernoulli(keys[5], flip), pixels[:, ::-1], pixels)
    scale = 1.0 + zoom * jax.random.uniform(keys[0], (2,), pixels.dtype, -1, 1)
    move = side * shift * jax.random.uniform(keys[1], (2,), pixels.dtype, -1, 1)
    move = move + side * (1.0 - scale) / 2  # zoom about the centre
    ink = jax.image.scale_and_translate(
        1.0 - pixels, pixels.shape, (0, 1), scale, move, method="linear", antialias=False
    )
    fade = jax.random.bernoulli(keys[4], grey)
    ink = jnp.where(fade, ink.mean(axis=-1, keepdims=True), ink)
    factor = 1.0 + gain * jax.random.uniform(keys[2], (1,), pixels.dtype, -1, 1)
    factor = factor * (1.0 + tint * jax.random.uniform(keys[3], (3,), pixels.dtype, -1, 1))
    return jnp.clip(1.0 - factor * ink, -1.0, 1.0)


def augment_tokens(rng: jax.Array, tokens: jax.Array, *, drop_word, drop_identity) -> jax.Array:
    """Forgets some words, and of others all but their n-grams.

    Args:
        rng: key of this example.
        tokens: int32 [W, 1 + G].
        drop_word: probability that a word disappears; the words behind it move up, so that a word
            is known wherever it stands. A caption that would lose all its words loses none.
        drop_identity: probability that a word is known by its n-grams alone, which is how an
            unseen word is known. Words without n-grams keep their identity.
    """
    first, second = jax.random.split(rng)
    present = tokens[:, 0] > 0
    keep = present & ~jax.random.bernoulli(first, drop_word, present.shape)
    keep = jnp.where(keep.any(), keep, present)
    forget = jax.random.bernoulli(second, drop_identity, present.shape) & (tokens[:, 1] > 0)
    tokens = tokens.at[:, 0].set(jnp.where(forget, 0, tokens[:, 0]))
    order = jnp.argsort(~keep, stable=True)
    return jnp.where(keep[order][:, None], tokens[order], 0)
