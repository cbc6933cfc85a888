"""The losses of CLIP-GS (arXiv 2412.19142), one function per formula.

Letters: i an object, k one of its K sampled views, B objects in the global batch; g_i, t_i, v_ik the
unit embeddings of its Gaussians, caption and views; tau = exp(logit_scale).

The paper's ``Contra(a_i, B)`` has to be the log-probability of the true pair, since the losses
carry a leading minus::

    Contra(a_i, B) = tau a_i.b_i - log sum_j exp(tau a_i.b_j)

:func:`gsjax.losses.contrastive.pair_log_probs` computes it in both directions, sharded or not.
"""

import jax
import jax.numpy as jnp

from gsjax.losses import contrastive, sigmoid

SCORE_MODES = ("cosine", "normalized", "softmax", "none")
KINDS = ("softmax", "sigmoid")


def sample_views(draws: jax.Array, count: int) -> jax.Array:
    """``count`` distinct views an object: int32 [B, K] from uniform numbers [B, V]."""
    return jax.lax.top_k(draws, count)[1].astype(jnp.int32)


def view_scores(
    text: jax.Array, image: jax.Array, has_image: jax.Array, *, mode: str, temp: float
) -> jax.Array:
    """The vote S_ik of each view, from the cosine of text and image embedding: [B, K], no gradient.

    * ``cosine``: S_ik = max(t_i.v_ik, 0), as in the formula; a negative score would push a true
      pair apart. CLIP's cosines being 0.1 to 0.4, L_img then weighs about a quarter of L_text.
    * ``normalized``: cosine scores rescaled to mean one an object.
    * ``softmax``: K softmax_k(t_i.v_ik / temp).
    * ``none``: 1.

    Args:
        text: [B, D] unit vectors.
        image: [B, K, D] unit vectors.
        has_image: bool [B, K]; missing views score 0.
        mode: one of the above.
        temp: temperature of ``softmax``.
    """
    if mode not in SCORE_MODES:
        raise ValueError(f"loss.score_mode: unknown {mode!r}; known: {SCORE_MODES}")
    cosine = jnp.einsum("bd,bkd->bk", text, image, precision="highest")
    count = jnp.sum(has_image, -1, keepdims=True)
    if mode == "none":
        scores = jnp.ones_like(cosine)
    elif mode == "softmax":
        scores = count * jax.nn.softmax(jnp.where(has_image, cosine / temp, -1e30), -1)
    else:
        scores = jnp.maximum(cosine, 0.0) * has_image
        if mode == "normalized":
            total = jnp.sum(scores, -1, keepdims=True)
            scores = scores * count / jnp.where(total > 0, total, 1.0)
    return jax.lax.stop_gradient(jnp.where(has_image, scores, 0.0))


def text_loss(row: jax.Array, col: jax.Array, valid: jax.Array) -> jax.Array:
    """L_text = -1/(2N) sum_i [ Contra(g_i, T) + Contra(t_i, G) ]; ln B for random vectors.

    Args:
        row, col: [B, 1] log-probabilities of the pairs (i, caption of i).
        valid: bool [B].
    """
    return contrastive.symmetric_loss(row, col, valid[:, None].astype(row.dtype), jnp.sum(valid))


def image_voting_loss(
    row: jax.Array, col: jax.Array, scores: jax.Array, has_image: jax.Array, *, view_reduce: str
) -> jax.Array:
    """L_img = -1/(2N) sum_ik S_ik [ Contra(g_i, V_k) + Contra(v_ik, G) ].

    Args:
        row, col: [B, K] log-probabilities of the pairs (i, view k of i).
        scores: [B, K], the votes S.
        has_image: bool [B, K], which pairs exist.
        view_reduce: ``mean``: N is the number of pairs; ``sum``: the number of objects with one.
    """
    if view_reduce not in ("mean", "sum"):
        raise ValueError(f"loss.view_reduce: expected 'mean' or 'sum', found {view_reduce!r}")
    pairs = has_image if view_reduce == "mean" else jnp.any(has_image, -1)
    return contrastive.symmetric_loss(row, col, scores, jnp.sum(pairs))


