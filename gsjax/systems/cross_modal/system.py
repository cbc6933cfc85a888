"""Cross-modality and cross-view self-supervision as a system: wires data, model and losses."""

import functools

import jax
import jax.numpy as jnp

from gsjax.systems import base
from gsjax.systems.cross_modal import data, model, objectives, pictures, supervised

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
    objective = objectives.of_config(config)
    source = data.load(config)
    module = model.build(config, data.channels(config))
    spec = data.batch_spec(config)
    return base.System(
        name="cross_modal",
        batch_spec=spec,
        init=functools.partial(_init, module, spec),
        loss=functools.partial(_loss, module, config, objective),
        predict_fns=_predict_fns(module, config),
        train_data=source.train,
        eval_data=source.evaluate,
        info=dict(class_names=list(source.class_names), uids=source.uids),
    )


def _predict_fns(module, config):
    found = dict(
        embed=functools.partial(_embed, module),
        views=functools.partial(_views, module, config),
    )
    if config.loss.objective == "nt_xent":
        return found | dict(space=functools.partial(_space, module, config))
    return found | dict(match=functools.partial(_match, module))


def _init(module, spec, rng):
    points, images = spec["points"], spec["images"]
    return module.init(rng, jnp.zeros((1, *points.shape)), jnp.zeros((1, *images.shape[1:])))


def _loss(module, config, objective, variables, batch, rng, train):
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
    head = functools.partial(module.apply, variables)
    return *objective(config.loss, head, features, batch, shift), new


def _features(module, config, points, images, shift, train, keys) -> objectives.Features:
    """All features of a batch; negatives are the batch's own anchors, moved on, or pictures of theirs."""
    gaussian = module.clouds(points, train, keys)
    count = images.shape[1]
    if config.model.calls == "each":  # norms see one role a call
        found = [module.views(images[:, i], train) for i in range(count)]
    else:
        flat = module.views(images.reshape(-1, *images.shape[2:]), train)
        found = list(flat.reshape(*images.shape[:2], -1).swapaxes(0, 1))
    negative = found[2] if count > 2 else jnp.roll(found[0], shift, 0)
    return objectives.Features(found[0], found[1], negative, gaussian)


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


def _space(module, config, variables, batch):
    """Unit vectors of the Gaussians [B, D] and of every picture [B, V, D] in the space of both."""
    shown, found = _views(module, config, variables, batch), _embed(module, variables, batch)
    return found | dict(
        gaussian=module.apply(variables, found["gaussian"], method="of_gaussian"),
        image=module.apply(variables, shown["image"], method="of_image"),
    )


def _match(module, variables, batch):
    """Logits [n, 2] that features ``image`` and ``gaussian`` [n, D] belong together (column 1)."""
    return dict(logits=module.apply(variables, batch["image"], batch["gaussian"], method="match"))
