"""Scenes on disk: one folder of .npy files a scene, read frame by frame without decoding.

Casting a procedural room or fusing a recording takes seconds, reading a stored frame under a
millisecond, so sets that are gone through many times are written once. A folder holds ``scene.json``
(name, format, F), ``images`` uint8 [F, H, W, 3], ``depths`` float32 [F, H, W], ``semantic`` int16
[F, H, W] where known, ``viewmats`` and ``Ks`` float64, and the cloud's ``xyz``, ``rgb``, ``normal``
and ``label``. Imports no JAX.
"""

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from gsjax.data import clouds, npy, scenes
from gsjax.io import json_text

FORMAT = 1
_META = "scene.json"
_CLOUD = ("xyz", "rgb", "normal", "label")


def write(scene: scenes.Scene, folder: str | Path) -> Path:
    """Writes one scene; the folder appears when it is whole.

    Args:
        scene: its views must have one size.
        folder: must not exist.

    Returns:
        ``folder``.

    Raises:
        FileExistsError: it exists, or another process made it meanwhile.
        ValueError: views of different sizes, or labels on some views only.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"folder: {folder} exists; delete it, or choose another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".making-{folder.name}-"))
    try:
        views = [scene.view(i) for i in range(scene.num_frames)]
        sizes = {view.image.shape for view in views}
        labelled = {view.label is not None for view in views}
        if len(sizes) > 1 or len(labelled) > 1:
            raise ValueError(
                f"{scene.name}: views of sizes {sorted(sizes)}, labelled {sorted(labelled)}; expected "
                "one size, and labels on all views or none"
            )
        arrays = {
            "images": np.stack([view.image for view in views]),
            "depths": np.stack([view.depth for view in views]).astype(np.float32),
            "viewmats": np.stack([view.viewmat for view in views]).astype(np.float64),
            "Ks": np.stack([view.K for view in views]).astype(np.float64),
        }
        if labelled == {True}:
            arrays["semantic"] = np.stack([view.label for view in views]).astype(np.int16)
        cloud = scene.cloud()
        arrays |= {name: getattr(cloud, name) for name in _CLOUD}
        for name, array in arrays.items():
            np.save(scratch / f"{name}.npy", array)
        near = [scene.neighbours(i) for i in range(scene.num_frames)]
        meta = {
            "format": FORMAT,
            "name": scene.name,
            "num_frames": scene.num_frames,
            "neighbours": None
            if any(n is None for n in near)
            else [list(map(int, n)) for n in near],
        }
        (scratch / _META).write_text(json.dumps(meta))
        os.chmod(scratch, 0o755)
        try:
            os.rename(scratch, folder)
        except OSError as error:
            if folder.exists():
                raise FileExistsError(f"folder: {folder} appeared while it was written") from error
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def write_all(source: Sequence[scenes.Scene], root: str | Path) -> "StoredScenes":
    """Writes every scene of a set to ``<root>/000000`` and so on; those that are there are kept.

    Several processes may write the same set at once: of each scene the first that is whole counts.

    Raises:
        ValueError: a folder holds another scene than the set's.
    """
    root = Path(root)
    for index in range(len(source)):
        folder, scene = root / f"{index:06d}", source[index]
        if not folder.exists():
            try:
                write(scene, folder)
                logging.info("scene_store: wrote %s to %s", scene.name, folder)
            except FileExistsError:
                logging.info("scene_store: another process wrote %s", folder)
        if (found := StoredScene(folder).name) != scene.name:
            raise ValueError(
                f"root: {folder} holds scene {found!r}, not {scene.name!r}; choose another root"
            )
    return StoredScenes(root)


class StoredScenes:
    """All scenes below a folder, in the order of their folders' names.

    Raises:
        FileNotFoundError: none is there.
    """

    def __init__(self, root: str | Path):
        root = Path(root)
        found = sorted(root.iterdir()) if root.is_dir() else []
        self._folders = [p for p in found if (p / _META).is_file() and not p.name.startswith(".")]
        if not self._folders:
            raise FileNotFoundError(
                f"root: no stored scenes in {root}; write some with scene_store.write_all"
            )

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, index: int) -> "StoredScene":
        return StoredScene(self._folders[index])


class StoredScene:
    """One stored scene; a ``scenes.Scene`` whose frames are read from memory maps.

    Raises:
        ValueError: another format, or damaged.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        try:
            meta = json_text.read(self._folder / _META, dict)
            self.name, self._count = str(meta["name"]), meta["num_frames"]
            self._near, version = meta["neighbours"], meta["format"]
            self._check(self._count, self._near)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._folder}: no stored scene, or damaged ({error!r})") from error
        if version != FORMAT:
            raise ValueError(
                f"{self._folder}: written in format {version}, this version reads {FORMAT}; write it "
                "again"
            )

    @staticmethod
    def _check(count, near) -> None:
        """Raises unless these are a number of frames, and for each the numbers of others, or None."""
        if type(count) is not int or count < 0:
            raise ValueError(f"num_frames: {count!r:.80}")
        rows = [] if near is None else near
        fine = near is None or (type(rows) is list and len(rows) == count)
        if not fine or not all(
            type(row) is list and all(type(f) is int and 0 <= f < count for f in row)
            for row in rows
        ):
            raise ValueError(f"neighbours: {near!r:.80}")

    def _map(self, name: str) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        try:
            return npy.load(path, mmap=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: missing or damaged ({error})") from error

    @functools.cached_property
    def _maps(self) -> dict[str, np.ndarray]:
        maps = {name: self._map(name) for name in ("images", "depths", "viewmats", "Ks")}
        if (self._folder / "semantic.npy").is_file():
            maps["semantic"] = self._map("semantic")
        wrong = {name: m.shape for name, m in maps.items() if m.shape[:1] != (self._count,)}
        if wrong:
            raise ValueError(f"{self._folder}: expected {self._count} frames, found {wrong}")
        return maps

    @property
    def num_frames(self) -> int:
        return self._count

    @property
    def viewmats(self) -> np.ndarray:
        return np.array(self._maps["viewmats"])

    def neighbours(self, frame: int) -> np.ndarray | None:
        """As the scene that was written knew them."""
        return None if self._near is None else np.array(self._near[frame], np.int64)

    def view(self, frame: int) -> scenes.View:
        maps = self._maps
        label = np.array(maps["semantic"][frame]) if "semantic" in maps else None
        image, depth, viewmat, K = (
            np.array(maps[name][frame]) for name in ("images", "depths", "viewmats", "Ks")
        )
        return scenes.View(image, depth, label, viewmat, K)

    def cloud(self) -> clouds.Cloud:
        return clouds.Cloud(*(np.array(self._map(name)) for name in _CLOUD))
