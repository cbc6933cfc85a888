"""Cameras from transforms.json: nerfstudio and instant-ngp, and Blender's NeRF-synthetic layout.

Matrices are camera-to-world with OpenGL camera axes (x right, y up, z backward) unless told
otherwise. Returned cameras are world-to-camera with OpenCV axes; the world itself is untouched.
Formats: docs.nerf.studio, "Data conventions"; NeRF (arXiv 2003.08934), its synthetic scenes.
Pixels are read by ``posed_pixels``, apart from headers where a file gives no picture size.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gsjax.io import json_text, point_cloud, posed, posed_checks, posed_pixels

AXES = {"opengl": np.diag([1.0, -1.0, -1.0, 1.0]), "opencv": np.eye(4)}
# Models that are pinhole cameras once the coefficients below vanish.
_PINHOLE_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_OTHER_MODELS = ("OPENCV_FISHEYE", "EQUIRECTANGULAR")
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_POSE_KEYS = ("transform_matrix", "camera_to_world")
_DEPTH_KEYS = ("depth_file_path", "depth_path")
_SPLITS = ("train", "val", "test")


@dataclasses.dataclass
class _Frame:
    """One entry of ``frames``."""

    written: str  # file_path as it stands
    path: Path
    viewmat: np.ndarray
    K: np.ndarray
    size: tuple[int, int]
    mask: Path | None
    depth: Path | None


def read(path: str | Path, *, axes: str | None = None) -> posed.PosedImages:
    """Reads one JSON file of cameras.

    Understood, for the whole file or a frame (which wins): ``fl_x fl_y cx cy w h``,
    ``camera_angle_x camera_angle_y``, ``camera_model`` and the lens coefficients, which must be
    (nearly) zero. A frame has ``file_path`` (relative to the file, extension optional),
    ``transform_matrix`` or ``camera_to_world``, and may have ``mask_path`` and ``depth_file_path``
    or ``depth_path``. The file may have ``ply_file_path``, ``applied_transform`` (already in the
    cameras and the points, kept for the way back), ``train_filenames`` and so on, ``convention``
    (text naming OpenGL or OpenCV) and ``depth_scale_m``. A missing size is read from the picture,
    a missing principal point is its middle, a single focal length serves both axes.

    Args:
      path: the file.
      axes: 'opengl', 'opencv', or None for what ``convention`` says, else OpenGL.

    Returns:
      The cameras; names are paths below the pictures' common folder. Only headers of pictures
      without a size are opened.

    Raises:
      FileNotFoundError: no such file, or pictures, masks, depth maps or the cloud are missing.
      ValueError: no JSON, no frames, missing keys, impossible cameras or poses, a lens that is no
        pinhole, or keys that only some frames have.
    """
    path = Path(path)
    meta = _load(path)
    frames = _frames(path, meta, _pick_axes(path, meta, axes))
    return _assemble(path, meta, frames, _named_splits(path, meta, frames))


def read_blender(folder: str | Path, *, axes: str | None = None) -> posed.PosedImages:
    """Reads ``transforms_train.json`` of a folder, and ``_val`` and ``_test`` where they exist.

    The files become the splits 'train', 'val' and 'test'; a photograph that several of them list
    is one, with its first pose. Arguments and errors: as ``read``.
    """
    folder = Path(folder)
    frames, splits, place, first = [], {}, {}, None
    for split in _SPLITS:
        path = folder / f"transforms_{split}.json"
        if split == "train" or path.is_file():
            meta = _load(path)
            first = first or meta
            found = _frames(path, meta, _pick_axes(path, meta, axes))
            # Many converted sets have one list as val and as test.
            new = [frame for frame in found if frame.path not in place]
            place |= {frame.path: len(frames) + i for i, frame in enumerate(new)}
            frames += new
            splits[split] = np.array([place[frame.path] for frame in found], np.int64)
    return _assemble(folder / "transforms_train.json", first, frames, splits)


def _load(path: Path) -> dict:
    meta = json_text.read(path)
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list):
        found = list(meta)[:8] if isinstance(meta, dict) else f"a {type(meta).__name__}"
        raise ValueError(f"{path}: expected an object with a list 'frames', found {found}")
    if not meta["frames"]:
        raise ValueError(f"{path}: 'frames' is empty; expected at least one photograph with a pose")
    return meta


def _pick_axes(path: Path, meta: Mapping, axes: str | None) -> np.ndarray:
    """Right factor [4, 4] that turns camera axes to OpenCV's."""
    if axes is None:
        said = str(meta.get("convention", "opengl")).lower()
        named = [name for name in AXES if name in said]
        if len(named) != 1:
            raise ValueError(
                f"{path}: convention: expected a text naming OpenGL or OpenCV axes, found {said!r};"
                f" pass axes= one of {sorted(AXES)}"
            )
        axes = named[0]
    if axes not in AXES:
        raise ValueError(f"axes: expected one of {sorted(AXES)}, found {axes!r}")
    return AXES[axes]


