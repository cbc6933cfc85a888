"""Cross-modality and cross-view self-supervision as a system: wires data, model and losses."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.losses import means
from gsjax.systems import base
from gsjax.systems.cross_modal import data, losses, model, pictures, supervised

CALLS = ("one", "each")
TASKS = ("self_supervised", *supervised.TASKS)


def build(config) -> base.System:
    """The system that a config describes. Prepares its data set if absent.

    Raises:
        ValueError: an option of ``config.model``, ``config.loss`` or ``config.data`` is unknown or
            does not go with the others.
    """
    if config.task not in TASKS:
        raise ValueError(f"config.task: unknown {config.task!r}; known: {', '.join(TASKS)}")
    if config.task in supervised.TASKS:
        return supervised.build(config)
    if config.model.calls not in CALLS:
        raise ValueError(f"model.calls: unknown {config.model.calls!r}; known: {', '.join(CALLS)}")
    if config.loss.cm_balance not in losses.BALANCES:
        raise ValueError(
            f"loss.cm_balance: unknown {config.loss.cm_balance!r}; known: {', '.join(losses.BALANCES)}"
        )
    source = data.load(config)
    module = model.build(config, data.channels(config))
    spec = data.batch_spec(config)
    return base.System(
        name="cross_modal",
        batch_spec=spec,
        init=functools.partial(_init, module, spec),
        loss=functools.partial(_loss, module, config),
        predict_fns=dict(
            embed=functools.partial(_embed, module),
            views=functools.partial(_views, module, config),
            match=functools.partial(_match, module),
        ),
        train_data=source.train,
        eval_data=source.evaluate,
        info=dict(class_names=list(source.class_names), uids=source.uids),
    )


def _init(module, spec, rng):
    points, images = spec["points"], spec["images"]
    return module.init(rng, jnp.zeros((1, *points.shape)), jnp.zeros((1, *images.shape[1:])))


class _Features(NamedTuple):
    """f32 [B, D] each: of two views, of a view of another object, of the Gaussians."""

    anchor: jax.Array
    positive: jax.Array
    negative: jax.Array
    gaussian: jax.Array


def _loss(module, config, variables, batch, rng, train):
    """(loss, metrics, new collections); see ``base.System``."""
    shift_key, picture_key, point_key = jax.random.split(rng, 3)
    images = pictures.prepared(
        config, batch["images"], batch["index"], picture_key if train else None
    )
    shift = jax.random.randint(shift_key, (), 1, max(len(batch["index"]), 2)) if train else 1
    run = functools.partial(module.apply, variables, config, batch["points"], images, shift)
    if train:
        keys = pictures.keys_of(point_key, batch["index"])
        features, new = run(True, keys, method=_features, mutable=["batch_stats"])
    else:
        features, new = run(False, None, method=_features), {}
    valid = batch["valid"]
    if config.loss.negatives == "batch":
        valid = valid & jnp.roll(valid, shift, 0)
    return *_objective(module, config, variables, features, valid), new


def _features(module, config, points, images, shift, train, keys) -> _Features:
    """All features of a batch; negatives are the batch's own anchors, moved on, or pictures of theirs."""
    gaussian = module.clouds(points, train, keys)
    count = images.shape[1]
    if config.model.calls == "each":  # norms see one role a call
        found = [module.views(images[:, i], train) for i in range(count)]
    else:
        flat = module.views(images.reshape(-1, *images.shape[2:]), train)
        found = list(flat.reshape(*images.shape[:2], -1).swapaxes(0, 1))
    negative = found[2] if count > 2 else jnp.roll(found[0], shift, 0)
    return _Features(found[0], found[1], negative, gaussian)


def _objective(module, config, variables, features: _Features, valid):
    """(loss, metrics)."""
    o = config.loss
    logits = [
        module.apply(variables, image, features.gaussian, method="match")
        for image in (features.anchor, features.positive, features.negative)
    ]
    mean = functools.partial(means.mean_of_valid, valid=valid)
    l_cv = mean(losses.cross_view(*features[:3], o.margin))
    l_cm = mean(losses.cross_modality(*logits, o.cm_balance))
    right = [mean(jnp.argmax(x, -1) == label) for x, label in zip(logits, (1, 1, 0), strict=True)]
    far = lambda other: mean(jnp.linalg.norm(features.anchor - other, axis=-1))  # noqa: E731
    metrics = dict(
        l_cv=l_cv,
        l_cm=l_cm,
        cm_accuracy=sum(right) / 3,
        pos=far(features.positive),
        neg=far(features.negative),
    )
    return l_cv + o.beta * l_cm, metrics


def _embed(module, variables, batch):
    """Features of the Gaussians [B, D]."""
    found = module.apply(variables, batch["points"], method="clouds")
    return dict(
        gaussian=found, category=batch["category"], index=batch["index"], valid=batch["valid"]
    )


def _views(module, config, variables, batch):
    """Features of every picture [B, V, D]."""
    images = pictures.prepared(config, batch["images"], batch["index"], None)
    found = module.apply(variables, images.reshape(-1, *images.shape[2:]), method="views")
    return dict(
        image=found.reshape(*images.shape[:2], -1),
        category=batch["category"],
        index=batch["index"],
        valid=batch["valid"],
    )


def _match(module, variables, batch):
    """Logits [n, 2] that features ``image`` and ``gaussian`` [n, D] belong together (column 1)."""
    return dict(logits=module.apply(variables, batch["image"], batch["gaussian"], method="match"))
