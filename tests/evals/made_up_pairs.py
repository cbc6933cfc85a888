"""A system that is nothing but its data: what views, Gaussians and a head answer is known."""

import grain
import jax.numpy as jnp
import numpy as np

from gsjax.systems import base

COUNT, SIDES = 12, 4
CLASSES = 3


def _dataset(count, split):
    """Object i, whose features are its number; a sample of Gaussians shifts them a little."""
    draw = int(split.split("#")[1]) if "#" in split else 0
    items = [
        dict(index=np.int32(i), valid=np.bool_(True), category=np.int32(i % CLASSES),
             points=np.float32(i + 0.01 * draw), kind=np.int32("memory" in split))
        for i in range(count)
    ]  # fmt: skip
    return grain.MapDataset.source(items)


def system(answer, spread=0.1, count=COUNT):
    """``answer``: (image features, gaussian features) -> bool, whether they belong together."""

    def views(variables, batch):
        side = jnp.arange(SIDES) * spread
        number = batch["index"][:, None] + side
        shown = (batch["category"] + batch["kind"]) % CLASSES  # memory shows another class
        klass = jnp.broadcast_to(shown[:, None], number.shape)
        image = jnp.stack([number, 10.0 * jnp.cos(2.1 * klass), 10.0 * jnp.sin(2.1 * klass)], -1)
        return dict(image=image, **_facts(batch))

    def embed(variables, batch):
        turn = 2.1 * batch["category"]
        one = jnp.stack([batch["points"], 10.0 * jnp.cos(turn), 10.0 * jnp.sin(turn)], -1)
        return dict(gaussian=one, **_facts(batch))

    def match(variables, batch):
        yes = answer(batch["image"], batch["gaussian"])
        return dict(logits=jnp.stack([jnp.zeros(len(yes)), jnp.where(yes, 5.0, -5.0)], -1))

    return base.System(
        name="made up", batch_spec={}, init=None, loss=None,
        predict_fns=dict(views=views, embed=embed, match=match), train_data=None,
        eval_data=lambda split: _dataset(24 if split.startswith("train") else count, split),
    )  # fmt: skip


def _facts(batch):
    return {name: batch[name] for name in ("index", "category", "valid")}


def same(image, gaussian):
    return jnp.abs(image[:, 0] - gaussian[:, 0]) < 0.5
