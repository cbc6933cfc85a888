"""What UniPre3D reads of scenes: points with colours and normals, posed RGB-D views.

Fields as at object level (``data.batch_spec``) but for ``normal`` [N, 3], the references' and targets'
``depths`` [V, H, W] in metres and ``pixel_mask`` [V, H, W]; pictures are opaque. Worlds have z up.
"""

import jax
import numpy as np

from gsjax.data import scene_sets, scenes
from gsjax.systems.unipre3d.data import Source, without_data


def batch_spec(config) -> dict[str, jax.ShapeDtypeStruct]:
    """One example: ``{field: ShapeDtypeStruct}``; the first ``data.references`` views are those."""
    d = config.data
    views, num = d.references + d.targets, d.num_points
    spec = dict(
        index=((), np.int32),
        valid=((), np.bool_),
        category=((), np.int32),
        xyz=((num, 3), np.float32),
        rgb=((num, 3), np.float32),
        normal=((num, 3), np.float32),
        parts=((num,), np.int32),
        mask=((num,), np.bool_),
        images=((views, d.height, d.width, 3), np.uint8),
        depths=((views, d.height, d.width), np.float32),
        pixel_mask=((views, d.height, d.width), np.bool_),
        viewmats=((views, 4, 4), np.float32),
        Ks=((views, 3, 3), np.float32),
    )
    return {name: jax.ShapeDtypeStruct(*item) for name, item in spec.items()}


def load(config) -> Source:
    """The source that ``config.data.name`` names.

    Raises:
        ValueError: settings that do not go together, or files that are absent.
    """
    d = config.data
    if d.references not in (0, d.targets):
        raise ValueError(
            f"data.references: found {d.references}; every supervised view has one reference: "
            f"expected {d.targets} (data.targets), or 0 without fusion"
        )
    if (config.model.fusion == "none") != (d.references == 0):
        raise ValueError(
            f"data.references: found {d.references} with model.fusion={config.model.fusion!r}; fusion "
            "'none' reads no picture and needs 0, any other needs data.targets"
        )
    if d.name == "shapes":
        return without_data(config)
    found = scene_sets.load(d)
    spec = scenes.SceneSpec(
        num_points=d.num_points,
        height=d.height,
        width=d.width,
        runs=d.targets,
        distance=d.distance,
        references=d.references > 0,
        voxel=d.thin or None,
        crop=d.crop,
    )

    def dataset(split, train):
        sides = dict(train=found.train, test=found.test)
        if split not in sides:
            raise ValueError(f"split: unknown {split!r}; known: train, test")
        made = scenes.scene_examples(sides[split], spec, seed=config.seed, train=train)
        return made.map(_fields)

    return Source(
        train=lambda: dataset("train", True),
        evaluate=lambda split: dataset(split, False),
        class_names=(),
        part_names=("", *found.labels),
    )


def _fields(example):
    """Fields of the batch; labels count from 1, 0 is unknown, as with parts of objects."""
    kept = ("index", "valid", "xyz", "normal", "mask", "images", "depths", "pixel_mask")
    return dict(
        {name: example[name] for name in (*kept, "viewmats", "Ks")},
        category=np.int32(0),
        rgb=example["rgb"].astype(np.float32) / 255,
        parts=(example["label"] + 1).astype(np.int32),
    )
