"""The losses of the pair: symmetric InfoNCE over the global batch, in two readings of a negative."""

import jax
import jax.numpy as jnp

from gsjax.losses import contrastive

NEGATIVES = ("caption", "phrases")


def pair_loss(
    images: jax.Array,
    texts: jax.Array,
    logit_scale: jax.Array,
    *,
    valid: jax.Array,
    caption_hash: jax.Array,
) -> jax.Array:
    """Mean symmetric InfoNCE; CLIP (arXiv 2103.00020), figure 3.

    Objects with equal captions in a batch are not negatives of each other.

    Args:
        images, texts: unit vectors [B, D].
        logit_scale: scalar, the log of the inverse temperature.
        valid: bool [B]; False neither counts nor serves as a negative.
        caption_hash: uint32 [B], equal for equal captions.
    """
    row, col = contrastive.pair_log_probs(
        images,
        texts[:, None],
        jnp.exp(logit_scale),
        valid_a=valid,
        valid_b=valid[:, None],
        ids=caption_hash,
    )
    weights = valid[:, None].astype(row.dtype)
    return contrastive.symmetric_loss(row, col, weights, weights.sum())


def phrase_loss(
    images: jax.Array,
    texts: jax.Array,
    logit_scale: jax.Array,
    *,
    valid: jax.Array,
    content: jax.Array,
    contents: jax.Array,
) -> jax.Array:
    """Mean symmetric InfoNCE where a text is no negative of any object that it also describes.

    'fence', drawn for one fence, is true of every other one whose own phrases say 'fence'. Taken as
    a negative it would drive objects of a kind apart, and with them the name of the kind.

    Args:
        images, texts: unit vectors [B, D].
        logit_scale: scalar, the log of the inverse temperature.
        valid: bool [B]; False neither counts nor serves as a negative.
        content: uint32 [B], hash of what each text says.
        contents: uint32 [B, P], hashes of all that may be said of each object.
    """
    logits = jnp.exp(logit_scale) * jnp.matmul(images, texts.T, precision="highest")
    describes = (contents[:, :, None] == content[None, None, :]).any(axis=1)  # [object, text]
    use = (valid[:, None] & valid[None] & ~describes) | jnp.eye(len(images), dtype=bool)
    logits = jnp.where(use, logits, -1e30)
    own = jnp.diagonal(logits)
    row = own - jax.nn.logsumexp(logits, axis=1)
    col = own - jax.nn.logsumexp(logits, axis=0)
    weights = valid.astype(logits.dtype)
    return contrastive.symmetric_loss(row, col, weights, weights.sum())


def batch_accuracy(images: jax.Array, texts: jax.Array, valid: jax.Array) -> jax.Array:
    """Share of valid pictures whose own caption is the nearest valid one of the batch."""
    similarity = jnp.where(valid[None], images @ texts.T, -2.0)
    own = jnp.diagonal(similarity)
    hits = (similarity >= own[:, None]).sum(axis=1) == 1
    return jnp.sum(hits & valid) / jnp.maximum(valid.sum(), 1)
