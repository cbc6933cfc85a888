"""ShapeNet models with rendered views and points, in the layout of the released UniPre3D data.

``<root>/image/<synset>/<model>/easy/NN.png`` with ``NN.txt`` (4x4 camera-to-world, OpenCV axes) and
``<root>/image/<synset>/<model>/pts/*.npy`` (arXiv 2506.09952; its docs/DATA_PREPARATION.md). The number
of views is read from each model's folder. Nothing is skipped in silence: what a model lacks is said
when it is read, or when the set is opened with ``check=True``. Imports no JAX.
"""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from gsjax.data import npy
from gsjax.io import picture_file, posed_checks

SPLITS = {"train": 0.75, "val": 0.2, "test": 0.05}
FOV_DEGREES = 49.13434  # of the released renders: 35 mm lens on a 32 mm sensor
# Points have ShapeNet's axes, cameras the renderer's: (x, y, z) -> (-z, x, -y).
TO_RENDER_AXES = np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])


@dataclasses.dataclass(frozen=True, eq=False)
class RenderedModel:
    """One model.

    Attributes:
        name: ``<synset>/<model>``.
        category: place of its synset in ``ShapeNetRenders.synsets``.
        images: uint8 [V, H, W, 4], straight (unpremultiplied) alpha; opaque pictures have alpha 255.
        viewmats: float64 [V, 4, 4], world to camera, OpenCV axes.
        Ks: float64 [V, 3, 3] in pixels, pixel centres at +0.5.
        points: float32 [P, 3] in the cameras' world.
    """

    name: str
    category: int
    images: np.ndarray
    viewmats: np.ndarray
    Ks: np.ndarray
    points: np.ndarray


class ShapeNetRenders:
    """Random access to the models of one split.

    The split is the released one: all models in the order of their paths, shuffled with Python's
    generator seeded ``seed + 1``, cut at 75 % and 95 %.

    Args:
        root: folder that holds ``image``, or that folder itself.
        split: 'train', 'val', 'test', or 'all' (unshuffled).
        seed: of the shuffle.
        fov_degrees: horizontal angle of view of the renders.
        center: move the points' mean to the origin, as the released code does. The renders were made
            of centred models, so leave it on unless the points already share the cameras' world.
        check: look at every model's folder now and leave out incomplete ones (their number is
            logged), instead of raising when one is read.

    Raises:
        FileNotFoundError: the root lacks ``image`` or models; the message says what was looked for.
        ValueError: unknown split, or ``check`` leaves nothing.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        seed: int = 42,
        fov_degrees: float = FOV_DEGREES,
        center: bool = True,
        check: bool = False,
    ):
        if split not in (*SPLITS, "all"):
            raise ValueError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}, all")
        if not 0 < fov_degrees < 180:
            raise ValueError(f"fov_degrees: expected between 0 and 180, found {fov_degrees}")
        self.root = _image_folder(Path(root))
        names = _models(self.root)
        self.synsets = sorted({name.split("/")[0] for name in names})
        self._names = _split(names, split, seed)
        self._fov, self._center = fov_degrees, center
        if check:
            lacking = {name: what for name in self._names if (what := self.lacks(name))}
            if len(lacking) == len(self._names):
                raise ValueError(
                    f"{self.root}: no complete model; the first, {next(iter(lacking))}, lacks "
                    f"{next(iter(lacking.values()))}"
                )
            if lacking:
                logging.warning(
                    "%s: %d of %d models left out as incomplete: %s", self.root, len(lacking),
                    len(self._names), posed_checks.first_few(list(lacking)),
                )  # fmt: skip
            self._names = [name for name in self._names if name not in lacking]

    @property
    def names(self) -> Sequence[str]:
        """``<synset>/<model>`` of every model, in the order of this split."""
        return tuple(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def lacks(self, name: str) -> str:
        """What a model's folder lacks, or ''."""
        folder = self.root / name
        pictures, poses = _views(folder / "easy")
        if not pictures:
            return "easy/NN.png"
        if set(pictures) != set(poses):
            odd = sorted(set(pictures) ^ set(poses))
            return f"a picture or a pose of the views {', '.join(odd[:5])}"
        if not any((folder / "pts").glob("*.npy")):
            return "pts/*.npy"
        return ""

    def __getitem__(self, index: int) -> RenderedModel:
        """Reads a model.

        Raises:
            FileNotFoundError: its folder is incomplete.
            ValueError: a file is damaged or of another shape.
        """
        name = self._names[index]
        if what := self.lacks(name):
            raise FileNotFoundError(
                f"{self.root / name}: lacks {what}; unpack the archive again, or open the set with "
                "check=True to leave such models out"
            )
        folder = self.root / name
        pictures, poses = _views(folder / "easy")
        order = sorted(pictures)
        images = [_image(pictures[view]) for view in order]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"{folder}: views of different sizes")
        rigid = [posed_checks.to_rigid(_pose(poses[view]), f"{name}/{view}") for view in order]
        height, width = images[0].shape[:2]
        focal = 0.5 * width / np.tan(np.deg2rad(self._fov) / 2)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return RenderedModel(
            name,
            self.synsets.index(name.split("/")[0]),
            np.stack(images),
            posed_checks.invert_rigid(np.stack(rigid)),
            np.repeat(K[None], len(order), 0),
            self._points(sorted((folder / "pts").glob("*.npy"))[0]),
        )

    def _points(self, path: Path) -> np.ndarray:
        try:
            points = npy.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: unreadable or truncated array ({error})") from error
        if points.ndim != 2 or points.shape[1] < 3 or not len(points):
            raise ValueError(f"{path}: expected points [P, 3], found {list(points.shape)}")
        points = points[:, :3].astype(np.float64)
        if not np.isfinite(points).all():
            raise ValueError(f"{path}: NaN or infinite coordinates")
        if self._center:
            points = points - points.mean(0)
        return (points @ TO_RENDER_AXES.T).astype(np.float32)


