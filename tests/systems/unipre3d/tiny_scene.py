"""Debug-size scene level of UniPre3D on drawn boxes of points, shared by the tests of this folder.

Data are drawn here: rooms take seconds to cast.
"""

import jax.numpy as jnp
import numpy as np

from configs import unipre3d_scene
from gsjax.data import examples
from gsjax.systems import base
from gsjax.systems.unipre3d import data, scene_data

HEIGHT, WIDTH, POINTS, EXAMPLES = 12, 16, 200, 8
_FOCAL = 14.0
_DEPTH = 1.6  # metres from the cameras to the wall that they see


def config(**overrides):
    """The quick config with one coarser level of voxels; ``block__field=value`` overrides."""
    result = unipre3d_scene.get_config("quick")
    result.data.num_points = POINTS
    result.data.height, result.data.width = HEIGHT, WIDTH
    result.train.batch_size = 8
    result.model.image_encoder = "rgb"
    result.model.head.hidden = 16
    result.model.backbone_changes = dict(
        voxels=128, voxel_size=0.2, shares=(0.4,), stem=8, encoder=(8,), encoder_blocks=(1,),
        decoder=(16,), decoder_blocks=(1,),
    )  # fmt: skip
    result.model.fusion_pixels, result.model.fusion_union = 128, 256
    for path, value in overrides.items():
        block, field = path.split("__")
        result[block][field] = value
    return result


def example(config, index: int) -> dict:
    """A wall in two colours with a few points before it, seen from R + T places."""
    rng = np.random.default_rng(index)
    views = config.data.references + config.data.targets
    paints = rng.integers(0, 256, (2, 3), dtype=np.uint8)
    xyz = rng.uniform((-0.6, -0.5, 0.0), (0.6, 0.5, 0.05), (POINTS, 3))
    xyz[::8, 2] -= 0.4
    viewmats = np.broadcast_to(np.eye(4), (views, 4, 4)).copy()
    viewmats[:, :2, 3] = rng.uniform(-0.2, 0.2, (views, 2))
    viewmats[:, 2, 3] = _DEPTH
    K = np.asarray([[_FOCAL, 0, WIDTH / 2], [0, _FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    # A pixel's colour is that of the wall where its ray meets it.
    columns = (np.arange(WIDTH) + 0.5 - WIDTH / 2) / _FOCAL * _DEPTH
    right = columns[None] - viewmats[:, 0, 3, None] > 0
    images = np.broadcast_to(paints[right.astype(int)][:, None], (views, HEIGHT, WIDTH, 3))
    return dict(
        index=np.int32(index),
        valid=np.bool_(True),
        category=np.int32(0),
        xyz=xyz.astype(np.float32),
        rgb=(paints[(xyz[:, 0] > 0).astype(int)] / 255).astype(np.float32),
        normal=np.broadcast_to(np.float32([0, 0, -1]), (POINTS, 3)).copy(),
        parts=np.ones(POINTS, np.int32),
        mask=np.ones(POINTS, bool),
        images=images.copy(),
        depths=np.full((views, HEIGHT, WIDTH), _DEPTH, np.float32),
        pixel_mask=np.ones((views, HEIGHT, WIDTH), bool),
        viewmats=viewmats.astype(np.float32),
        Ks=np.broadcast_to(K, (views, 3, 3)).astype(np.float32),
    )


def _load(config):
    def made(split="train"):
        start = 0 if split == "train" else EXAMPLES
        return examples.in_memory([example(config, start + i) for i in range(EXAMPLES)])

    return data.Source(train=made, evaluate=made, class_names=())


def system(monkeypatch, **overrides):
    """The system over drawn examples."""
    monkeypatch.setattr(scene_data, "load", _load)
    return base.build(config(**overrides))


def batch(built, num: int = 8) -> dict:
    """The first ``num`` examples, stacked."""
    rows = list(built.eval_data("train"))[:num]
    return {name: jnp.asarray(np.stack([e[name] for e in rows])) for name in built.batch_spec}
