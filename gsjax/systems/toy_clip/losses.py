"""The losses of the pair: captions by symmetric InfoNCE, kinds by cross-entropy over their names."""

import jax
import jax.numpy as jnp

from gsjax.losses import contrastive


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


def kind_loss(
    images: jax.Array,
    kinds: jax.Array,
    logit_scale: jax.Array,
    *,
    category: jax.Array,
    valid: jax.Array,
) -> jax.Array:
    """Mean cross-entropy of pictures over the names of all categories, embedded as texts.

    What many objects share is a weak signal among negatives that differ in everything else; this
    says it outright, as captions that name the kind do.

    Args:
        images: unit vectors [B, D].
        kinds: unit vectors [C, D], one sentence around each category's name.
        logit_scale: scalar, the log of the inverse temperature.
        category: int32 [B].
        valid: bool [B].
    """
    logits = jnp.exp(logit_scale) * jnp.matmul(images, kinds.T, precision="highest")
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), category[:, None], axis=1)[:, 0]
    return -jnp.sum(jnp.where(valid, own, 0.0)) / jnp.maximum(valid.sum(), 1)


def total_loss(
    images: jax.Array,
    texts: jax.Array,
    kinds: jax.Array | None,
    logit_scale: jax.Array,
    batch,
    share: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(1 - share) captions + share kinds, and the figures to log.

    Args:
        images, texts: unit vectors [B, D].
        kinds: of :func:`kind_loss`; None where ``share`` is 0.
        logit_scale: scalar, the log of the inverse temperature.
        batch: with ``valid``, ``caption_hash`` and ``category``.
        share: of the loss by kinds.
    """
    valid = batch["valid"]
    loss = pair_loss(images, texts, logit_scale, valid=valid, caption_hash=batch["caption_hash"])
    if kinds is not None:
        by_name = kind_loss(images, kinds, logit_scale, category=batch["category"], valid=valid)
        loss = (1 - share) * loss + share * by_name
    accuracy = batch_accuracy(images, texts, valid)
    return loss, {"batch_accuracy": accuracy, "logit_scale": logit_scale}


def batch_accuracy(images: jax.Array, texts: jax.Array, valid: jax.Array) -> jax.Array:
    """Share of valid pictures whose own caption is the nearest valid one of the batch."""
    similarity = jnp.where(valid[None], images @ texts.T, -2.0)
    own = jnp.diagonal(similarity)
    hits = (similarity >= own[:, None]).sum(axis=1) == 1
    return jnp.sum(hits & valid) / jnp.maximum(valid.sum(), 1)
