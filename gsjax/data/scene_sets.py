"""Sets of scenes by name, with training and held-out sides: procedural rooms, recordings.

Procedural rooms are cast once and stored under the cache folder. Imports no JAX.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from gsjax.data import hololens_room, pictures, scannet, scene_labels, scene_store, scenes, store
from gsjax.data.rooms import source as rooms

NAMES = ("rooms", "hololens_room", "scannet")
SPLITS = ("train", "test")
VERSION = 1  # raise it when rooms change


@dataclasses.dataclass(frozen=True)
class SceneSet:
    """Both sides of a set.

    Attributes:
        train, test: random access to scenes.
        labels: class names; empty where points have none.
    """

    train: Sequence[scenes.Scene]
    test: Sequence[scenes.Scene]
    labels: tuple[str, ...]


def load(data_config) -> SceneSet:
    """The set that ``data.name`` names.

    Args:
        data_config: with ``name``, ``dir``, ``source``, ``seed``, ``height``, ``width``; for rooms
            ``num_objects``, ``num_test``, ``num_frames`` and ``stored_points``; for the recording
            ``draws``, fixed draws of frames on the held-out side; for scannet ``frames_source``.

    Raises:
        ValueError: unknown set, or one whose files are not named.
    """
    known = {"rooms": _rooms, "hololens_room": _hololens_room, "scannet": _scannet}
    if data_config.name not in known:
        raise ValueError(f"data.name: unknown set {data_config.name!r}; known: {', '.join(known)}")
    return known[data_config.name](data_config)


def _rooms(d) -> SceneSet:
    recipe = rooms.Recipe(
        num_frames=d.num_frames, width=d.width, height=d.height, num_points=d.stored_points
    )
    identity = dict(seed=d.seed, version=VERSION, **recipe.identity())
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    root = Path(os.fspath(store.cache_root(d.dir))) / "rooms" / digest
    memory = pictures.memory_of(d)
    sides = {
        side: scenes.Kept(_stored(root / side, count, d.seed, side, recipe), memory)
        for side, count in (
            ("train", d.num_objects),
            ("test", d.num_test or d.num_objects // 8 or 1),
        )
    }
    return SceneSet(sides["train"], sides["test"], tuple(rooms.LABELS))


def _stored(root: Path, count: int, seed: int, split: str, recipe) -> list:
    source = rooms.Rooms(count, seed=seed, split=split, recipe=recipe)
    stored = scene_store.write_all(source, root)
    return [stored[i] for i in range(count)]


def _hololens_room(d) -> SceneSet:
    root = d.source or default_source(d.name, "scenes")
    train = hololens_room.HololensRoom(root, "train")
    held = hololens_room.HololensRoom(root, "held_out")
    # One recording: several fixed draws of frames stand for several scenes.
    held = [Renamed(held, f"{held.name}/{i}") for i in range(d.draws)]
    return SceneSet(scenes.Kept([train]), scenes.Kept(held), ())


def _scannet(d) -> SceneSet:
    if not d.source or not d.frames_source:
        raise ValueError(
            "data.source, data.frames_source: the set scannet reads two folders, Pointcept's arrays and "
            "the raw frames; name both with --config.data.source=... --config.data.frames_source=..."
        )
    sides = [scannet.ScanNet(d.source, d.frames_source, split) for split in ("train", "val")]
    kept = [scenes.Kept(side, pictures.memory_of(d)) for side in sides]
    return SceneSet(*kept, scene_labels.SCANNET_20)


def default_source(name: str, folder: str) -> str:
    """``$GSJAX_DATA/<folder>/<name>``.

    Raises:
        ValueError: GSJAX_DATA is not set.
    """
    root = os.environ.get("GSJAX_DATA", "")
    if not root:
        raise ValueError(
            f"data.source: the set {name} reads a folder; name it with --config.data.source=FOLDER, or "
            "set GSJAX_DATA"
        )
    return os.path.join(root, folder, name)


class Renamed:
    """A scene under another name, by which evaluation draws its frames."""

    def __init__(self, scene, name: str):
        self._scene, self.name = scene, name

    def __getattr__(self, attribute):
        return getattr(self._scene, attribute)
