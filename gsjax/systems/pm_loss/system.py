"""Feed-forward splatting with PM-Loss as a system: wires data, network, renderer and losses."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from gsjax.systems import base
from gsjax.systems.pm_loss import data, model, objective, render, show

_HELD = (objective.LPIPS, objective.GUARD)


class _Parts(NamedTuple):
    config: object
    module: nn.Module
    terms: objective.Terms


def build(config) -> base.System:
    """The system that a config describes.

    Raises:
        ValueError: an option of ``config.model``, ``config.loss`` or ``config.data`` is unknown or
            does not go with the others.
    """
    source = data.load(config)
    module = model.build(config.model)
    model.check_size(module, config.data.height, config.data.width)
    parts = _Parts(config, module, objective.build(config))
    spec = data.batch_spec(config)
    predict = dict(
        render=functools.partial(_render, parts),
        gaussians=functools.partial(_gaussians, parts),
        depths=functools.partial(_depths, parts),
    )
    if config.data.depths:
        predict["oracle"] = functools.partial(_oracle, parts)
    return base.System(
        name="pm_loss",
        batch_spec=spec,
        init=functools.partial(_init, parts, spec),
        loss=functools.partial(_loss, parts),
        predict_fns=predict,
        train_data=source.train,
        eval_data=source.evaluate,
        param_rules=_rules(config.model),
        show=functools.partial(_show, parts, source, predict),
        info=dict(
            uids=source.uids,
            near=config.data.near,
            far=config.data.far,
            height=config.data.height,
            width=config.data.width,
        ),
    )


def _show(parts, source, predict, variables, folder):
    """Pictures and clouds of ``data.show_split``."""
    if split := parts.config.data.show_split:
        show.write(source.evaluate(split), {"": show.Run(predict, variables)}, folder)


def _rules(model_config) -> tuple[base.ParamRule, ...]:
    """The pre-trained transformer learns more slowly (DepthSplat: a hundredth)."""
    if model_config.network != "depthsplat" or model_config.vit_lr_scale == 1.0:
        return ()
    return (base.ParamRule(r"^vit/", lr_scale=model_config.vit_lr_scale),)


def _init(parts, spec, rng):
    """Parameters from the spec's shapes, and what else travels with them."""
    example = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in spec.items()}
    eye = jnp.broadcast_to(jnp.eye(4), example["context_c2ws"].shape)
    near, far = (jnp.full(1, parts.config.data[name], jnp.float32) for name in ("near", "far"))
    Ks = jnp.broadcast_to(jnp.eye(3), example["context_Ks"].shape)
    images = data.as_pictures(example["context_images"])
    variables = parts.module.init(rng, images, Ks, eye, near, far)
    return {**variables, **objective.collections(parts.terms, parts.config)}


def _apply(parts, variables, batch):
    """What the network says of the context views."""
    trained = {name: value for name, value in variables.items() if name not in _HELD}
    return parts.module.apply(
        trained, data.as_pictures(batch["context_images"]), batch["context_Ks"],
        batch["context_c2ws"], batch["near"], batch["far"],
    )  # fmt: skip


def _loss(parts, variables, batch, rng, train):
    """(loss, metrics, new collections); see ``base.System``."""
    found = _apply(parts, variables, batch)
    images = data.as_pictures(batch["target_images"])
    loss, metrics, new = objective.loss(
        parts.terms, parts.config, parts.module, variables, found, images, batch, rng
    )
    return loss, metrics, new if train else {}


def _views(parts, scene, batch):
    d = parts.config.data
    views = render.render(
        scene, batch["target_viewmats"], batch["target_Ks"], batch["near"], (d.height, d.width),
        depth=True, at_once=parts.config.model.views_at_once,
    )  # fmt: skip
    found = dict(images=jnp.clip(views.images, 0.0, 1.0), depths=views.depths, alphas=views.alphas)
    return found | _numbers(batch)


def _numbers(batch):
    return dict(index=batch["index"], valid=batch["valid"])


def _render(parts, variables, batch):
    """Target views: images [B, T, H, W, 3] in [0, 1], depths and alphas [B, T, H, W]."""
    return _views(parts, _apply(parts, variables, batch)["gaussians"], batch)


def _oracle(parts, variables, batch):
    """As ``render``, with the context views' true depths where they are known: what depth alone costs."""
    found = _apply(parts, variables, batch)
    true = batch["context_depths"]
    depths = jnp.where(true > 0, true, found["depths"][-1])
    scene = model.with_depths(
        parts.module, found, depths, batch["context_Ks"], batch["context_c2ws"]
    )
    return _views(parts, scene, batch)


def _gaussians(parts, variables, batch):
    """The scenes: means [B, N, 3], quats, scales, opacities, sh; N = V H W, views first, then rows."""
    scene = _apply(parts, variables, batch)["gaussians"]
    return dict(
        means=scene.means, quats=scene.quats, scales=scene.scales, opacities=scene.opacities,
        sh=scene.sh, **_numbers(batch),
    )  # fmt: skip


def _depths(parts, variables, batch):
    """Final depths [B, V, H, W] of the context views."""
    return dict(depths=_apply(parts, variables, batch)["depths"][-1], **_numbers(batch))
