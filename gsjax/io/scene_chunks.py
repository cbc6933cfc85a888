"""Posed videos in the chunk files of pixelSplat, MVSplat and DepthSplat (RealEstate10K, ACID, DL3DV).

A folder holds ``index.json`` (scene -> chunk file) and chunks ``000000.torch``: what ``torch.save`` makes
of a list of dicts ``key`` (scene), ``url``, ``timestamps`` [n], ``cameras`` float32 [n, 18] and ``images``
(n uint8 tensors with the bytes of JPEG files). A row of ``cameras`` is fx, fy, cx, cy as shares of width
and height, two zeros, and the 3x4 **world-to-camera** matrix row by row, OpenCV axes (pixelSplat,
arXiv 2312.12337, its conversion scripts). The program in a chunk may make tensors and containers, nothing
else (``torch_pickle``); files are mapped, so that only what is used is read.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from gsjax.io import json_text, picture_file, posed_checks, torch_pickle

INDEX = "index.json"
COLUMNS = 18
FOCALS = (0.2, 3.0)  # plausible focal lengths as shares of the picture
ROTATION_TOLERANCE = 1e-3  # of the determinant and of R R^T
FARTHEST = 1e3  # units of the scene; DL3DV has scenes whose reconstruction failed


class SceneChunkError(ValueError):
    """A chunk, or a scene in it, that cannot be used; the message says which and why."""


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkScene:
    """One scene as it is stored, unchecked but for types and counts.

    Attributes:
        key: its name.
        url: where the video came from; may be empty.
        timestamps: int64 [n], microseconds in RealEstate10K; 0 .. n - 1 where the file has none.
        cameras: float32 [n, 18], see above.
        images: n uint8 [.] arrays, the bytes of the picture files.
    """

    key: str
    url: str
    timestamps: np.ndarray
    cameras: np.ndarray
    images: tuple[np.ndarray, ...]


def read(path) -> list[ChunkScene]:
    """The scenes of one chunk file.

    Args:
        path: local ``.torch`` file.

    Raises:
        SceneChunkError: no such file, the stream format of PyTorch before 1.6, damaged, anything
            beyond tensors and containers in it, or another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise SceneChunkError(
            f"{path}: there is no such chunk; get the file that {INDEX} names, or leave its scenes out "
            f"of {INDEX}"
        )
    with open(path, "rb") as stream:
        start = stream.read(4)
    if start != b"PK\x03\x04":
        raise SceneChunkError(
            f"{path}: not a zip archive: no PyTorch file, or one of the legacy stream format (before 1.6, "
            "_use_new_zipfile_serialization=False); load it with torch and save it again"
        )
    try:
        found = torch_pickle.read(path)
    except torch_pickle.TorchFileError as error:
        raise SceneChunkError(str(error)) from None
    if type(found) is not list:
        raise SceneChunkError(
            f"{path}: expected a list of scenes, found a {type(found).__name__}; is it a checkpoint?"
        )
    return [_scene(path, place, item) for place, item in enumerate(found)]


def _scene(path: Path, place: int, item) -> ChunkScene:
    where = f"{path}: scene {place}"
    missing = {"key", "cameras", "images"} - set(item) if type(item) is dict else {"a dict"}
    if missing:
        raise SceneChunkError(f"{where}: {', '.join(sorted(missing))} missing")
    key, images, cameras = item["key"], item["images"], item["cameras"]
    if type(key) is not str or not key:
        raise SceneChunkError(f"{where}: key: expected a name, found a {type(key).__name__}")
    where = f"{where} ({key[:80]!r})"
    if not isinstance(cameras, np.ndarray) or cameras.ndim != 2 or cameras.shape[1] != COLUMNS:
        found = list(getattr(cameras, "shape", ())) or type(cameras).__name__
        raise SceneChunkError(f"{where}: cameras: expected shape [n, {COLUMNS}], found {found}")
    if not isinstance(images, list | tuple) or len(images) != len(cameras):
        raise SceneChunkError(
            f"{where}: images: expected {len(cameras)} pictures, one a camera, found "
            f"{len(images) if isinstance(images, list | tuple) else type(images).__name__}"
        )
    for number, image in enumerate(images):
        bad = not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 1
        if bad or not image.size:
            raise SceneChunkError(
                f"{where}: image {number}: expected a uint8 tensor of one axis with the bytes of a JPEG "
                "file"
            )
    times = item.get("timestamps")
    times = np.arange(len(cameras)) if times is None else times
    if not isinstance(times, np.ndarray) or times.shape != (len(cameras),):
        raise SceneChunkError(f"{where}: timestamps: expected shape [{len(cameras)}]")
    url = item.get("url")
    return ChunkScene(
        key, url if type(url) is str else "", times.astype(np.int64), np.asarray(cameras, np.float32),
        tuple(images),
    )  # fmt: skip


