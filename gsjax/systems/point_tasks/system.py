"""Tasks on points as a system: wires data, a backbone with a head, and the loss."""

import functools

import jax
import jax.numpy as jnp

from gsjax.core import turns
from gsjax.models.backbones import base as backbones
from gsjax.systems import base
from gsjax.systems.point_tasks import (
    backbone_alone,
    data,
    losses,
    model,
    scene_data,
    scene_system,
)

_SCALES = (0.8, 1.25)


def build(config) -> base.System:
    """The system that a config describes. Prepares its data set if absent.

    Raises:
        ValueError: an option is unknown or does not go with the others.
    """
    known = (*data.TASKS, scene_data.TASK)
    if config.task not in known:
        raise ValueError(f"config.task: unknown {config.task!r}; known: {', '.join(known)}")
    if config.task == scene_data.TASK:
        return scene_system.build(config)
    source = data.load(config)
    module = _module(config, len(source.class_names))
    spec = data.batch_spec(config)
    points = functools.partial(_points, config)
    rules = (base.ParamRule(r"^backbone/", lr_scale=0.0),) if config.model.frozen else ()
    return base.System(
        name="point_tasks",
        batch_spec=spec,
        init=functools.partial(_init, module, config, spec),
        loss=functools.partial(_loss, module, config),
        predict_fns=dict(
            labels=functools.partial(_labels, module, config, source.answers),
            embed=functools.partial(backbone_alone.embed, module, points),
        ),
        train_data=source.train,
        eval_data=source.evaluate,
        norm_pass=functools.partial(backbone_alone.norm_pass, module, points),
        param_rules=rules,
        info=dict(
            task=config.task,
            class_names=list(source.class_names),
            categories=list(source.categories),
            num_fit=source.num_fit,
            category_classes=[list(classes) for classes in source.category_classes],
        ),
    )


def _module(config, classes: int):
    m = config.model
    backbone = backbones.of_config(m)
    kind = model.ObjectClassifier if config.task == "classify" else model.PointLabeller
    return kind(backbone, classes, tuple(m.hidden), m.dropout, m.frozen)


def _points(config, batch, keys=None) -> backbones.PointBatch:
    """What the backbone reads; turned and scaled where ``keys`` [B] are given."""
    xyz, normal = batch["xyz"], batch.get("normal")
    if keys is not None and config.data.augment:
        rotmats = turns.draw_rotations(keys)
        draws = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1), (1, 3)))(keys)
        low, high = _SCALES
        xyz = jnp.einsum("bij,bnj->bni", rotmats, xyz, precision="highest")
        scales = low + (high - low) * draws
        xyz = xyz * scales
        if normal is not None:  # across a surface that is scaled differently along each axis
            normal = jnp.einsum("bij,bnj->bni", rotmats, normal, precision="highest") / scales
            length = jnp.linalg.norm(normal, axis=-1, keepdims=True)
            normal = normal / jnp.where(length > 0, length, 1.0)
    return backbones.with_features(
        xyz, batch["mask"], config.model.features, rgb=batch["rgb"], normal=normal
    )


def _init(module, config, spec, rng):
    example = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in spec.items()}
    example["mask"] = jnp.ones_like(example["mask"])
    return module.init(rng, _points(config, example))


def _targets(config, batch):
    """Labels, and which of them count."""
    if config.task == "classify":
        return batch["category"], batch["valid"]
    return batch["parts"], batch["valid"][:, None] & batch["mask"] & (batch["parts"] > 0)


def _loss(module, config, variables, batch, rng, train):
    """(loss, metrics, new collections); see ``base.System``."""
    new = {}
    if train:
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
        turned = jax.vmap(lambda k: jax.random.fold_in(k, 1 << 20))(keys)
        logits, new = module.apply(
            variables, _points(config, batch, turned), train=True, keys=keys,
            mutable=["batch_stats"],
        )  # fmt: skip
    else:
        logits = module.apply(variables, _points(config, batch))
    labels, counted = _targets(config, batch)
    loss, accuracy = losses.cross_entropy(logits, labels, counted, config.loss.smoothing)
    return loss, dict(accuracy=100 * accuracy), new


def _labels(module, config, answers, variables, batch):
    """Predicted and true label of every object, or of every point; -1 where there is none.

    The parts of an object are told apart among those of its category, which is given, as for published
    results on ShapeNetPart; ``answers`` [categories, classes] says which those are.
    """
    logits = module.apply(variables, _points(config, batch))
    if config.task == "parts":
        logits = logits.at[..., 0].set(-jnp.inf)  # 'no label' is no answer
        if answers is not None:
            logits = jnp.where(jnp.asarray(answers)[batch["category"]][:, None], logits, -jnp.inf)
    labels, counted = _targets(config, batch)
    return dict(
        predicted=jnp.argmax(logits, -1).astype(jnp.int32),
        label=jnp.where(counted, labels, -1),
        category=batch["category"],
        index=batch["index"],
        valid=batch["valid"],
    )
