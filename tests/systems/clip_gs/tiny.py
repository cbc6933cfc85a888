"""Debug-size CLIP-GS on synthetic objects, shared by the tests of this folder."""

import functools

import jax
import numpy as np

from configs import clip_gs
from gsjax.systems import base
from gsjax.systems.clip_gs import model

_COMPILED = {}

# Compiles in half the time; for functions that a test calls once or twice.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def config(**overrides):
    """The quick config on synthetic objects; ``block__field=value`` overrides."""
    result = clip_gs.get_config("quick")
    result.data.name = "synthetic"
    result.data.num_objects = 32
    result.train.batch_size = 32
    result.model.embed_dim = 32
    result.model.depth = 1
    for path, value in overrides.items():
        block, field = path.split("__")
        result[block][field] = value
    return result


@functools.cache
def system():
    return base.build(config())


@functools.cache
def batch(num=32):
    """The first ``num`` synthetic objects, stacked."""
    examples = list(system().train_data())[:num]
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


@functools.cache
def variables():
    return quick_jit(system().init)(jax.random.key(0))


def split(values):
    """(parameters, the other collections)."""
    return values["params"], {name: x for name, x in values.items() if name != "params"}


@functools.cache
def gradient():
    """(params, stats, batch, rng) -> ((loss, new collections), gradients), compiled once."""

    def loss(params, stats, inputs, rng):
        found, _, new = system().loss({"params": params, **stats}, inputs, rng, True)
        return found, new

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def features(cfg, values, inputs, **jit):
    """Inference-mode embeddings [B, D]; one compilation for each config and batch size. ``jit``: its options."""
    key = cfg.to_json_best_effort(), str(jit)
    if key not in _COMPILED:
        module = model.build(cfg)
        _COMPILED[key] = quick_jit(lambda v, b: module.apply(v, model.patchify(b, cfg))[0], **jit)
    return _COMPILED[key](values, inputs)


def moved(values, seed=1, scale=0.1):
    """Variables with every parameter off its starting point, gates included."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(x.dtype) ** 2, values)
