"""Scenes of labelled points alone, without pictures: S3DIS and ScanNet as Pointcept preprocesses them.

A scene is a folder of arrays, one row a point: ``coord.npy`` [P, 3] in metres (z up), ``color.npy``
[P, 3] 0 to 255, ``normal.npy`` [P, 3] and a class number a point, ``segment.npy`` (S3DIS),
``segment20.npy`` or ``segment200.npy`` (ScanNet), -1 where there is none. S3DIS: ``<root>/Area_<k>/<room>/``. ScanNet:
``<root>/<split>/<scene>/``, or the older ``<scene>.pth`` where it holds tensors only, which are read
without running the file. ScanNet with its frames is in ``scannet``, which reads points through this
file. Imports no JAX.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gsjax.data import clouds, npy, scene_labels
from gsjax.data.scenes import View
from gsjax.io import posed_checks, torch_pickle

# What the older .pth files call the arrays.
_ALIASES = {
    "coord": ("coord",),
    "color": ("color",),
    "normal": ("normal",),
    "segment": ("segment", "semantic_gt"),
    "segment20": ("segment20", "semantic_gt20"),
    "segment200": ("segment200", "semantic_gt200"),
}
S3DIS_AREAS = (1, 2, 3, 4, 5, 6)
SCANNET_SPLITS = ("train", "val", "test")
_SAVE_AGAIN = (
    "save them again as .npy files, one an array, in a folder of the scene's name (coord.npy, "
    "color.npy, normal.npy and the segments), as Pointcept's present preprocessing does"
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the arrays of a scene are read.

    Attributes:
        labels: the array of class numbers: 'segment', 'segment20' or 'segment200'.
        classes: class numbers are below this.
        need_labels: refuse scenes without that array; else their labels are ``clouds.NO_LABEL``.
        need_normals: refuse scenes without normals; else those are zeros.
    """

    labels: str
    classes: int
    need_labels: bool = True
    need_normals: bool = True


class ArrayScene:
    """One scene of points; a ``scenes.Scene`` without frames. The files are read when asked for."""

    num_frames = 0

    def __init__(self, name: str, path: Path, reading: Reading):
        self.name = name
        self._path, self._reading = path, reading

    @property
    def viewmats(self) -> np.ndarray:
        """[0, 4, 4]."""
        return np.zeros((0, 4, 4))

    def view(self, frame: int) -> View:
        """Raises ValueError: there are no frames."""
        raise ValueError(f"{self.name}: a scene of points alone has no frames, asked for {frame}")

    def neighbours(self, frame: int) -> None:
        """Nothing is known of frames."""
        del frame

    def cloud(self) -> clouds.Cloud:
        """The points; see :func:`read_cloud`."""
        return read_cloud(self._path, self._reading)


class ArrayScenes(Sequence):
    """Random access to scenes of points.

    Attributes:
        class_names: in label order.
    """

    def __init__(self, folders: Sequence[tuple[str, Path]], reading: Reading, class_names):
        self._folders, self._reading = list(folders), reading
        self.class_names: tuple[str, ...] = tuple(class_names)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scenes, in order."""
        return tuple(name for name, _ in self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, index: int) -> ArrayScene:
        name, path = self._folders[index]
        return ArrayScene(name, path, self._reading)


def s3dis(
    root: str | Path, split: str = "train", *, held_out: int = 5, normals: bool = True
) -> ArrayScenes:
    """Rooms of S3DIS with their 13 classes, ``Area_<k>/<room>``.

    Args:
        root: folder of the areas.
        split: 'train', all areas but one, or 'test', that one.
        held_out: number of that area; the published protocol holds out Area 5, and 6-fold results
            each in turn.
        normals: refuse rooms without normals (they are made with --parse_normal); False reads
            zeros for those.

    Raises:
        FileNotFoundError: an area is absent or holds no rooms, or a room lacks an array.
        ValueError: unknown split or area, or rooms kept in .pth files.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: unknown {split!r}; known: train, test")
    if held_out not in S3DIS_AREAS:
        raise ValueError(f"held_out: expected an area from 1 to 6, found {held_out}")
    root = Path(root)
    areas = [k for k in S3DIS_AREAS if (k == held_out) == (split == "test")]
    missing = [f"Area_{k}" for k in areas if not (root / f"Area_{k}").is_dir()]
    if missing:
        raise FileNotFoundError(
            f"root: {root} has no folder {', '.join(missing)}; expected <root>/Area_<1 to 6>/<room>/"
            "{coord,color,normal,segment}.npy, as Pointcept's S3DIS preprocessing writes it"
        )
    rooms = []
    for area in areas:
        folder = root / f"Area_{area}"
        pickles = sorted(folder.glob("*.pth"))
        found = sorted(path for path in folder.iterdir() if path.is_dir())
        unread = [path.name for path in pickles if not path.with_suffix("").is_dir()]
        if unread:
            raise ValueError(
                f"{folder}: rooms in .pth files ({posed_checks.first_few(unread)}), which are pickles "
                f"that would run code when read; {_SAVE_AGAIN}"
            )
        if not found:
            raise FileNotFoundError(f"{folder}: no rooms; expected {folder}/<room>/coord.npy")
        rooms += [(f"Area_{area}/{path.name}", path) for path in found]
    names = scene_labels.S3DIS_13
    return ArrayScenes(rooms, Reading("segment", len(names), need_normals=normals), names)


