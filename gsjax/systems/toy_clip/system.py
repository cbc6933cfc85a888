"""Builds the image/text pair as a trainable system (no maths here)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.data import prepare, store, templates
from gsjax.losses import contrastive
from gsjax.models import towers, toy_towers
from gsjax.systems import base
from gsjax.systems.toy_clip import data, gallery, losses, model, projected, recipe

TOWERS = ("own", "packaged")
_PICTURE_OPTIONS = ("zoom", "shift", "gain", "tint", "grey", "flip")


def build(config) -> base.System:
    """The system; prepares the data set first if it is not there.

    Args:
        config: ``configs/toy_clip.py``. ``model.towers`` 'own' trains whole towers (this file),
            'packaged' projections on frozen networks (``projected``).

    Raises:
        ValueError: an unknown option, or what ``prepare.ensure`` raises.
    """
    if config.model.towers not in TOWERS:
        raise ValueError(
            f"model.towers: unknown {config.model.towers!r}; known: {', '.join(TOWERS)}"
        )
    if config.model.towers == "packaged":
        return projected.build(config)
    folder = prepare.ensure(config.data)
    sizes = tower_config(config.model)
    return assemble(config, sizes, folder)


def tower_config(block) -> toy_towers.TowerConfig:
    """The ``model`` block of the config as the towers' own sizes."""
    names = [field.name for field in dataclasses.fields(toy_towers.TowerConfig)]
    values = {name: block[name] for name in names}
    return toy_towers.TowerConfig(
        **{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
    )


def assemble(config, sizes: toy_towers.TowerConfig, folder) -> base.System:
    """The system over a prepared data set."""
    if not 0.0 <= config.loss.kinds < 1.0:
        raise ValueError(f"loss.kinds: expected 0 <= kinds < 1, found {config.loss.kinds}")
    info = _info(sizes, folder)
    sentences = np.asarray(info["class_tokens"], np.int32)
    net = model.Pair(sizes)

    def init(rng):
        example = {k: jnp.zeros((1, *s.shape), s.dtype) for k, s in data.batch_spec(sizes).items()}
        return net.init(rng, toy_towers.to_unit_range(example["view"]), example["tokens"])

    def examples(split, train, **options):
        return data.examples(folder, split, sizes, seed=config.seed, train=train, **options)

    def show(variables, target):
        export(variables["params"], sizes, target / recipe.WEIGHTS, recipe.notes(config, folder))
        gallery.draw(embed, variables, examples(config.eval.split, False, with_text=True), target)

    def embed(variables, batch):
        return _embed(net, variables, batch)

    def texts(variables, batch):
        return net.apply(variables, batch["tokens"], method="encode_texts")

    return base.System(
        name="toy_clip",
        batch_spec=data.batch_spec(sizes),
        init=init,
        loss=lambda *args: _loss(net, config, sentences, *args),
        predict_fns={"embed": embed, "texts": texts},
        train_data=lambda: examples("train", True),
        eval_data=lambda split: examples(split, False),
        param_rules=(
            base.ParamRule("logit_scale", decay=False),
            base.ParamRule("table", decay=False),
        ),
        project_params=lambda p: contrastive.clamp_logit_scale(p, config.loss.logit_scale_max),
        info=info,
        show=show,
    )


def _embed(net: model.Pair, variables, batch) -> dict[str, jax.Array]:
    pixels = toy_towers.to_unit_range(batch["view"])
    images, texts, _ = net.apply(variables, pixels, batch["tokens"])
    return {
        "image_embed": images,
        "text_embed": texts,
        "caption_hash": batch["caption_hash"],
        "category": batch["category"],
        "valid": batch["valid"],
    }


def _info(sizes: toy_towers.TowerConfig, folder) -> dict:
    """Class names, and sentences around them as ids [C, S, W, 1 + G]."""
    names = store.category_names(folder)
    sentences = templates.TEMPLATES[recipe.CLASS_TEMPLATES]
    tokens = [sizes.tokenizer([s.format(name) for s in sentences]).tolist() for name in names]
    return dict(class_names=list(names), class_tokens=tokens)


def _loss(net: model.Pair, config, sentences, variables, batch, rng, train: bool):
    """Forward pass of a step; see ``base.System.loss``."""
    pixels, tokens = toy_towers.to_unit_range(batch["view"]), batch["tokens"]
    rng, draw = jax.random.split(rng)
    if train and config.augment.enable:
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
        keys = jax.vmap(jax.random.split)(keys)
        options = config.augment
        picture = {name: options[name] for name in _PICTURE_OPTIONS}
        words = {name: options[name] for name in ("drop_word", "drop_identity")}
        pixels = jax.vmap(lambda k, x: data.augment_picture(k, x, **picture))(keys[:, 0], pixels)
        tokens = jax.vmap(lambda k, x: data.augment_tokens(k, x, **words))(keys[:, 1], tokens)
    images, texts, logit_scale = net.apply(variables, pixels, tokens)
    kinds = None
    if config.loss.kinds:
        drawn = jax.random.randint(draw, (), 0, sentences.shape[1]) if train else 0
        kinds = net.apply(variables, jnp.asarray(sentences)[:, drawn], method="encode_texts")
    loss, metrics = losses.total_loss(images, texts, kinds, logit_scale, batch, config.loss.kinds)
    return loss, metrics, {}


def export(params, sizes: toy_towers.TowerConfig, path, notes) -> str:
    """Writes the towers' weights, without the temperature; returns their digest.

    ``models.towers.load`` reads the file, and ``config.data.towers`` names it.
    """
    weights = jax.tree.map(np.asarray, params["towers"])
    return towers.save(path, "toy_clip", dataclasses.asdict(sizes), weights, notes)
