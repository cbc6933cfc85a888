"""CLIP-GS as a system: wires data, model and losses; the mathematics is in the files beside it."""

import functools

import jax.numpy as jnp
import numpy as np

from gsjax.losses import contrastive
from gsjax.systems import base
from gsjax.systems.clip_gs import data, losses, model, randomness, show


def build(config) -> base.System:
    """The system that a config describes. Prepares its data set and embeddings if absent.

    Raises:
        ValueError: an option of ``config.model``, ``config.loss`` or ``config.data`` is unknown or
            does not fit the data.
    """
    source = data.load(config)
    if not config.model.embed_dim:
        with config.unlocked():
            config.model.embed_dim = source.dim
    module = model.build(config)
    spec = data.batch_spec(config, source)
    system = base.System(
        name="clip_gs",
        batch_spec=spec,
        init=functools.partial(_init, module, config, spec),
        loss=functools.partial(_loss, module, config),
        predict_fns={"embed": functools.partial(_embed, module, config)},
        train_data=source.train,
        eval_data=source.evaluate,
        param_rules=_param_rules(config),
        project_params=functools.partial(
            contrastive.clamp_logit_scale, maximum=config.loss.logit_scale_max
        ),
        info=dict(
            class_names=list(source.class_names),
            class_embeds={k: np.asarray(v).tolist() for k, v in source.class_embeds.items()},
            embed_dim=source.dim,
            uids=source.uids,
            towers=source.towers,
        ),
        show=None if source.records is None else functools.partial(_show, source, module, config),
    )
    return system


def _init(module, config, spec, rng):
    example = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in spec.items()}
    return module.init(rng, model.patchify(example, config))


def _loss(module, config, variables, batch, rng, train):
    """(loss, metrics, new collections); see ``base.System``."""
    images, draws, new = batch["image_embed"], None, {}
    if train:
        draws = randomness.draw(
            rng,
            batch["index"],
            num_group=config.model.num_group,
            depth=config.model.depth,
            num_views=images.shape[1],
        )
        views = losses.sample_views(draws.views, config.data.views_per_step)
        images = jnp.take_along_axis(images, views[..., None], 1)
    patches = model.patchify(batch, config, draws, train)
    if train:
        (features, scale, bias), new = module.apply(
            variables, patches, draws, True, mutable=["batch_stats"]
        )
    else:
        features, scale, bias = module.apply(variables, patches)
    loss, metrics = losses.total_loss(
        features,
        batch["text_embed"],
        images,
        batch["valid"],
        batch["caption_hash"],
        scale,
        bias,
        config.loss,
    )
    return loss, metrics, new


def _embed(module, config, variables, batch):
    """Unit embeddings of the Gaussians [B, D]; those of text and images pass through."""
    features, _, _ = module.apply(variables, model.patchify(batch, config))
    return dict(
        gaussian=contrastive.unit(features),
        text=contrastive.unit(batch["text_embed"]),
        image=contrastive.unit(batch["image_embed"]),
        caption_hash=batch["caption_hash"],
        category=batch["category"],
        index=batch["index"],
        valid=batch["valid"],
    )


def _param_rules(config):
    """Optimiser groups; ``train.optim`` itself spares biases and tensors of rank <= 1."""
    rules = [base.ParamRule(r"(^|/)(cls_token|cls_pos)$", decay=False)]
    if config.model.attributes == "all":
        # 'order_*' are rank-2 scales and shifts, no weights
        new = config.optim.lr_new_scale
        rules.append(base.ParamRule(r"gaussian_branch/order_", lr_scale=new, decay=False))
        rules.append(base.ParamRule(r"gaussian_branch/", lr_scale=new))
    return tuple(r for r in rules if config.model.order_indicator or "order_" not in r.pattern)


def _show(source, module, config, variables, folder):
    show.write(source, functools.partial(_embed, module, config), variables, folder)
