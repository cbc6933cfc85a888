"""Random crops and mirrored pictures, on the device, as torchvision draws them.

``RandomResizedCrop`` (area 0.08 to 1, aspect 3/4 to 4/3, ten tries, bilinear) and a flip; every picture
has a key of its own. A crop's outermost pixels are blended with those beside it in the picture, where
torchvision cuts first.
"""

import jax
import jax.numpy as jnp

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def draw_box(key: jax.Array, height: int, width: int) -> jax.Array:
    """A crop: f32 [4] of top, left, height, width; whole pixels."""
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(area_key, (_TRIES,), minval=AREA[0], maxval=AREA[1])
    low, high = jnp.log(jnp.asarray(RATIO))
    ratio = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=low, maxval=high))
    w, h = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = jnp.argmax(fits)
    # No try fits: the largest middle part of an allowed shape.
    shape = jnp.clip(width / height, *RATIO)
    whole_w = jnp.minimum(width, jnp.round(height * shape))
    whole_h = jnp.minimum(height, jnp.round(width / shape))
    some = jnp.any(fits)
    w, h = jnp.where(some, w[first], whole_w), jnp.where(some, h[first], whole_h)
    free = jnp.stack([height - h, width - w])
    drawn = jnp.floor(jax.random.uniform(place_key, (2,)) * (free + 1))
    place = jnp.where(some, jnp.minimum(drawn, free), jnp.round(free / 2))
    return jnp.stack([*place, h, w])


def crop(image: jax.Array, box: jax.Array, size: int) -> jax.Array:
    """The box [4] of an image f32 [H, W, C], resized to [size, size, C]."""
    scale = size / box[2:]
    return jax.image.scale_and_translate(
        image, (size, size, image.shape[-1]), (0, 1), scale, -box[:2] * scale, "linear"
    )


def crops(keys: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """Random crops, half of them mirrored.

    Args:
        keys: [B] PRNG keys.
        images: f32 [B, H, W, C].
        size: S.

    Returns:
        [B, S, S, C].
    """

    def one(key, image):
        box_key, flip_key = jax.random.split(key)
        found = crop(image, draw_box(box_key, *image.shape[:2]), size)
        return jnp.where(jax.random.bernoulli(flip_key), found[:, ::-1], found)

    return jax.vmap(one)(keys, images)


def resized(images: jax.Array, size: int) -> jax.Array:
    """Whole pictures [..., H, W, C] at [..., S, S, C]; as they are where they have that size."""
    if images.shape[-3:-1] == (size, size):
        return images
    return jax.image.resize(images, (*images.shape[:-3], size, size, images.shape[-1]), "linear")
