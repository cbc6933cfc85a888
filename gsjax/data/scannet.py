"""ScanNet v2 as scenes: Pointcept's preprocessed points with the raw colour, depth and pose frames.

Points, one folder a scene as Pointcept's preprocessing writes them, are read by ``scene_arrays``:
``<points_root>/<split>/<scene>/{coord,color,normal,segment20,segment200,instance}.npy``, or the older
``<points_root>/<split>/<scene>.pth`` (tensors only; read without running what it holds).
Frames, as the released UniPre3D code (arXiv 2506.09952) or the ScanNet exporter lays them out:
``<frames_root>/{color,depth,pose,intrinsic}/<scene>/`` or
``<frames_root>/<scene>/{color,depth,pose,intrinsic}/``, with ``N.jpg``, ``N.png`` (uint16
millimetres), ``N.txt`` (4x4 camera-to-world, OpenCV axes).

Intrinsics are each scene's own. ScanNet counts pixel centres at whole numbers, this package at +0.5.
Colour and depth have different intrinsics; depth is looked up along the rays of the colour picture's
pixels. Frames with non-finite poses (lost tracking) are dropped. z is up. Imports no JAX.
"""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from gsjax.data import clouds, scene_arrays, scene_labels
from gsjax.data.scenes import View, resized
from gsjax.io import picture_file, posed_checks

SPLITS = scene_arrays.SCANNET_SPLITS
_HALF = 0.5  # from pixel centres at whole numbers to centres at +0.5
_COLOR_SIZE, _DEPTH_SIZE = (1296, 968), (640, 480)  # what ScanNet's intrinsics files refer to


class ScanNet:
    """Scenes of one split that have points and frames; random access to ``ScanNetScene``.

    Args:
        points_root: folder of Pointcept's preprocessed arrays.
        frames_root: folder of the raw frames.
        split: 'train', 'val' or 'test'.
        labels: 'segment20' or 'segment200'.
        stride: every ``stride``-th frame is used.
        names: scenes to take; default: all of the split that both roots have.

    Raises:
        FileNotFoundError: a root lacks what it should hold; the message says what and where.
        ValueError: unknown split or labels.
    """

    def __init__(
        self,
        points_root: str | Path,
        frames_root: str | Path,
        split: str = "train",
        *,
        labels: str = "segment20",
        stride: int = 1,
        names: Sequence[str] | None = None,
    ):
        if labels not in scene_labels.SCANNET:
            raise ValueError(f"labels: expected 'segment20' or 'segment200', found {labels!r}")
        if stride < 1:
            raise ValueError(f"stride: expected 1 or more, found {stride}")
        points, self._frames_root = (
            scene_arrays.scannet_paths(points_root, split),
            Path(frames_root),
        )
        if not self._frames_root.is_dir():
            raise FileNotFoundError(f"frames_root: {self._frames_root} is no folder")
        missing = sorted(set(names or ()) - set(points))
        if missing:
            raise FileNotFoundError(
                f"names: not in {Path(points_root) / split}: {posed_checks.first_few(missing)}"
            )
        wanted = list(points) if names is None else list(names)
        self._scenes = []
        without = []
        for name in wanted:
            if frame_folder(self._frames_root, name, "color") is None:
                without.append(name)
            else:
                self._scenes.append((name, points[name]))
        if not self._scenes or (names is not None and without):
            raise FileNotFoundError(
                f"frames_root: no colour frames for {len(without)} of {len(wanted)} scenes "
                f"({posed_checks.first_few(without)}); expected "
                f"{self._frames_root}/color/<scene>/*.jpg or {self._frames_root}/<scene>/color/*.jpg"
            )
        if without:
            logging.info("ScanNet: %d scenes without frames left out", len(without))
        self._options = dict(labels=labels, stride=stride)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> "ScanNetScene":
        name, points = self._scenes[index]
        return ScanNetScene(name, points, self._frames_root, **self._options)