def _image_folder(root: Path) -> Path:
    if (root / "image").is_dir():
        return root / "image"
    if root.name == "image" and root.is_dir():
        return root
    state = "is no folder" if not root.is_dir() else "has no folder 'image'"
    raise FileNotFoundError(
        f"root: {root} {state}; expected <root>/image/<synset>/<model>/easy/NN.png, as the merged "
        "archive unpacks"
    )


def _models(folder: Path) -> list[str]:
    """``<synset>/<model>`` in the order of paths: two levels, no deeper."""
    synsets = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    names = [
        f"{synset}/{entry.name}"
        for synset in synsets
        for entry in (folder / synset).iterdir()
        if entry.is_dir()
    ]
    if not names:
        raise FileNotFoundError(
            f"{folder}: no models; expected <synset>/<model>/easy below it, found "
            f"{posed_checks.first_few(synsets) or 'nothing'}"
        )
    return sorted(names)


def _split(names: list[str], split: str, seed: int) -> list[str]:
    if split == "all":
        return names
    names = list(names)
    random.Random(seed + 1).shuffle(names)
    train, val = (int(len(names) * SPLITS[part]) for part in ("train", "val"))
    cut = {"train": (0, train), "val": (train, train + val), "test": (train + val, len(names))}
    return names[slice(*cut[split])]


def _views(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Pictures and poses by their number, ``{'00': path}``."""
    files = list(folder.iterdir()) if folder.is_dir() else []
    pick = lambda suffix: {p.stem: p for p in files if p.suffix == suffix and p.stem.isdigit()}  # noqa: E731
    return pick(".png"), pick(".txt")


def _image(path: Path) -> np.ndarray:
    return picture_file.decoded(path, str(path), "RGBA")


def _pose(path: Path) -> np.ndarray:
    try:
        values = np.array(path.read_text().split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers ({error})") from error
    if values.size != 16:
        raise ValueError(f"{path}: expected 16 numbers (4x4 camera-to-world), found {values.size}")
    return values.reshape(4, 4)