def _frames(path: Path, meta: Mapping, flip: np.ndarray) -> list[_Frame]:
    """Every frame; the pictures must exist."""
    written = []
    for i, frame in enumerate(meta["frames"]):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ValueError(f"{path}: frames[{i}]: expected an object with a text 'file_path'")
        written.append(frame["file_path"])
    images = [posed_pixels.with_known_suffix(_resolve(path, text)) for text in written]
    posed_checks.check_files(images, str(path))
    frames = []
    for text, image, frame in zip(written, images, meta["frames"], strict=True):
        key = next((key for key in _POSE_KEYS if key in frame), None)
        if key is None:
            raise ValueError(f"{path}: frame {text!r} has no pose; expected {_POSE_KEYS[0]!r}")
        pose = posed_checks.to_rigid(frame[key], text)
        both = {**meta, **frame}
        _check_model(both, text)
        matrix, size = _intrinsics(both, image, text)
        depth = next((frame[key] for key in _DEPTH_KEYS if frame.get(key)), None)
        mask = frame.get("mask_path")
        frames.append(
            _Frame(
                text,
                image,
                posed_checks.invert_rigid(pose @ flip),
                matrix,
                size,
                _resolve(path, mask) if mask else None,
                _resolve(path, depth) if depth else None,
            )
        )
    return frames


def _resolve(path: Path, text: str) -> Path:
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{path}: expected the name of a file, found {str(text)[:80]!r}")
    return Path(os.path.normpath(path.parent / text))


def _check_model(keys: Mapping, name: str):
    """Raises unless the lens is a pinhole's."""
    model = str(keys.get("camera_model", "OPENCV")).upper()
    if model in _OTHER_MODELS or keys.get("is_fisheye"):
        raise ValueError(
            f"camera of {name!r}: model {model if model in _OTHER_MODELS else 'fisheye'} is no "
            f"pinhole; {posed_checks.UNDISTORT}"
        )
    if model not in _PINHOLE_MODELS:
        raise ValueError(
            f"camera of {name!r}: unknown camera model {model!r}; known are "
            f"{list(_PINHOLE_MODELS + _OTHER_MODELS)}"
        )
    given = {key: _number(keys, key, name) for key in _DISTORTION if keys.get(key) is not None}
    posed_checks.check_distortion(given, model, name)


def _number(keys: Mapping, key: str, name: str) -> float | None:
    """The number under ``key``, or None where there is none."""
    value = keys.get(key)
    if value is None:
        return None
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    if not fine or not abs(value) < 2**63:  # NaN too; integers beyond float64 exist in JSON
        raise ValueError(
            f"camera of {name!r}: {key}: expected a finite number, found {str(value)[:80]!r}"
        )
    return float(value)


