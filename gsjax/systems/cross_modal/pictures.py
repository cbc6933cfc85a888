"""Pictures of a batch as the encoder reads them."""

import jax
import jax.numpy as jnp

from gsjax.systems.cross_modal import augment


def keys_of(key: jax.Array, index: jax.Array) -> jax.Array:
    """A key for each example [B] by its number, wherever it lies in the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def prepared(config, images: jax.Array, index: jax.Array, key: jax.Array | None) -> jax.Array:
    """f32 [B, R, S, S, 3] in [0, 1], S = ``data.image_size``.

    Args:
        config: of the system.
        images: uint8 [B, R, H, W, 3].
        index: int32 [B].
        key: crops and mirrors at random, each picture for itself; None = whole pictures.
    """
    size = config.data.image_size
    images = images.astype(jnp.float32) / 255
    if key is None or not config.data.augment:
        return augment.resized(images, size)
    keys = jax.vmap(lambda k: jax.random.split(k, images.shape[1]))(keys_of(key, index))
    found = augment.crops(keys.reshape(-1), images.reshape(-1, *images.shape[2:]), size)
    return found.reshape(*images.shape[:2], *found.shape[1:])
