"""A system that trains in milliseconds, with everything the loop must carry.

Two-layer classifier of points by the octant they lie in: noise on the input drawn per example,
a running mean in a second collection, one clamped and one frozen parameter.
"""

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import common
from gsjax.systems import base

EXAMPLES = 96
SPEC = {
    "index": jax.ShapeDtypeStruct((), jnp.int32),
    "valid": jax.ShapeDtypeStruct((), jnp.bool_),
    "x": jax.ShapeDtypeStruct((3,), jnp.float32),
    "y": jax.ShapeDtypeStruct((), jnp.int32),
}


class Points:
    """Random-access source of labelled points."""

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        x = np.random.default_rng(int(index)).normal(size=3).astype(np.float32)
        y = np.int32((x > 0) @ np.array([1, 2, 4]))
        return {"index": np.int32(index), "valid": np.bool_(True), "x": x, "y": y}


def logits_of(params, x):
    hidden = jnp.tanh(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    return params["scale"] * hidden @ params["head"]["kernel"] + params["frozen"]


def build(*, width: int = 32, noise: float = 0.05, poison: int = -1, poisons: int = 0):
    """The system; examples whose index is ``poison`` modulo ``poisons`` (if any) lose NaN."""

    def init(rng):
        a, b = jax.random.split(rng)
        params = {
            "dense": {"kernel": jax.random.normal(a, (3, width)), "bias": jnp.zeros(width)},
            "head": {"kernel": 0.1 * jax.random.normal(b, (width, 8))},
            "scale": jnp.float32(1.0),
            "frozen": jnp.full((8,), 0.5),
        }
        return {"params": params, "stats": {"mean": jnp.zeros(3)}}

    def loss(variables, batch, rng, train):
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
        drawn = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
        x = batch["x"] + noise * drawn * train
        out = logits_of(variables["params"], x)
        losses = -jax.nn.log_softmax(out)[jnp.arange(out.shape[0]), batch["y"]]
        if poisons:
            losses = jnp.where(batch["index"] % poisons == poison, jnp.nan, losses)
        mean = 0.9 * variables["stats"]["mean"] + 0.1 * jnp.mean(batch["x"], 0)
        accuracy = jnp.mean(jnp.argmax(out, -1) == batch["y"])
        return jnp.mean(losses), {"accuracy": accuracy}, {"stats": {"mean": mean}}

    def data(split="train"):
        return grain.MapDataset.source(Points())

    return base.System(
        name="tiny",
        batch_spec=SPEC,
        init=init,
        loss=loss,
        predict_fns={"logits": lambda v, b: {"logits": logits_of(v["params"], b["x"])}},
        train_data=data,
        eval_data=data,
        param_rules=(
            base.ParamRule("^frozen$", lr_scale=0.0, decay=False),
            base.ParamRule("^head/", lr_scale=0.5),
        ),
        project_params=lambda p: {**p, "scale": jnp.clip(p["scale"], 0.5, 1.5)},
    )


def config(**overrides) -> ml_collections.ConfigDict:
    """Config of a 12-step run; overrides by dotted path written with ``__``."""
    tree = common.base("tiny")
    tree.train.batch_size = 16
    tree.train.num_steps = 12
    tree.train.log_every = 1
    tree.train.save_every = 4
    tree.train.compilation_cache = "off"
    tree.mesh.data = 1
    tree.data.num_threads = 1
    tree.optim.lr = 0.02
    tree.optim.warmup = 2.0
    tree.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return tree