def scannet(
    root: str | Path, split: str = "train", *, labels: str = "segment20", normals: bool = True
) -> ArrayScenes:
    """Scenes of ScanNet v2 with 20 or 200 classes; 'test' has no labels.

    Args:
        root: folder of the splits.
        split: 'train', 'val' (the held-out side of published results) or 'test'.
        labels: 'segment20' or 'segment200'.
        normals: refuse scenes without normals; False reads zeros for those.

    Raises:
        FileNotFoundError: no such split, or no scenes.
        ValueError: unknown split or labels.
    """
    if labels not in scene_labels.SCANNET:
        raise ValueError(f"labels: unknown {labels!r}; known: {', '.join(scene_labels.SCANNET)}")
    names = scene_labels.SCANNET[labels]
    reading = Reading(labels, len(names), split != "test", normals)
    return ArrayScenes(scannet_paths(root, split).items(), reading, names)


def scannet_paths(points_root: str | Path, split: str) -> dict[str, Path]:
    """{scene: its folder or .pth file} of a split, in the order of names.

    Raises:
        FileNotFoundError: no such folder, or no scenes in it.
        ValueError: unknown split.
    """
    if split not in SCANNET_SPLITS:
        raise ValueError(f"split: unknown {split!r}; known: {', '.join(SCANNET_SPLITS)}")
    folder = Path(points_root) / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"points_root: {folder} is no folder; expected <points_root>/{split}/<scene>/coord.npy "
            "as Pointcept's ScanNet preprocessing writes it"
        )
    found = {
        path.stem if path.suffix == ".pth" else path.name: path
        for path in sorted(folder.iterdir())
        if path.is_dir() or path.suffix == ".pth"
    }
    if not found:
        raise FileNotFoundError(f"points_root: {folder} holds no scenes (folders or .pth files)")
    return found


def read_cloud(path: Path, reading: Reading) -> clouds.Cloud:
    """The points of one scene.

    Args:
        path: its folder of arrays, or .pth file.
        reading: which labels, and what may be absent.

    Raises:
        FileNotFoundError: an array is absent.
        ValueError: a file is damaged, a pickle of more than tensors, or an array has another shape,
            values that are not finite, or labels out of range; the message names it.
    """
    names = ("coord", "color", "normal", reading.labels)
    arrays = _from_pth(path, names) if path.suffix == ".pth" else _from_npy(path, names)
    needed = ["coord", "color"] + ["normal"] * reading.need_normals
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise FileNotFoundError(
            f"{path}: no {', '.join(missing)}; expected coord, color and normal as Pointcept's "
            "preprocessing writes them (normals are an option of it, --parse_normals or --parse_normal)"
        )
    if reading.need_labels and reading.labels not in arrays:
        raise FileNotFoundError(
            f"{path}: no {reading.labels}; expected a class number a point, as Pointcept's "
            "preprocessing writes them"
        )
    count = len(arrays["coord"])
    color = _columns(arrays["color"], count, f"{path}: color")
    if color.dtype.kind == "f" and color.size and color.min() < 0:
        color = (color + 1) * 127.5  # the oldest preprocessing wrote -1 to 1
    normal = arrays.get("normal", np.zeros((count, 3), np.float32))
    return clouds.Cloud(
        _columns(arrays["coord"], count, f"{path}: coord").astype(np.float32),
        np.clip(np.rint(color), 0, 255).astype(np.uint8),
        _columns(normal, count, f"{path}: normal").astype(np.float32),
        _labels(arrays.get(reading.labels), count, reading, path),
    )


def _columns(values: np.ndarray, count: int, source: str) -> np.ndarray:
    """Finite [P, 3] as they are."""
    values = np.asarray(values)
    if values.shape != (count, 3) or not count:
        raise ValueError(
            f"{source}: expected {[count or 'P', 3]}, a row a point of coord, found "
            f"{list(values.shape)}"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{source}: NaN or infinite values")
    return values


def _labels(values, count: int, reading: Reading, path: Path) -> np.ndarray:
    if values is None:
        return np.full(count, clouds.NO_LABEL, np.int32)
    values = np.asarray(values)
    if values.shape not in ((count,), (count, 1)) or values.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {reading.labels}: expected whole numbers [{count}], found {values.dtype} "
            f"{list(values.shape)}"
        )
    values = values.reshape(-1).astype(np.int64)
    outside = np.unique(values[(values < clouds.NO_LABEL) | (values >= reading.classes)])
    if len(outside):
        raise ValueError(
            f"{path}: {reading.labels}: expected -1 (none) to {reading.classes - 1}, found "
            f"{outside[:5].tolist()}"
        )
    return values.astype(np.int32)


def _from_npy(folder: Path, names) -> dict[str, np.ndarray]:
    arrays = {}
    for name in names:
        file = folder / f"{name}.npy"
        if file.is_file():
            try:
                arrays[name] = npy.load(file)
            except (OSError, ValueError) as error:
                raise ValueError(f"{file}: unreadable or truncated array ({error})") from error
    return arrays


def _from_pth(path: Path, names) -> dict[str, np.ndarray]:
    try:
        found = torch_pickle.read(path)
    except torch_pickle.TorchFileError as error:
        raise ValueError(
            f"{error}. Scenes saved with NumPy arrays in a .pth file would run code when read; "
            f"{_SAVE_AGAIN}"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a dict of arrays, found {type(found).__name__}")
    spelled = {
        name: next((alias for alias in _ALIASES[name] if alias in found), "") for name in names
    }
    return {name: np.asarray(found[alias]) for name, alias in spelled.items() if alias}
