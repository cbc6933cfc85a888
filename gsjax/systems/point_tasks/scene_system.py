"""Segmentation of scenes as a system: wires data, a backbone of voxels with a linear head, and losses.

Points of a voxel have one class. A point whose voxel found no place in the capacity has none: it is
left out of the loss, and in evaluation its prediction is 0, 'unknown', which is always wrong.
"""

import functools

import jax
import jax.numpy as jnp

from gsjax.models.backbones import base as backbones
from gsjax.systems import base
from gsjax.systems.point_tasks import (
    backbone_alone,
    losses,
    model,
    scene_augment,
    scene_data,
)


def build(config) -> base.System:
    """The system that a config with ``task='scenes'`` describes. Makes its rooms if absent.

    Raises:
        ValueError: an option is unknown or does not go with the others.
        FileNotFoundError: a set's folder lacks what it should hold.
    """
    module_of = functools.partial(_module, config)
    module_of(2)  # what cannot be built is refused before any data are made
    scene_augment.Options(**config.data.augment).check()
    source = scene_data.load(config)
    module = module_of(len(source.class_names))
    spec = scene_data.batch_spec(config)
    points = functools.partial(_points, config)
    rules = (base.ParamRule(r"^backbone/", lr_scale=0.0),) if config.model.frozen else ()
    return base.System(
        name="point_tasks",
        batch_spec=spec,
        init=functools.partial(_init, module, config, spec),
        loss=functools.partial(_loss, module, config),
        predict_fns=dict(
            labels=functools.partial(_labels, module, config),
            confusion=functools.partial(_confusion, module, config),
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
        ),
    )


def _module(config, classes: int) -> model.VoxelLabeller:
    m = config.model
    backbone = backbones.of_config(m)
    if not model.has_voxels(backbone):
        known = [name for name in backbones.names() if _of_voxels(name)]
        raise ValueError(
            f"model.backbone: {m.backbone!r} has no voxels, which config.task='scenes' needs; known: "
            f"{', '.join(known)}"
        )
    return model.VoxelLabeller(backbone, classes, m.frozen)


def _of_voxels(name: str) -> bool:
    return model.has_voxels(backbones.build(name))


def _points(config, batch, keys=None) -> backbones.PointBatch:
    """What the backbone reads; changed at random where ``keys`` [B] are given."""
    xyz, rgb, normal = batch["xyz"], batch["rgb"], batch["normal"]
    if keys is not None:
        options = scene_augment.Options(**config.data.augment)
        xyz, rgb, normal = scene_augment.augment(keys, xyz, rgb, normal, options)
    return backbones.with_features(
        xyz, batch["mask"], config.model.features, rgb=rgb, normal=normal
    )


def _init(module, config, spec, rng):
    example = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in spec.items()}
    example["mask"] = jnp.ones_like(example["mask"])
    return module.init(rng, _points(config, example))


def _counted(batch) -> jax.Array:
    """Points [B, N] with a label that are scored in this crop."""
    return batch["valid"][:, None] & batch["scored"] & batch["mask"] & (batch["parts"] > 0)


def _loss(module, config, variables, batch, rng, train):
    """(loss, metrics, new collections); see ``base.System``."""
    new = {}
    if train:
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
        changed = jax.vmap(lambda k: jax.random.fold_in(k, 1 << 20))(keys)
        found, new = module.apply(
            variables, _points(config, batch, changed), train=True, keys=keys,
            mutable=["batch_stats"],
        )  # fmt: skip
    else:
        found = module.apply(variables, _points(config, batch))
    counted = _counted(batch)
    labels, placed = batch["parts"], counted & found.placed
    loss, accuracy = losses.cross_entropy(found.logits, labels, placed, config.loss.smoothing)
    if config.loss.lovasz:
        loss += config.loss.lovasz * losses.lovasz_softmax(found.logits, labels, placed)
    lost = jnp.sum(counted & ~found.placed) / jnp.maximum(jnp.sum(counted), 1)
    return loss, dict(accuracy=100 * accuracy, dropped=100 * lost), new


def _predicted(found: model.VoxelLogits) -> jax.Array:
    """Classes [B, N], from 1; 0 for points without a voxel."""
    best = 1 + jnp.argmax(found.logits[..., 1:], -1)  # 'unknown' is no answer
    return jnp.where(found.placed, best, 0).astype(jnp.int32)


def _labels(module, config, variables, batch):
    """Predicted and true label of every point; -1 where there is none or it is not scored."""
    found = module.apply(variables, _points(config, batch))
    return dict(
        predicted=_predicted(found),
        label=jnp.where(_counted(batch), batch["parts"], -1),
        category=batch["category"],
        index=batch["index"],
        valid=batch["valid"],
    )


def _confusion(module, config, variables, batch):
    """Counts int32 [B, C, C] of (true, predicted) over the scored points of each crop.

    ``ceiling``: the same if every voxel had the class that most of its scored points have, which is the
    best that classes of voxels can do. Points without a voxel are in column 0 of both.
    """
    found = module.apply(variables, _points(config, batch))
    counted, classes = _counted(batch), found.logits.shape[-1]
    pair = functools.partial(_pairs, classes=classes)
    rows = module.backbone.config.voxels
    best = jax.vmap(functools.partial(_majority, classes=classes, rows=rows))(
        found.ids, batch["parts"], counted & found.placed
    )
    return dict(
        confusion=jax.vmap(pair)(batch["parts"], _predicted(found), counted),
        ceiling=jax.vmap(pair)(batch["parts"], jnp.where(found.placed, best, 0), counted),
        index=batch["index"],
        valid=batch["valid"],
    )


def _pairs(true, predicted, counted, *, classes: int) -> jax.Array:
    """int32 [C, C] of one cloud."""
    at = jnp.where(counted, true * classes + predicted, classes**2)
    return jnp.bincount(at, length=classes**2 + 1)[:-1].reshape(classes, classes).astype(jnp.int32)


def _majority(ids, labels, counted, *, classes: int, rows: int) -> jax.Array:
    """[N], the commonest label among the counted points of each point's voxel."""
    at = jnp.where(counted, ids * classes + labels, rows * classes)
    votes = jnp.bincount(at, length=(rows + 1) * classes).reshape(rows + 1, classes)
    return jnp.argmax(votes, -1).astype(jnp.int32)[ids]
