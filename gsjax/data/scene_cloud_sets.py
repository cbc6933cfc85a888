"""Sets of labelled scenes by name, their points alone: procedural rooms, S3DIS, ScanNet.

No picture is cast or read. A procedural room has the points that it has as a scene with frames
(``scene_sets``), whatever the frames: 'train' and 'test' here are the rooms of 'train' and 'test'
there. Imports no JAX.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from gsjax.data import clouds, npy, scene_arrays, scene_clouds, scene_sets, store
from gsjax.data.rooms import source as rooms

_FIELDS = ("xyz", "rgb", "normal", "label")


@dataclasses.dataclass(frozen=True)
class CloudSet:
    """Both sides of a set.

    Attributes:
        train, test: random access to scenes; 'test' is the side that published results are of.
        labels: class names, in label order.
    """

    train: Sequence[scene_clouds.CloudScene]
    test: Sequence[scene_clouds.CloudScene]
    labels: tuple[str, ...]


def load(data_config) -> CloudSet:
    """The set that ``data.name`` names.

    Args:
        data_config: with ``name`` and ``source``; for rooms also ``dir``, ``seed``, ``num_objects``,
            ``num_test`` and ``stored_points``; for s3dis ``held_out``, the number of the held-out area;
            for scannet ``labels``, 'segment20' or 'segment200'.

    Raises:
        ValueError: unknown set, one without labels, or no folder named.
        FileNotFoundError: the folder lacks what it should hold.
    """
    known = {"rooms": _rooms, "scannet": _scannet, "s3dis": _s3dis}
    name = data_config.name
    if name not in known:
        what = "has no labels" if name in scene_sets.NAMES else "unknown set of scenes"
        raise ValueError(f"data.name: {name!r} {what}; those with labels: {', '.join(known)}")
    return known[name](data_config)


def _rooms(d) -> CloudSet:
    # The least that a recording can be: points do not depend on frames.
    recipe = rooms.Recipe(num_frames=1, width=8, height=6, num_points=d.stored_points)
    points = (recipe.num_points, recipe.size, recipe.points_from)
    identity = json.dumps([d.seed, scene_sets.VERSION, *points])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    root = Path(os.fspath(store.cache_root(d.dir))) / "room_clouds" / digest
    counts = dict(train=d.num_objects, test=d.num_test or d.num_objects // 8 or 1)
    sides = [
        _stored(rooms.Rooms(count, seed=d.seed, split=side, recipe=recipe), root / side)
        for side, count in counts.items()
    ]
    return CloudSet(*sides, tuple(rooms.LABELS))


def _scannet(d) -> CloudSet:
    sides = [scene_arrays.scannet(_folder(d), split, labels=d.labels) for split in ("train", "val")]
    return CloudSet(*sides, sides[0].class_names)


def _s3dis(d) -> CloudSet:
    sides = [
        scene_arrays.s3dis(_folder(d), split, held_out=d.held_out) for split in ("train", "test")
    ]
    return CloudSet(*sides, sides[0].class_names)


def _folder(d) -> str:
    if d.source:
        return d.source
    root = os.environ.get("GSJAX_DATA", "")
    if not root:
        raise ValueError(
            f"data.source: the set {d.name} is read from a folder of arrays as Pointcept's preprocessing "
            "writes them; name it with --config.data.source=FOLDER, or set GSJAX_DATA"
        )
    return os.path.join(root, d.name)


def _stored(source: Sequence[scene_clouds.CloudScene], root: Path) -> list["StoredCloud"]:
    """Every scene's points as a file; those that are there are kept."""
    found = []
    for index in range(len(source)):
        scene, path = source[index], root / f"{index:06d}.npz"
        if not path.exists():
            write(scene.cloud(), path)
            if index % 16 == 15 or index == len(source) - 1:
                logging.info("scene_cloud_sets: %d scenes in %s", index + 1, root)
        found.append(StoredCloud(scene.name, path))
    return found


def write(cloud: clouds.Cloud, path: Path) -> None:
    """Writes the points of a scene; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **{name: getattr(cloud, name) for name in _FIELDS})
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class StoredCloud:
    """A ``scene_clouds.CloudScene`` whose points lie in a file of :func:`write`."""

    name: str
    path: Path

    def cloud(self) -> clouds.Cloud:
        """The points.

        Raises:
            ValueError: the file is missing or damaged.
        """
        try:
            return clouds.Cloud(*npy.load_all(self.path, _FIELDS))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.path}: missing or damaged ({error}); delete it, and it is made again"
            ) from error
