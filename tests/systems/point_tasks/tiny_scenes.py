"""Debug-size segmentation of scenes on drawn boxes, shared by tests; nothing is cast."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from configs import finetune_scenes
from gsjax.data import clouds, scene_cloud_sets

LABELS = ("floor", "low", "high")  # 'high' occurs in training scenes alone
POINTS = 600  # of a scene


@dataclasses.dataclass(frozen=True)
class Box:
    """A floor with points above it; those of each class have a colour of their own."""

    name: str
    classes: int = 3

    def cloud(self) -> clouds.Cloud:
        rng = np.random.default_rng(int(self.name.split("-")[1]))
        xyz = rng.uniform((0, 0, 0), (3, 2, 1.5), (POINTS, 3))
        xyz[: POINTS // 2, 2] = 0
        label = np.minimum(np.ceil(xyz[:, 2] / 0.75).astype(np.int32), self.classes - 1)
        rgb = np.asarray([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)[label]
        label[::50] = clouds.NO_LABEL
        normal = np.zeros((POINTS, 3), np.float32)
        normal[:, 2] = 1
        return clouds.Cloud(xyz.astype(np.float32), rgb, normal, label)


def scenes(d) -> scene_cloud_sets.CloudSet:
    """In place of ``scene_cloud_sets.load``."""
    train = [Box(f"box-{i}") for i in range(d.num_objects)]
    test = [Box(f"box-{100 + i}", classes=2) for i in range(d.num_test)]
    return scene_cloud_sets.CloudSet(train, test, LABELS)


def config(arg: str = "quick", **overrides):
    """The quick config over boxes; ``block__field=value`` overrides."""
    result = finetune_scenes.get_config(arg)
    result.data.num_objects, result.data.num_test = 8, 3
    result.data.num_points = 256
    result.data.thin = 0.0
    result.data.validation = 0.25
    result.train.batch_size = 4
    # Not the same capacity as the number of points: rows of the two must not be mistaken.
    result.model.backbone_changes.voxels = 320
    if result.model.backbone == "sparse_unet":  # one level below the finest
        result.model.backbone_changes.update(
            shares=(0.5,), encoder=(8,), encoder_blocks=(1,), decoder=(16,), decoder_blocks=(1,)
        )
    if result.model.backbone == "ptv3":
        result.model.backbone_changes.update(
            shares=(0.5,), encoder=(8, 16), encoder_blocks=(1, 1), encoder_heads=(2, 2),
            decoder=(16,), decoder_blocks=(1,), decoder_heads=(2,), patch=32,
        )  # fmt: skip
    for path, value in overrides.items():
        block, field = path.split("__")
        result[block][field] = value
    return result


def batch(built, split: str = "fit", num: int = 4) -> dict:
    """The first ``num`` crops, stacked."""
    rows = built.eval_data(split)
    rows = [rows[i] for i in range(num)]
    return {name: jnp.asarray(np.stack([e[name] for e in rows])) for name in built.batch_spec}


def variables(built) -> dict:
    """Random variables, drawn without compiling what initialises them."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        name = jax.tree_util.keystr(path)
        if name.endswith(("['var']", "['scale']")):
            return jnp.ones(x.shape, x.dtype)
        width = 0.0 if name.endswith(("['mean']", "['bias']")) else 0.2
        return jnp.asarray(width * rng.normal(size=x.shape), x.dtype)

    shapes = jax.eval_shape(built.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)