def read_index(folder) -> dict[str, Path]:
    """Scene -> chunk file, in the order of ``index.json``.

    Raises:
        SceneChunkError: no such file, not such a mapping, a name that leaves the folder, or chunks that
            are not there.
    """
    folder = Path(folder)
    path = folder / INDEX
    if not path.is_file():
        raise SceneChunkError(
            f"{path}: there is no such file; name the folder of one split (train or test), which holds "
            f"{INDEX} beside its .torch files"
        )
    try:
        found = json_text.read(path)
    except ValueError as error:
        raise SceneChunkError(str(error)) from None
    if type(found) is not dict or not all(type(name) is str for name in found.values()):
        raise SceneChunkError(f"{path}: expected {{scene: chunk file}}")
    names = dict.fromkeys(found.values())
    for name in names:
        if not name or PurePosixPath(name).name != name or "\\" in name:
            raise SceneChunkError(f"{path}: {name[:80]!r} is no file name of this folder")
    absent = [name for name in names if not posed_checks.is_file(folder / name)]
    if absent:
        raise SceneChunkError(
            f"{path}: {len(absent)} of {len(names)} chunks are missing, the first is {absent[0]}; get "
            f"them, or leave their scenes out of {INDEX}"
        )
    return {scene: folder / name for scene, name in found.items()}


def parse_cameras(
    rows: np.ndarray, name: str, *, farthest: float = FARTHEST
) -> tuple[np.ndarray, np.ndarray]:
    """Cameras of a scene, checked.

    Args:
        rows: [n, 18] as stored.
        name: of the scene, for messages.
        farthest: coordinates of a world-to-camera translation may have at most this size.

    Returns:
        Ks float64 [n, 3, 3], **normalised**: row 0 in widths, row 1 in heights; viewmats float64
        [n, 4, 4], world to camera, each rotation moved to the nearest exact one.

    Raises:
        SceneChunkError: entries that are not finite, focal lengths that are no shares of a picture, a
            3x3 part that is no rotation, or a translation beyond ``farthest``.
    """
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or rows.shape[1] != COLUMNS or not len(rows):
        raise SceneChunkError(f"{name}: cameras: expected shape [n, {COLUMNS}], found {rows.shape}")
    _refuse(
        name, ~np.isfinite(rows).all(-1), "NaN or infinite entries; the frame was not registered"
    )
    low, high = FOCALS
    focal = rows[:, :2]
    _refuse(
        name, ~((focal > low) & (focal < high)).all(-1),
        f"focal lengths outside {low} to {high}; they must be shares of width and height, not pixels",
        focal,
    )  # fmt: skip
    _refuse(
        name, ~((rows[:, 2:4] > 0) & (rows[:, 2:4] < 1)).all(-1),
        "a principal point outside the picture; it must be a share of width and height", rows[:, 2:4],
    )  # fmt: skip
    _refuse(
        name, (rows[:, 4:6] != 0).any(-1), "columns 4 and 5 not zero: another layout of cameras",
        rows[:, 4:6],
    )  # fmt: skip
    pose = rows[:, 6:].reshape(-1, 3, 4)
    rotation, shift = pose[..., :3], pose[..., 3]
    determinant = np.linalg.det(rotation)
    off = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max((-1, -2))
    # Twice: the entries of R R^T change by twice what a scale changes its determinant's cube root by.
    skew = (np.abs(determinant - 1) >= ROTATION_TOLERANCE) | (off >= 2 * ROTATION_TOLERANCE)
    _refuse(
        name, skew, "a pose that is not rigid (determinant 1 expected); entries 6 to 17 must be the 3x4 "
        "world-to-camera matrix, row by row", determinant,
    )  # fmt: skip
    _refuse(
        name, np.abs(shift).max(-1) > farthest,
        f"a translation beyond {farthest:g}: the reconstruction failed", shift,
    )  # fmt: skip
    left, _, right = np.linalg.svd(rotation)
    viewmats = np.tile(np.eye(4), (len(rows), 1, 1))
    viewmats[:, :3, :3], viewmats[:, :3, 3] = left @ right, shift
    Ks = np.tile(np.eye(3), (len(rows), 1, 1))
    Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2] = rows[:, :4].T
    return Ks, viewmats


