"""From the features of a batch to its loss: the thesis's two terms, or NT-Xent in their place."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.losses import means, nt_xent
from gsjax.systems.cross_modal import losses


class Features(NamedTuple):
    """f32 [B, D] each: of two views, of a view of another object, of the Gaussians."""

    anchor: jax.Array
    positive: jax.Array
    negative: jax.Array
    gaussian: jax.Array


def of_config(config) -> Callable:
    """``(config.loss, head, features, batch, shift) -> (loss, metrics)`` of ``loss.objective``.

    ``head(*features, method=name)`` applies a head of the model; ``shift`` is how far the negatives of the
    batch were moved on.

    Raises:
        ValueError: an option of ``config.loss`` is unknown or does not go with the others.
    """
    o = config.loss
    if o.objective not in OBJECTIVES:
        raise ValueError(f"loss.objective: unknown {o.objective!r}; known: {', '.join(OBJECTIVES)}")
    if o.cm_balance not in losses.BALANCES:
        raise ValueError(
            f"loss.cm_balance: unknown {o.cm_balance!r}; known: {', '.join(losses.BALANCES)}"
        )
    if o.objective == "nt_xent" and o.negatives != "batch":
        raise ValueError(
            f"loss.negatives: found {o.negatives!r}; all others of the batch are NT-Xent's negatives: set "
            "'batch'"
        )
    return OBJECTIVES[o.objective]


def _triplet(o, head, features: Features, batch, shift):
    """L = L_cv + beta L_cm."""
    valid = batch["valid"]
    if o.negatives == "batch":
        valid = valid & jnp.roll(valid, shift, 0)
    logits = [head(image, features.gaussian, method="match") for image in features[:3]]
    l_cv = means.mean_of_valid(losses.cross_view(*features[:3], o.margin), valid)
    l_cm = means.mean_of_valid(losses.cross_modality(*logits, o.cm_balance), valid)
    right = [
        means.mean_of_valid(jnp.argmax(x, -1) == label, valid)
        for x, label in zip(logits, (1, 1, 0), strict=True)
    ]
    metrics = dict(l_cv=l_cv, l_cm=l_cm, cm_accuracy=sum(right) / 3)
    return l_cv + o.beta * l_cm, metrics | _distances(features, valid)


def _nt_xent(o, head, features: Features, batch, shift):
    """NT-Xent of the two views, plus beta times the mean of that of either view and the Gaussians.

    The sum within and across modalities is CrossPoint's (arXiv 2203.00680); there one
    modality gives two views, here pictures do.
    """
    valid = batch["valid"]
    anchor, positive = (head(x, method="of_image") for x in features[:2])
    gaussian = head(features.gaussian, method="of_gaussian")

    def mean_cost(a, b):
        each = nt_xent.nt_xent(
            a, b, o.temperature, valid=valid, ids=batch["index"], sharding=o.sharding
        )
        return means.mean_of_valid(each, valid)

    l_cv = mean_cost(anchor, positive)
    l_cm = (mean_cost(anchor, gaussian) + mean_cost(positive, gaussian)) / 2
    both = valid & jnp.roll(valid, shift, 0)
    return l_cv + o.beta * l_cm, dict(l_cv=l_cv, l_cm=l_cm) | _distances(features, both)


def _distances(features: Features, valid):
    """Mean distances of an anchor to another view of its object, and to one of another."""
    pos, neg = (
        means.mean_of_valid(jnp.linalg.norm(features.anchor - other, axis=-1), valid)
        for other in (features.positive, features.negative)
    )
    return dict(pos=pos, neg=neg)


OBJECTIVES = dict(triplet=_triplet, nt_xent=_nt_xent)
