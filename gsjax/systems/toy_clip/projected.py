"""The trainable system of the pair on frozen networks: two projections, learned from features.

The other system of this folder (``system``) trains whole towers; here only ``models.semantic_towers``'
projections learn, from outputs of the frozen networks that ``frozen`` keeps. The losses are the same.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.data import pictures, prepare, store, templates
from gsjax.losses import contrastive
from gsjax.models import efficientnet, minilm, packaged, semantic_towers
from gsjax.systems import base
from gsjax.systems.toy_clip import frozen, losses, model, recipe


class ProjectedPair(nn.Module):
    """Projections under ``projections``, and the scalar ``logit_scale``."""

    config: semantic_towers.SemanticConfig

    def setup(self):
        self.projections = semantic_towers.Projections(self.config)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(model.INIT_LOGIT_SCALE), (), jnp.float32
        )

    def __call__(self, images: jax.Array, texts: jax.Array):
        """Features [B, 1280] and [B, 384] -> unit vectors [B, D] twice, and the log of the inverse
        temperature."""
        return *self.projections(images, texts), self.logit_scale

    def encode_texts(self, texts: jax.Array) -> jax.Array:
        """Sentence vectors [B, 384] to unit vectors [B, D]."""
        return self.projections.encode_texts(texts)


def batch_spec() -> dict[str, jax.ShapeDtypeStruct]:
    """One example: ``view`` float16 [1280], features of a picture; ``tokens`` int32 [], row of its
    caption in the table of sentences; ``category`` int32 [], ``caption_hash`` uint32 [], ``index``
    int32 [], ``valid`` bool []."""
    return {
        "index": jax.ShapeDtypeStruct((), jnp.int32),
        "valid": jax.ShapeDtypeStruct((), jnp.bool_),
        "category": jax.ShapeDtypeStruct((), jnp.int32),
        "view": jax.ShapeDtypeStruct((efficientnet.FEATURES,), jnp.float16),
        "tokens": jax.ShapeDtypeStruct((), jnp.int32),
        "caption_hash": jax.ShapeDtypeStruct((), jnp.uint32),
    }


def sizes_of(block) -> semantic_towers.SemanticConfig:
    """The ``model`` block of the config as the pair's own sizes."""
    names = [field.name for field in dataclasses.fields(semantic_towers.SemanticConfig)]
    return semantic_towers.SemanticConfig(**{name: block[name] for name in names})


def build(config) -> base.System:
    """The system; prepares the data set and the features first if they are not there.

    Args:
        config: ``configs/toy_clip.py:towers=packaged``.

    Raises:
        ValueError: an unknown option; packages with the frozen networks are absent; or what
            ``prepare.ensure`` raises.
    """
    sizes = sizes_of(config.model)
    packaged.require()  # before minutes of rendering
    folder = prepare.ensure(config.data)
    return assemble(config, sizes, folder, frozen.ensure(folder, sizes))


def assemble(
    config, sizes: semantic_towers.SemanticConfig, folder, features: frozen.Features
) -> base.System:
    """The system over a prepared data set and its features."""
    if not 0.0 <= config.loss.kinds < 1.0:
        raise ValueError(f"loss.kinds: expected 0 <= kinds < 1, found {config.loss.kinds}")
    net = ProjectedPair(sizes)
    info = _info(features, folder)
    table = jnp.asarray(features.texts, jnp.float32)
    sentences = np.asarray(info["class_tokens"], np.int32)

    def init(rng):
        images = jnp.zeros((1, efficientnet.FEATURES))
        return net.init(rng, images, jnp.zeros((1, minilm.BertConfig().width)))

    def examples(split, train):
        records = _records(folder, split, features)
        return pictures.picture_examples(
            records, tokenize=lambda c: np.int32(features.rows[c]), seed=config.seed, train=train
        )

    def embed(variables, batch):
        images, texts, _ = net.apply(
            variables, batch["view"].astype(jnp.float32), table[batch["tokens"]]
        )
        names = ("caption_hash", "category", "valid")
        return dict(image_embed=images, text_embed=texts) | {name: batch[name] for name in names}

    return base.System(
        name="toy_clip",
        batch_spec=batch_spec(),
        init=init,
        loss=lambda *args: _loss(net, config, table, sentences, *args),
        predict_fns={
            "embed": embed,
            "texts": lambda v, b: net.apply(v, table[b["tokens"]], method="encode_texts"),
        },
        train_data=lambda: examples("train", True),
        eval_data=lambda split: examples(split, False),
        param_rules=(base.ParamRule("logit_scale", decay=False),),
        project_params=lambda p: contrastive.clamp_logit_scale(p, config.loss.logit_scale_max),
        info=info,
        show=lambda variables, target: export(
            variables["params"],
            sizes,
            target / recipe.WEIGHTS,
            recipe.notes(config, folder, **_more(config)),
        ),
    )


def _records(folder, split: str, features: frozen.Features) -> list[dict]:
    """Records of a split with features in the place of pictures; they fit in memory."""
    fields = ("index", "uid", "category", "captions")
    stored = store.open_split(folder, split, fields=fields)
    return [dict(record, views=views) for record, views in zip(stored, features.images[split])]


def _info(features: frozen.Features, folder) -> dict:
    """Class names, and the rows of the sentences around them, [C, S]."""
    names = store.category_names(folder)
    sentences = templates.TEMPLATES[recipe.CLASS_TEMPLATES]
    rows = [[features.rows[s.format(name)] for s in sentences] for name in names]
    return dict(class_names=list(names), class_tokens=rows)


def _loss(net, config, table, sentences, variables, batch, rng, train: bool):
    """Forward pass of a step; see ``base.System.loss``."""
    images, texts = batch["view"].astype(jnp.float32), table[batch["tokens"]]
    noise, drop, draw = jax.random.split(rng, 3)
    if train:
        images, texts = _perturb(config.augment, noise, drop, images, texts)
    images, texts, logit_scale = net.apply(variables, images, texts)
    kinds = None
    if config.loss.kinds:
        drawn = jax.random.randint(draw, (), 0, sentences.shape[1]) if train else 0
        kinds = table[jnp.asarray(sentences)[:, drawn]]
        kinds = net.apply(variables, kinds, method="encode_texts")
    loss, metrics = losses.total_loss(images, texts, kinds, logit_scale, batch, config.loss.kinds)
    return loss, metrics, {}


def _perturb(options, noise_rng, drop_rng, images: jax.Array, texts: jax.Array):
    """Features as the projections see them in training: some image features dropped, some noise on
    the sentence vectors, whose entries are about 0.05."""
    keep = 1.0 - options.drop_feature
    kept = jax.random.bernoulli(drop_rng, keep, images.shape)
    images = jnp.where(kept, images / keep, 0.0)
    return images, texts + options.text_noise * jax.random.normal(noise_rng, texts.shape)


def export(params, sizes: semantic_towers.SemanticConfig, path, notes) -> str:
    """Writes the projections, without the temperature; returns their digest."""
    weights = jax.tree.map(np.asarray, params["projections"])
    return semantic_towers.save(path, sizes, weights, notes)


def _more(config) -> dict:
    """What else made the projections."""
    return dict(
        wd=config.optim.wd,
        kinds=config.loss.kinds,
        drop_feature=config.augment.drop_feature,
        text_noise=config.augment.text_noise,
        views=config.data.views,
        view_size=config.data.view_size,
    )
