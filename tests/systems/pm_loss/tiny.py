"""Debug-size PM-Loss: rooms of 16 x 16 pixels and the smallest network, shared by the tests of this folder."""

import atexit
import functools
import shutil
import tempfile

import jax.numpy as jnp
import numpy as np

from configs import pm_loss
from gsjax.models.feedforward import gaussian_adapter
from gsjax.systems import base

UNET = dict(width=8, multipliers=(1, 1), attention=(2,), head=8)


@functools.cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="gsjax-rooms-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def config(arg: str = "quick", **overrides):
    """The quick config, smaller; ``block__field=value`` overrides, with dots in ``field`` for its parts."""
    result = pm_loss.get_config(arg)
    result.data.dir = _folder()
    result.data.update(dict(height=16, width=16, num_objects=8, num_test=2, num_frames=7))
    result.data.num_threads = 1
    result.loss.pm_options.min_points = 32
    result.model.changes = dict(
        channels=8, cnn_widths=(4, 4, 8), blocks=1, candidates=4, cost_unet=UNET, refine_unet=UNET
    )
    for path, value in overrides.items():
        block, field = path.split("__", 1)
        place = result[block]
        *parts, last = field.split("__")
        for part in parts:
            place = place[part]
        place[last] = value
    return result


def system(*args, **overrides):
    return base.build(config(*args, **overrides))


def batch(built, num: int = 2) -> dict:
    """The first ``num`` training examples, stacked."""
    source = built.train_data()
    examples = [source[i] for i in range(num)]
    return {name: jnp.asarray(np.stack([e[name] for e in examples])) for name in built.batch_spec}


def said(batch, seed: int = 0, depth=2.0, earlier: int = 1) -> dict:
    """What a network could say of a batch: made-up depths and channels, read by MVSplat's adapter."""
    rng = np.random.default_rng(seed)
    shape = batch["context_images"].shape[:-1]
    adapter = gaussian_adapter.PRESETS["mvsplat"]
    raw = jnp.asarray(rng.normal(0, 0.5, (*shape, adapter.channels)), jnp.float32)
    depths = [
        jnp.asarray(depth * np.exp(rng.normal(0, 0.05, shape)), jnp.float32)
        for _ in range(earlier + 1)
    ]
    scene = gaussian_adapter.adapt(
        adapter, raw, depths[-1], jnp.full(shape, 0.8), jnp.zeros((*shape, 3)), batch["context_Ks"],
        batch["context_c2ws"],
    )  # fmt: skip
    return dict(gaussians=scene, depths=depths, inverse_depths=[1 / x for x in depths], raw=raw)
