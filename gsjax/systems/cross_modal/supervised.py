"""What labels are worth: the same encoders trained with them, from scratch.

The thesis sets its frozen features beside a PointNet and a PointNet++ on points and an MVCNN (Su et al.,
arXiv 1505.00880: the largest value of each feature over views, before the classifier). Data, crops and
encoders are those of the self-supervised system; two dense layers follow. Whose runs its figures are is
not said there.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gsjax.losses import means
from gsjax.models import linear, resnet
from gsjax.systems import base
from gsjax.systems.cross_modal import data, model, pictures

TASKS = ("classify_points", "classify_views")


class Classifier(nn.Module):
    """An encoder and two dense layers.

    Attributes:
        encoder: the points' backbone, or a ``resnet.ResNet``.
        views: whether it sees pictures, whose features are joined by their maximum.
        classes: K.
        hidden: width of the layer before.
        dtype: of computation; logits are float32.
    """

    encoder: nn.Module
    views: bool
    classes: int
    hidden: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, seen: jax.Array, train: bool = False, keys=None) -> jax.Array:
        """seen: points f32 [B, P, 3 + C], or pictures f32 [B, V, S, S, 3] -> logits f32 [B, K]."""
        if self.views:
            found = self.encoder(seen.reshape(-1, *seen.shape[2:]), train)
            x = jnp.max(found.reshape(*seen.shape[:2], -1), 1)
        else:
            x = self.encoder(model.as_points(seen), train=train, keys=keys).pooled
        x = nn.relu(
            linear.Dense(self.hidden, dtype=self.dtype, name="hidden")(x.astype(self.dtype))
        )
        return linear.Dense(self.classes, dtype=self.dtype, name="logits")(x).astype(jnp.float32)


def build(config) -> base.System:
    """The system of ``config.task``; see ``system.build``."""
    source = data.load(config)
    views = config.task == "classify_views"
    whole = model.build(config, data.channels(config))
    encoder = resnet.ResNet(whole.image, whole.dtype) if views else whole.backbone
    module = Classifier(encoder, views, len(source.class_names), dtype=whole.dtype)
    spec = data.batch_spec(config)
    seen = functools.partial(_seen, config, views)
    return base.System(
        name="cross_modal",
        batch_spec=spec,
        init=functools.partial(_init, module, spec, views),
        loss=functools.partial(_loss, module, seen),
        predict_fns=dict(labels=functools.partial(_labels, module, seen)),
        train_data=source.train,
        eval_data=source.evaluate,
        info=dict(class_names=list(source.class_names), uids=source.uids),
    )


def _init(module, spec, views, rng):
    shape = spec["images"].shape if views else spec["points"].shape
    return module.init(rng, jnp.zeros((1, *shape)))


def _seen(config, views, batch, key):
    if views:
        return pictures.prepared(config, batch["images"], batch["index"], key)
    return batch["points"]


def _loss(module, seen, variables, batch, rng, train):
    """(loss, metrics, new collections); see ``base.System``."""
    new = {}
    if train:
        picture_key, point_key = jax.random.split(rng)
        keys = pictures.keys_of(point_key, batch["index"])
        inputs = seen(batch, picture_key)
        logits, new = module.apply(variables, inputs, True, keys, mutable=["batch_stats"])
    else:
        logits = module.apply(variables, seen(batch, None))
    labels = batch["category"]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    mean = functools.partial(means.mean_of_valid, valid=batch["valid"])
    return mean(entropy), dict(accuracy=100 * mean(jnp.argmax(logits, -1) == labels)), new


def _labels(module, seen, variables, batch):
    """Predicted and true label of every object."""
    logits = module.apply(variables, seen(batch, None))
    return dict(
        predicted=jnp.argmax(logits, -1).astype(jnp.int32),
        label=batch["category"],
        category=batch["category"],
        index=batch["index"],
        valid=batch["valid"],
    )