def total_loss(
    gaussian: jax.Array,
    text: jax.Array,
    image: jax.Array,
    valid: jax.Array,
    caption_hash: jax.Array,
    logit_scale: jax.Array,
    logit_bias: jax.Array | None,
    options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L = L_text + L_img over the global batch.

    Args:
        gaussian: [B, D] encoder outputs, any length.
        text: [B, D]. image: [B, K, D], all zero where an object has no image.
        valid: bool [B]; padding counts neither as a pair nor as a negative.
        caption_hash: uint32 [B]; with ``mask_duplicate_text`` equal captions are no negatives.
        logit_scale, logit_bias: scalars; the bias is the sigmoid loss's.
        options: ``config.loss``.

    Returns:
        (loss, {metric: scalar}).
    """
    g, t, v = contrastive.unit(gaussian), contrastive.unit(text)[:, None], contrastive.unit(image)
    has_image = jnp.any(image != 0, -1) & valid[:, None]
    scores = view_scores(t[:, 0], v, has_image, mode=options.score_mode, temp=options.score_temp)
    scale = jnp.exp(logit_scale)
    ids = caption_hash if options.mask_duplicate_text else None
    if options.kind == "sigmoid":
        _refuse_softmax_options(options)
        l_text, l_image = _sigmoid(
            g, t, v, valid, has_image, scores, ids, scale, logit_bias, options.sharding
        )
        metrics = {}
    elif options.kind == "softmax":
        shared = dict(
            valid_a=valid,
            sharding=options.sharding,
            detach_gathered=options.legacy_detached_gather,
        )
        row, col = contrastive.pair_log_probs(
            g, t, scale, valid_b=valid[:, None], ids=ids, **shared
        )
        l_text = text_loss(row, col, valid)
        metrics = dict(text_prob=_mean(jnp.exp(row[:, 0]), valid))
        row, col = contrastive.pair_log_probs(
            g, v, scale, valid_b=has_image, negatives=options.negatives, **shared
        )
        l_image = image_voting_loss(row, col, scores, has_image, view_reduce=options.view_reduce)
    else:
        raise ValueError(f"loss.kind: unknown {options.kind!r}; known: {KINDS}")
    loss = options.text_weight * l_text + options.image_weight * l_image
    metrics |= dict(
        loss_text=l_text,
        loss_image=l_image,
        score=_mean(scores, has_image),
        logit_scale=logit_scale,
    )
    return loss, metrics


def _refuse_softmax_options(options) -> None:
    """Raises where the config asks for what only the softmax loss has."""
    default = dict(negatives="per_slot", view_reduce="mean", legacy_detached_gather=False)
    found = {name: getattr(options, name) for name in default}
    wrong = [f"loss.{name}={x!r}" for name, x in found.items() if x != default[name]]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: loss.kind 'sigmoid' has no such form; use 'softmax'")


def _sigmoid(g, t, v, valid, has_image, scores, ids, scale, bias, sharding):
    """Both terms with SigLIP's per-pair loss; the votes weigh the true pairs."""
    shared = dict(valid_a=valid, sharding=sharding)
    pairs = sigmoid.sigmoid_loss(g, t, scale, bias, valid_b=valid[:, None], ids=ids, **shared)
    views = sigmoid.sigmoid_loss(g, v, scale, bias, weights=scores, valid_b=has_image, **shared)
    l_text = jnp.sum(pairs) / jnp.maximum(jnp.sum(valid), 1)
    return l_text, jnp.sum(views) / jnp.maximum(jnp.sum(has_image), 1)


def _mean(x, use):
    return jnp.sum(jnp.where(use, x, 0.0)) / jnp.maximum(jnp.sum(use), 1)
