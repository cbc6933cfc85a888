"""UniPre3D as a system: wires data, image encoder, model and losses."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import gaussians, sh, turns
from gsjax.io import weights
from gsjax.losses import means
from gsjax.metrics import lpips as lpips_lib
from gsjax.metrics import rendering
from gsjax.models.backbones import base as backbones
from gsjax.models.image_features import base as image_features
from gsjax.systems import base
from gsjax.systems.unipre3d import data, fusion, losses, model, perceptual, scene_data, show

FROZEN = "image_encoder"  # flax collection of the encoder's weights
_LEVELS = {"object": data, "scene": scene_data}
_DISC = 0.35  # standard deviation of the baseline's discs, in spacings of the points


def build(config) -> base.System:
    """The system that a config describes. Prepares its data set if absent.

    Raises:
        ValueError: an option of ``config.model``, ``config.loss`` or ``config.data`` is unknown or
            does not go with the others.
    """
    if config.level not in _LEVELS:
        raise ValueError(f"config.level: unknown {config.level!r}; known: {', '.join(_LEVELS)}")
    level = _LEVELS[config.level]
    source = level.load(config)
    module = model.build(config)
    encoder = None
    if config.model.fusion != "none":
        encoder = image_features.load(config.model.image_encoder, weights.open_state_dict)
    parts = _Parts(config, module, encoder, perceptual.load(config))
    spec = level.batch_spec(config)
    render = functools.partial(_render, parts, False)
    return base.System(
        name="unipre3d",
        batch_spec=spec,
        init=functools.partial(_init, parts, spec),
        loss=functools.partial(_loss, parts),
        predict_fns=dict(
            embed=functools.partial(_embed, parts),
            render=render,
            targets=functools.partial(_targets, parts),
            discs=functools.partial(_discs, parts),
            **({} if encoder is None else dict(blind=functools.partial(_render, parts, True))),
        ),
        train_data=source.train,
        eval_data=source.evaluate,
        show=functools.partial(show.write, source, render, config.data.references),
        norm_pass=functools.partial(_norm_pass, parts),
        param_rules=(base.ParamRule(r"(^|/)cls_(token|pos)$", decay=False),)
        if config.model.backbone in ("transformer", "mamba3d")
        else (),
        info=dict(
            class_names=list(source.class_names),
            part_names=list(source.part_names),
            uids=source.uids,
            references=config.data.references,
            image_encoder=None
            if encoder is None
            else dict(
                name=encoder.name,
                digest=encoder.digest,
                licence=encoder.licence,
                description=encoder.description,
            ),
        ),
    )


class _Parts(NamedTuple):
    config: object
    module: model.UniPre3D
    encoder: image_features.ImageEncoder | None
    lpips: lpips_lib.Lpips | None = None


class _Inputs(NamedTuple):
    """A batch as the model reads it; pictures are f32 over the background."""

    points: backbones.PointBatch
    viewmats: jax.Array
    Ks: jax.Array
    images: jax.Array
    alphas: jax.Array
    depths: jax.Array | None = None
    pixel_mask: jax.Array | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[3], self.images.shape[2]


def _init(parts, spec, rng):
    example = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in spec.items()}
    example["mask"] = jnp.ones_like(example["mask"])
    example["viewmats"] = jnp.broadcast_to(jnp.eye(4), example["viewmats"].shape)
    inputs = _inputs(parts, example)
    frozen = {FROZEN: {} if parts.encoder is None else parts.encoder.arrays}
    variables = parts.module.init(rng, inputs.points, _references(parts, frozen, inputs))
    arrays = jax.tree.map(jnp.asarray, frozen[FROZEN])
    held = {FROZEN: arrays} if jax.tree.leaves(arrays) else {}
    return {**variables, **held, **perceptual.variables(parts.lpips)}


def _inputs(parts, batch, keys=None) -> _Inputs:
    """Points, cameras and composed pictures; turned together where ``keys`` [B] are given."""
    config = parts.config
    xyz, viewmats = batch["xyz"], batch["viewmats"]
    if keys is not None and config.data.augment:
        rotmats = turns.draw_rotations(keys)
        xyz, viewmats = turns.rotate(rotmats, xyz, viewmats)
    images, alphas = losses.compose(batch["images"], config.loss.background)
    points = backbones.with_features(
        xyz, batch["mask"], config.model.features, rgb=batch["rgb"], normal=batch.get("normal")
    )
    more = [batch.get(name) for name in ("depths", "pixel_mask")]
    return _Inputs(points, viewmats, batch["Ks"], images, alphas[..., 0], *more)


def _references(parts, variables, inputs: _Inputs) -> fusion.Views | None:
    """Reference views with their features, which carry no gradient."""
    if parts.encoder is None:
        return None
    count = parts.config.data.references
    images = inputs.images[:, :count]
    found = parts.encoder.apply(variables.get(FROZEN, {}), images.reshape(-1, *images.shape[2:]))
    found = jax.lax.stop_gradient(found).astype(jnp.float32)
    found = found.reshape(*images.shape[:2], *found.shape[1:])
    first = lambda x: None if x is None else x[:, :count]  # noqa: E731
    return fusion.Views(
        found, first(inputs.viewmats), first(inputs.Ks), inputs.size, first(inputs.depths),
        first(inputs.pixel_mask),
    )  # fmt: skip


def _trained(variables):
    held = (FROZEN, perceptual.ARRAYS, perceptual.STEPS)
    return {name: value for name, value in variables.items() if name not in held}


def _loss(parts, variables, batch, rng, train):
    """(loss, metrics, new collections); see ``base.System``."""
    config, keys, new = parts.config, None, {}
    if train:
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
    turn = None if keys is None else jax.vmap(lambda k: jax.random.fold_in(k, 1 << 20))(keys)
    inputs = _inputs(parts, batch, turn)
    views = _references(parts, variables, inputs)
    if train:
        (scene, facts), new = parts.module.apply(
            _trained(variables), inputs.points, views, train=True, keys=keys,
            mutable=["batch_stats"],
        )  # fmt: skip
    else:
        scene, facts = parts.module.apply(_trained(variables), inputs.points, views)
    start = config.data.references
    image, alpha = model.render(
        scene, inputs.viewmats[:, start:], inputs.Ks[:, start:], inputs.size, config
    )
    target, mask = inputs.images[:, start:], losses.foreground(inputs.alphas[:, start:, ..., None])
    if config.loss.foreground:
        loss = losses.weighted_mse(image, target, mask, batch["valid"])
    else:
        loss = losses.mse(image, target, batch["valid"])
    metrics = _health(scene, facts, batch["valid"])
    if train and parts.lpips is not None:
        term, counted = perceptual.term(
            parts.lpips, variables, config, image, target, batch["valid"]
        )
        loss, new, metrics["lpips"] = loss + term, {**new, **counted}, term
    mse = losses.mse(image, target, batch["valid"])
    inside = jnp.sum(jnp.where(mask[..., None], jnp.square(image - target), 0.0), (-3, -2, -1))
    inside = inside / jnp.maximum(3 * jnp.sum(mask, (-2, -1)), 1)
    iou = rendering.silhouette_iou(alpha, inputs.alphas[:, start:])
    metrics |= dict(
        psnr=-10 * jnp.log10(jnp.maximum(mse, 1e-10)),
        psnr_fg=-10 * jnp.log10(jnp.maximum(means.mean_of_valid(inside, batch["valid"]), 1e-10)),
        iou=means.mean_of_valid(iou, batch["valid"]),
    )
    return loss, metrics, new


def _health(scene: gaussians.Gaussians, facts, valid) -> dict[str, jax.Array]:
    """What tells early that something is wrong: sizes, opacities, shares, losses of capacity."""
    metrics = dict(
        scale=means.mean_of_valid(scene.scales, valid),
        opacity=means.mean_of_valid(scene.opacities, valid),
        dropped=jnp.sum(jnp.where(valid, facts["dropped"], 0)),
    )
    return metrics | ({"seen": facts["seen"]} if "seen" in facts else {})


def _render(parts, blind, variables, batch):
    """Pictures of all R + T views; ``blind``: with zeros in place of image features."""
    inputs = _inputs(parts, batch)
    views = None if blind else _references(parts, variables, inputs)
    scene, facts = parts.module.apply(_trained(variables), inputs.points, views)
    image, alpha = model.render(scene, inputs.viewmats, inputs.Ks, inputs.size, parts.config)
    return dict(image=image, alpha=alpha, dropped=facts["dropped"], **_shown(inputs, batch))


def _targets(parts, variables, batch):
    """The pictures themselves, and which example they are of."""
    del variables
    return _shown(_inputs(parts, batch), batch)


def _shown(inputs: _Inputs, batch):
    return dict(
        target=inputs.images,
        target_alpha=inputs.alphas,
        index=batch["index"],
        valid=batch["valid"],
    )


def _discs(parts, variables, batch):
    """Baseline: the input points as grey discs of fixed size."""
    del variables
    inputs = _inputs(parts, batch)
    xyz, mask = inputs.points.xyz, inputs.points.mask
    count = jnp.maximum(jnp.sum(mask, -1), 1)[:, None, None]
    # The points share a surface of about the square of the cloud's diagonal.
    seen = mask[..., None]
    low = jnp.min(jnp.where(seen, xyz, jnp.inf), 1, keepdims=True)
    high = jnp.max(jnp.where(seen, xyz, -jnp.inf), 1, keepdims=True)
    diagonal = jnp.linalg.norm(jnp.where(high >= low, high - low, 0.0), axis=-1, keepdims=True)
    size = _DISC * diagonal / jnp.sqrt(count)
    shape = xyz.shape[:2]
    scene = gaussians.Gaussians(
        means=jnp.where(mask[..., None], xyz, 0.0),
        quats=jnp.broadcast_to(jnp.asarray([1.0, 0, 0, 0]), (*shape, 4)),
        scales=jnp.broadcast_to(size, (*shape, 3)),
        opacities=jnp.where(mask, 0.99, 0.0),
        sh=jnp.broadcast_to(sh.rgb_to_sh0(jnp.full(3, 0.5)), (*shape, 1, 3)),
    )
    image, alpha = model.render(scene, inputs.viewmats, inputs.Ks, inputs.size, parts.config)
    return dict(image=image, alpha=alpha, **_shown(inputs, batch))


def _embed(parts, variables, batch):
    """Pooled features of the backbone alone [B, D], without any picture."""
    points = _inputs(parts, batch).points
    found = backbones.apply_alone(parts.module.backbone, _trained(variables), points)
    return dict(
        gaussian=found.pooled,
        category=batch["category"],
        index=batch["index"],
        valid=batch["valid"],
    )


def _norm_pass(parts, variables, batch):
    """Running statistics that the backbone's norms keep of points alone; see ``base.System``.

    In pre-training the norms behind a fusion at the stem see image features; here they do not.
    """
    points = _inputs(parts, batch).points
    return backbones.statistics_alone(parts.module.backbone, _trained(variables), points)
