"""Labelled scenes as batches of points: rooms to learn from, some to choose settings by, held-out ones.

An example is a crop of a scene (``data.scene_clouds``), not a scene: training draws one anew for every
step, evaluation covers each scene and marks in ``scored`` which points count in which crop. Labels
count from 1, 0 is unknown, as at pre-training (``unipre3d.scene_data``) and with parts of objects.
"""

import functools

import jax
import numpy as np

from gsjax.data import label_splits, scene_cloud_sets, scene_clouds
from gsjax.systems.point_tasks.data import Source

TASK = "scenes"
_SPLIT_SEED = 20_26  # of the validation part; the same in every run, whatever the model's seed


def batch_spec(config) -> dict[str, jax.ShapeDtypeStruct]:
    """One example: ``{field: ShapeDtypeStruct}``; ``index`` is the scene's, the same for its crops."""
    num = config.data.num_points
    spec = dict(
        index=((), np.int32),
        valid=((), np.bool_),
        category=((), np.int32),
        xyz=((num, 3), np.float32),
        rgb=((num, 3), np.float32),
        normal=((num, 3), np.float32),
        parts=((num,), np.int32),
        mask=((num,), np.bool_),
        scored=((num,), np.bool_),
    )
    return {name: jax.ShapeDtypeStruct(*item) for name, item in spec.items()}


def load(config) -> Source:
    """The source that ``config.data.name`` names.

    Raises:
        ValueError: an unknown set, one without labels, or more scenes asked for than there are.
        FileNotFoundError: a folder lacks what it should hold.
    """
    d = config.data
    found = scene_cloud_sets.load(d)
    spec = scene_clouds.CloudSpec(d.num_points, d.thin or None, d.crop)
    learned, held = sides(len(found.train), d)

    def dataset(split, train):
        rows = dict(fit=(found.train, learned), val=(found.train, held), test=(found.test, None))
        if split not in rows:
            raise ValueError(f"split: unknown {split!r}; known: {', '.join(rows)}")
        scenes, chosen = rows[split]
        if not train:
            return scene_clouds.eval_examples(scenes, spec, seed=0, rows=chosen).map(_fields)
        return scene_clouds.train_examples(scenes, spec, seed=config.seed, rows=chosen).map(_fields)

    return Source(
        train=lambda: dataset("fit", True),
        evaluate=functools.partial(dataset, train=False),
        class_names=("", *found.labels),
        categories=("scene",),
        num_fit=len(learned),
    )


def sides(count: int, d) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``count`` training scenes are learned from, and which are held back.

    Scenes are one class: labels are of points. Smaller choices lie within larger ones, and neither
    depends on the seed of the model.

    Args:
        count: of the set's training scenes.
        d: ``config.data``, with ``validation``, ``fraction``, ``fraction_seed`` and ``fit_scenes`` (if
            above 0, this many scenes in place of a fraction).

    Returns:
        (learned from, held back), ascending rows.

    Raises:
        ValueError: shares out of range, or more scenes asked for than are left.
    """
    learned, held = label_splits.hold_back(np.zeros(count, int), d.validation, _SPLIT_SEED)
    if not 0 <= d.fit_scenes <= len(learned):
        raise ValueError(
            f"data.fit_scenes: expected 0 (data.fraction of them) to {len(learned)}, the scenes that "
            f"data.validation={d.validation} leaves of {count}; found {d.fit_scenes}"
        )
    share = d.fit_scenes / len(learned) if d.fit_scenes else d.fraction
    some = label_splits.fraction(np.zeros(len(learned), int), share, d.fraction_seed)
    return learned[some], held


def _fields(example):
    return dict(
        {name: example[name] for name in ("index", "valid", "xyz", "normal", "mask", "scored")},
        category=np.int32(0),
        rgb=example["rgb"].astype(np.float32) / 255,
        parts=(example["label"] + 1).astype(np.int32),
    )