def _intrinsics(keys: Mapping, image: Path, name: str) -> tuple[np.ndarray, tuple[int, int]]:
    """(K [3, 3], (width, height)) from the merged keys of file and frame."""
    width, height = _number(keys, "w", name), _number(keys, "h", name)
    if width is None or height is None:
        width, height = posed_pixels.image_header(image)[:2]
    if width != int(width) or height != int(height):
        raise ValueError(
            f"camera of {name!r}: w, h: expected whole pixels, found {width} x {height}"
        )
    focal = {}
    for axis, extent in (("x", width), ("y", height)):
        angle = _number(keys, f"camera_angle_{axis}", name)
        if angle is not None and not 0 < angle < math.pi:
            raise ValueError(
                f"camera of {name!r}: camera_angle_{axis}: expected radians between 0 and pi, "
                f"found {angle}"
            )
        focal[axis] = _number(keys, f"fl_{axis}", name)
        if focal[axis] is None and angle is not None:
            focal[axis] = 0.5 * extent / math.tan(angle / 2)
    if focal["x"] is None and focal["y"] is None:
        raise ValueError(
            f"camera of {name!r}: no focal length; expected fl_x (pixels) or camera_angle_x "
            "(radians), in the file or the frame"
        )
    fx, fy = focal["x"] or focal["y"], focal["y"] or focal["x"]
    cx, cy = _number(keys, "cx", name), _number(keys, "cy", name)
    cx, cy = (width / 2 if cx is None else cx), (height / 2 if cy is None else cy)
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    posed_checks.check_intrinsics(matrix, int(width), int(height), name)
    return matrix, (int(width), int(height))


def _named_splits(path: Path, meta: Mapping, frames: list[_Frame]) -> dict | None:
    """{split: indices into ``frames``} from ``train_filenames`` and the like."""
    place = {_resolve(path, frame.written): i for i, frame in enumerate(frames)}
    splits = {}
    for split in _SPLITS:
        listed = meta.get(f"{split}_filenames")
        if listed is None:
            continue
        if not isinstance(listed, list):
            raise ValueError(f"{path}: {split}_filenames: expected a list, found {listed!r:.80}")
        unknown = [text for text in listed if _resolve(path, text) not in place]
        if unknown:
            raise ValueError(
                f"{path}: {split}_filenames: {len(unknown)} of {len(listed)} are in no frame: "
                f"{posed_checks.first_few(unknown)}"
            )
        splits[split] = np.array([place[_resolve(path, text)] for text in listed], np.int64)
    return splits or None


def _all_or_none(path: Path, frames: list[_Frame], field: str) -> tuple[Path, ...] | None:
    found = [getattr(frame, field) for frame in frames]
    if all(item is None for item in found):
        return None
    lacking = [frame.written for frame, item in zip(frames, found, strict=True) if item is None]
    if lacking:
        raise ValueError(
            f"{path}: {len(lacking)} of {len(frames)} frames have no {field} file while others "
            f"have: {posed_checks.first_few(lacking)}; give every frame one, or none"
        )
    posed_checks.check_files(found, str(path), field)
    return tuple(found)


def _applied_transform(path: Path, meta: Mapping) -> np.ndarray | None:
    if meta.get("applied_transform") is None:
        return None
    return posed_checks.to_rigid(meta["applied_transform"], f"applied_transform of {path}")


def _assemble(path: Path, meta: Mapping, frames: list[_Frame], splits) -> posed.PosedImages:
    points, colors = None, None
    if meta.get("ply_file_path"):
        cloud = _resolve(path, meta["ply_file_path"])
        posed_checks.check_files([cloud], str(path), "point cloud")
        points, colors = point_cloud.read(cloud)
    # Absolute: a relative folder may list pictures by absolute paths.
    places = [Path(os.path.abspath(frame.path)) for frame in frames]
    root = os.path.commonpath([place.parent for place in places])
    scale = _number(meta, "depth_scale_m", str(path))
    return posed.PosedImages.from_unsorted(
        names=[place.relative_to(root).as_posix() for place in places],
        splits=splits,
        image_paths=[frame.path for frame in frames],
        viewmats=[frame.viewmat for frame in frames],
        Ks=[frame.K for frame in frames],
        width=[frame.size[0] for frame in frames],
        height=[frame.size[1] for frame in frames],
        mask_paths=_all_or_none(path, frames, "mask"),
        depth_paths=_all_or_none(path, frames, "depth"),
        points=points,
        point_colors=colors,
        depth_scale=1e-3 if scale is None else scale,
        applied_transform=_applied_transform(path, meta),
    )