class ScanNetScene:
    """One scan; a ``scenes.Scene``. Files are looked at when asked for."""

    def __init__(self, name: str, points: Path, frames_root: Path, *, labels: str, stride: int):
        self.name = name
        self._path, self._root, self._labels, self._stride = points, frames_root, labels, stride

    @functools.cached_property
    def _frames(self) -> list[tuple[Path, Path, np.ndarray]]:
        """(picture, depth, viewmat) of the frames that have all three, in the order of numbers."""
        kinds = {"color": (".jpg", ".png"), "depth": (".png",), "pose": (".txt",)}
        files = {}
        for kind, suffixes in kinds.items():
            folder = frame_folder(self._root, self.name, kind)
            if folder is None:
                raise FileNotFoundError(
                    f"{self.name}: no folder of {kind} frames; expected "
                    f"{self._root}/{kind}/{self.name} or {self._root}/{self.name}/{kind}"
                )
            files[kind] = _numbered(folder, suffixes)
        common = sorted(set.intersection(*(set(found) for found in files.values())))
        if not common:
            counts = {kind: len(found) for kind, found in files.items()}
            raise FileNotFoundError(
                f"{self.name}: no frame has colour, depth and pose; found {counts}"
            )
        result, lost = [], 0
        for number in common[:: self._stride]:
            pose = _matrix(files["pose"][number])
            if not np.isfinite(pose).all():
                lost += 1
                continue
            rigid = posed_checks.to_rigid(pose, f"{self.name} frame {number}")
            viewmat = posed_checks.invert_rigid(rigid)
            result.append((files["color"][number], files["depth"][number], viewmat))
        if lost:
            logging.info("%s: %d frames without tracking dropped", self.name, lost)
        if not result:
            raise ValueError(f"{self.name}: none of {lost} frames has a finite pose")
        return result

    @property
    def num_frames(self) -> int:
        return len(self._frames)

    @property
    def viewmats(self) -> np.ndarray:
        return np.stack([frame[2] for frame in self._frames])

    def neighbours(self, frame: int) -> None:
        """Not known beforehand: frames close in time."""
        del frame

    @functools.cached_property
    def _intrinsics(self) -> tuple[np.ndarray, np.ndarray]:
        """K of colour and depth at ScanNet's own sizes, pixel centres at +0.5."""
        folder = frame_folder(self._root, self.name, "intrinsic")
        homes = [folder] if folder is not None else []
        homes += [self._root / self.name, self._root / "intrinsics" / self.name]
        tried = []
        matrices = []
        for kind in ("color", "depth"):
            names = (f"intrinsic_{kind}.txt", f"intrinsics_{kind}.txt")
            files = [home / name for home in homes for name in names]
            tried += files
            found = next((file for file in files if file.is_file()), None)
            if found is None:
                raise FileNotFoundError(
                    f"{self.name}: no intrinsics; looked for {posed_checks.first_few(tried)}. The "
                    "ScanNet exporter writes them with --export_intrinsics"
                )
            matrix = _matrix(found)[:3, :3].copy()
            matrix[:2, 2] += _HALF
            matrices.append(matrix)
        return matrices[0], matrices[1]

    def view(self, frame: int) -> View:
        """Frame 0 .. F - 1 at the stored size of its picture; pixels have no labels."""
        color, depth, viewmat = self._frames[frame]
        image = np.asarray(_open(color).convert("RGB"))
        raw = _depth(depth)
        K = _fitted(self._intrinsics[0], _COLOR_SIZE, image.shape)
        depth_K = _fitted(self._intrinsics[1], _DEPTH_SIZE, raw.shape)
        return View(image, depth_along(raw, depth_K, K, image.shape[:2]), None, viewmat, K)

    def sized_view(self, frame: int, height: int, width: int) -> View:
        """As ``scenes.resized(view(frame), height, width)``, without making the large picture.

        Depth and ``K`` are the same. Of a JPEG file whole blocks are decoded to 1/2, 1/4 or 1/8 of their pixels, as far
        as the size wanted allows (means over the block), and those are averaged by area: colours differ by
        little more than the rounding. Other files take the long way.
        """
        color, depth, viewmat = self._frames[frame]
        with picture_file.opened(color, str(color)) as picture:
            columns, rows = picture.size
            if height > rows or width > columns or (height, width) == (rows, columns):
                return resized(self.view(frame), height, width)
            drafted = picture.draft("RGB", (width, height))
            if drafted is None:  # another format
                return resized(self.view(frame), height, width)
            picture_file.load(picture, str(color))
            # Where the file's pixels end in what is decoded: its last blocks may be partly empty.
            small = _area_means(np.asarray(picture.convert("RGB")), height, width, drafted[1][2:])
        raw = _depth(depth)
        K = _fitted(self._intrinsics[0], _COLOR_SIZE, (rows, columns))
        depth_K = _fitted(self._intrinsics[1], _DEPTH_SIZE, raw.shape)
        # The source pixel that holds the centre of each new one, as scenes.resized chooses it.
        row = ((np.arange(height) + 0.5) * rows / height).astype(int)
        column = ((np.arange(width) + 0.5) * columns / width).astype(int)
        found = depth_at(raw, depth_K, K, *np.meshgrid(row, column, indexing="ij"))
        ratio = np.array([width / columns, height / rows, 1.0])
        return View(small, found, None, viewmat, K * ratio[:, None])

    def cloud(self) -> clouds.Cloud:
        """Pointcept's points; labels -1 where the split has none. See ``scene_arrays.read_cloud``."""
        classes = len(scene_labels.SCANNET[self._labels])
        reading = scene_arrays.Reading(self._labels, classes, need_labels=False)
        return scene_arrays.read_cloud(self._path, reading)