def _refuse(name: str, bad: np.ndarray, what: str, values: np.ndarray | None = None):
    if bad.any():
        first = int(bad.argmax())
        found = "" if values is None else f" (found {np.array2string(values[first], precision=4)})"
        raise SceneChunkError(
            f"{name}: {bad.sum()} of {len(bad)} cameras have {what}; the first is frame {first}{found}"
        )


def pack_cameras(Ks: np.ndarray, viewmats: np.ndarray) -> np.ndarray:
    """float32 [n, 18] rows of normalised Ks [n, 3, 3] and viewmats [n, 4, 4]; no skew is kept."""
    Ks, viewmats = np.asarray(Ks), np.asarray(viewmats)
    inner = np.stack([Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2]], -1)
    pose = viewmats[:, :3].reshape(-1, 12)
    return np.concatenate([inner, np.zeros((len(Ks), 2)), pose], -1).astype(np.float32)


def fields_of_view(Ks: np.ndarray) -> np.ndarray:
    """Horizontal and vertical angles of view in degrees, [..., 2], of normalised Ks [..., 3, 3]."""
    focal = np.stack([Ks[..., 0, 0], Ks[..., 1, 1]], -1)
    middle = np.stack([Ks[..., 0, 2], Ks[..., 1, 2]], -1)
    return np.rad2deg(np.arctan(middle / focal) + np.arctan((1 - middle) / focal))


def picture_size(data, name: str) -> tuple[int, int]:
    """(height, width) from the header of a picture file; its pixels are not decoded.

    Raises:
        SceneChunkError: the bytes are no picture.
    """
    try:
        with picture_file.opened(bytes(data), "file") as picture:
            return picture.height, picture.width
    except ValueError as error:
        raise SceneChunkError(f"{name}: {len(data)} bytes that are no picture ({error})") from None


def check_scene(
    scene: ChunkScene,
    *,
    size: tuple[int, int] | None = None,
    widest: float = 100.0,
    farthest: float = FARTHEST,
    decode: bool = False,
) -> Mapping[str, np.ndarray]:
    """A scene's cameras, if everything about it can be used.

    Args:
        scene: of :func:`read`.
        size: (height, width) that every picture must have; None = that of the first.
        widest: greatest angle of view, degrees (pixelSplat leaves out wider ones).
        farthest: see :func:`parse_cameras`.
        decode: read all pixels of all pictures too, not only their headers.

    Returns:
        ``Ks``, ``viewmats`` (as of :func:`parse_cameras`) and ``size`` int64 [2].

    Raises:
        SceneChunkError: the reason.
    """
    Ks, viewmats = parse_cameras(scene.cameras, scene.key, farthest=farthest)
    fov = fields_of_view(Ks).max(-1)
    _refuse(scene.key, fov > widest, f"an angle of view above {widest:g} degrees", fov)
    for number, image in enumerate(scene.images):
        name = f"{scene.key}: image {number}"
        found = picture_size(image, name)
        size = size or found
        if found != tuple(size):
            raise SceneChunkError(
                f"{name}: expected {size[0]} x {size[1]} (height x width), found {found}"
            )
        if decode:
            decode_picture(image, name)
    return {"Ks": Ks, "viewmats": viewmats, "size": np.array(size, np.int64)}


def decode_picture(data, name: str) -> np.ndarray:
    """Pixels uint8 [H, W, 3] of a picture file.

    Raises:
        SceneChunkError: damaged or cut short.
    """
    try:
        return picture_file.decoded(bytes(data), "file", "RGB")
    except ValueError as error:
        raise SceneChunkError(f"{name}: a damaged picture ({error}); get the file again") from None
