"""Debug-size UniPre3D on synthetic ellipsoids, shared by the tests of this folder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import unipre3d_object
from gsjax.systems import base

# Compiles in half the time; for functions that a test calls once or twice.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def config(arg: str = "quick", **overrides):
    """The quick config on synthetic objects; ``block__field=value`` overrides."""
    result = unipre3d_object.get_config(arg)
    result.data.name = "synthetic"
    result.data.num_objects = 8
    result.data.view_size = 16
    result.data.num_points = 48
    result.data.targets = 2
    result.train.batch_size = 4
    result.model.image_encoder = "rgb"
    result.model.head.per_token = 2
    result.model.head.hidden = 16
    result.model.backbone_changes = dict(
        num_patches=8, patch_size=8, embed=(8, 16, 16, 16), width=16, depth=1, heads=2
    )
    for path, value in overrides.items():
        block, field = path.split("__")
        result[block][field] = value
    return result


@functools.cache
def system(**overrides):
    return base.build(config(**overrides))


def batch(built, num: int = 4, split: str = "train") -> dict:
    """The first ``num`` examples, stacked."""
    examples = list(built.eval_data(split))[:num]
    return {name: jnp.asarray(np.stack([e[name] for e in examples])) for name in built.batch_spec}


def variables(built, seed: int = 0):
    return quick_jit(built.init)(jax.random.key(seed))