def frame_folder(root: Path, scene: str, kind: str) -> Path | None:
    """The folder of one kind of files of a scene, in either layout; None where there is none."""
    found = (root / kind / scene, root / scene / kind, root / scene / "frames" / kind)
    return next((folder for folder in found if folder.is_dir()), None)


def depth_along(
    depth: np.ndarray, depth_K: np.ndarray, K: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """A depth image [h, w] seen by another camera at the same place: float32 [H, W], nearest pixel.

    Args:
        depth: along the optical axis, 0 unknown.
        depth_K: [3, 3] of the depth image.
        K: [3, 3] of the picture wanted.
        shape: (H, W) of it.
    """
    return depth_at(depth, depth_K, K, *np.mgrid[: shape[0], : shape[1]])


def depth_at(
    depth: np.ndarray, depth_K: np.ndarray, K: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """As :func:`depth_along`, at some pixels alone: ``rows`` and ``columns`` int [...]. float32 [...]."""
    y, x = rows + 0.5, columns + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T @ depth_K.T
    column, row = np.floor(rays[..., 0]).astype(int), np.floor(rays[..., 1]).astype(int)
    inside = (column >= 0) & (column < depth.shape[1]) & (row >= 0) & (row < depth.shape[0])
    found = depth[np.where(inside, row, 0), np.where(inside, column, 0)]
    return np.where(inside, found, 0).astype(np.float32)


def _fitted(K: np.ndarray, size: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Intrinsics for the stored size of a picture."""
    return K * np.array([[shape[1] / size[0]], [shape[0] / size[1]], [1.0]])


def _numbered(folder: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """Files by the number in their name: ``000120.jpg``, ``120.jpg`` or ``frame-000120.color.jpg``."""
    found = {}
    for entry in os.scandir(folder):
        number = re.search(r"\d+", entry.name)
        if number and entry.name.lower().endswith(suffixes):
            found[int(number.group())] = Path(entry.path)
    return found


def _matrix(path: Path) -> np.ndarray:
    """A 4x4 matrix of numbers in text; ScanNet writes -inf for lost tracking."""
    try:
        values = np.array(path.read_text().split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers ({error})") from error
    if values.size not in (9, 16):
        raise ValueError(f"{path}: expected 16 numbers (4x4), found {values.size}")
    return values.reshape(4, 4) if values.size == 16 else values.reshape(3, 3)


def _area_means(
    image: np.ndarray, height: int, width: int, extent: tuple[float, float]
) -> np.ndarray:
    """uint8 [height, width, 3]: means over equal parts of the first ``extent`` (columns, rows) of an image.

    Pillow's box filter takes whole pixels, which at a ratio near 1 moves parts of the picture by half of one.
    """
    means = _means_along(_means_along(image, 0, height, extent[1]), 1, width, extent[0])
    return np.rint(means).astype(np.uint8)


def _means_along(values: np.ndarray, axis: int, parts: int, extent: float) -> np.ndarray:
    """Means over equal parts of [0, extent] of an axis whose pixel i fills [i, i + 1]; float64.

    By differences of the running sum, which between whole places is linear. (Not by a product of matrices:
    NumPy's threads would spend more time on waiting for one another than on this.)
    """
    values = np.moveaxis(values, axis, 0)
    total = np.concatenate(
        [np.zeros_like(values[:1], np.float64), np.cumsum(values, 0, np.float64)]
    )
    edges = np.linspace(0, extent, parts + 1)
    below = np.minimum(edges.astype(int), len(values) - 1)
    share = (edges - below).reshape(-1, *[1] * (values.ndim - 1))
    at_edges = total[below] + share * values[below]
    return np.moveaxis(np.diff(at_edges, axis=0) * (parts / extent), 0, axis)


def _depth(path: Path) -> np.ndarray:
    """float32 [h, w], metres."""
    raw = np.asarray(_open(path)).astype(np.float32) / 1000.0
    if raw.ndim != 2:
        raise ValueError(f"{path}: expected one channel of depth, found {list(raw.shape)}")
    return raw


def _open(path: Path) -> Image.Image:
    image = picture_file.opened(path, str(path))
    picture_file.load(image, str(path))
    return image
