"""COLMAP models (cameras, images, points3D; binary or text), read and written by pycolmap.

COLMAP's poses are world-to-camera with OpenCV axes and its pixel centres lie at +0.5, so nothing is
converted. Only pinhole cameras pass; others are refused with the way out. pycolmap is an extra:
``pip install 'gsjax[colmap]'``. Observations (tracks) and rigs are neither kept nor written.
"""

import struct
from pathlib import Path

import numpy as np

from gsjax.io import posed, posed_checks

PINHOLE_MODELS = ("SIMPLE_PINHOLE", "PINHOLE")
# Pinhole cameras once the coefficients vanish: names of those, after the focal lengths and centre.
_RADIAL_MODELS = {
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
# COLMAP's numbers of the models, in order from 0, and how many parameters each has.
_BINARY_MODELS = {
    "SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8,
    "OPENCV_FISHEYE": 8, "FULL_OPENCV": 12, "FOV": 5, "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12, "RAD_TAN_THIN_PRISM_FISHEYE": 16,
}  # fmt: skip
_FILES = ("cameras", "images", "points3D")


def _pycolmap():
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError(
            "COLMAP models need pycolmap: pip install 'gsjax[colmap]' (or convert the model to a "
            "transforms.json)"
        ) from error
    return pycolmap


def find_model(path: str | Path) -> Path | None:
    """The folder that holds the model: ``path``, ``path/sparse/0`` or ``path/sparse``, or None."""
    for folder in (Path(path), Path(path) / "sparse" / "0", Path(path) / "sparse"):
        if any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return folder
    return None


def read(path: str | Path, *, images: str | Path | None = None) -> posed.PosedImages:
    """Reads a model; photographs that were not registered are left out.

    Args:
      path: folder of the model, or one with ``sparse/0`` or ``sparse`` in it.
      images: folder of the photographs; by default ``images`` in the folder of the model or in one
        of the two above it. Where that folder has a sister ``masks``, it must hold
        ``<name>.png`` for every photograph (with or without the photograph's own extension).

    Returns:
      The cameras; points and their colours in the order of their COLMAP numbers.

    Raises:
      ImportError: pycolmap is not installed.
      FileNotFoundError: no model, no folder of photographs, or photographs missing.
      ValueError: damaged files, unknown or distorted camera models, or nothing registered.
    """
    pycolmap = _pycolmap()
    folder = find_model(path)
    if folder is None:
        raise FileNotFoundError(
            f"{path}: no COLMAP model; expected cameras.bin or cameras.txt there or in sparse/0"
        )
    suffix = ".bin" if (folder / "cameras.bin").is_file() else ".txt"
    posed_checks.check_files([folder / f"{name}{suffix}" for name in _FILES], str(folder), "model")
    _check_model_files(folder)
    try:
        model = pycolmap.Reconstruction()
        (model.read_binary if suffix == ".bin" else model.read_text)(str(folder))
    except (ValueError, RuntimeError, MemoryError, IndexError) as error:
        raise ValueError(f"{folder}: truncated or damaged COLMAP model ({error})") from error
    shots = [shot for shot in model.images.values() if shot.has_pose]
    if not shots:
        raise ValueError(
            f"{folder}: none of its {len(model.images)} photographs has a pose; run colmap mapper"
        )
    root = _images_folder(folder, images)
    names = [shot.name for shot in shots]
    posed_checks.check_names(names, str(folder))
    paths = [root / name for name in names]
    posed_checks.check_files(paths, str(folder))
    cameras = {i: _pinhole(camera, folder) for i, camera in model.cameras.items()}
    bottom = [[0.0, 0.0, 0.0, 1.0]]
    poses = [np.concatenate([shot.cam_from_world().matrix(), bottom]) for shot in shots]
    points = [model.points3D[i] for i in sorted(model.points3D)]
    return posed.PosedImages.from_unsorted(
        names=names,
        image_paths=paths,
        viewmats=[posed_checks.to_rigid(p, n) for p, n in zip(poses, names, strict=True)],
        Ks=[cameras[shot.camera_id] for shot in shots],
        width=[model.cameras[shot.camera_id].width for shot in shots],
        height=[model.cameras[shot.camera_id].height for shot in shots],
        mask_paths=_masks(root, names),
        points=np.array([point.xyz for point in points], np.float64) if points else None,
        point_colors=np.array([point.color for point in points], np.uint8) if points else None,
    )


def _images_folder(folder: Path, images: str | Path | None) -> Path:
    if images is not None:
        if not Path(images).is_dir():
            raise FileNotFoundError(f"images: no folder {images}")
        return Path(images)
    absolute = folder.resolve()
    tried = [place / "images" for place in (absolute, *absolute.parents[:2])]
    found = next((place for place in tried if place.is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder}: no folder of photographs at {', '.join(map(str, tried))}; put it there, or "
            "pass images= to colmap.read"
        )
    return found


def _masks(root: Path, names: list[str]) -> tuple[Path, ...] | None:
    folder = root.with_name("masks")
    if not folder.is_dir():
        return None
    paths = []
    for name in names:
        whole = folder / f"{name}.png"  # COLMAP's own rule
        paths.append(whole if whole.is_file() else (folder / name).with_suffix(".png"))
    posed_checks.check_files(paths, str(folder), "mask")
    return tuple(paths)


def _check_model_files(folder: Path):
    """Refuses what pycolmap does not name, or reads without a word (short files), or forever."""
    if (folder / "cameras.bin").is_file():
        for name, skip in zip(_FILES, (_skip_camera, _skip_image, _skip_point), strict=True):
            _walk(folder / f"{name}.bin", skip)
        return
    path = folder / "cameras.txt"
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            if len(words) < 5:
                raise ValueError(f"{path}: truncated: camera line {line!r}")
            _known_model(words[1], path)
    _check_text_names(folder / "images.txt")


def _check_text_names(path: Path):
    """Refuses names with spaces, which readers of the text format cut at the first one."""
    spaced, of_image = [], True
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.lstrip().startswith("#") or (of_image and not line.strip()):
            continue
        # Number, quaternion, translation, camera, name; then a line of observations, maybe empty.
        words = line.split(maxsplit=9)
        if of_image and len(words) == 10 and len(words[9].split()) > 1:
            spaced.append(words[9].rstrip())
        of_image = not of_image
    if spaced:
        raise ValueError(
            f"{path}: COLMAP's text format has no room for spaces in names, found "
            f"{posed_checks.first_few(spaced)}; write the model in binary form (where it was made: "
            "colmap model_converter --output_type BIN), or rename the photographs"
        )


def _walk(path: Path, skip):
    """Goes through the records of a binary file, which must fill it exactly.

    ``skip(data, offset, path)`` gives the offset behind a record.
    """
    data, offset = path.read_bytes(), 8
    try:
        (count,) = struct.unpack_from("<Q", data)
        for _ in range(count):
            offset = skip(data, offset, path)
            if offset > len(data):
                raise struct.error("a record is cut off")
    except struct.error as error:
        raise ValueError(f"{path}: truncated: {len(data)} bytes ({error})") from error
    if offset != len(data):
        raise ValueError(f"{path}: {len(data) - offset} bytes longer than its {count} records")


def _skip_camera(data: bytes, offset: int, path: Path) -> int:
    (model,) = struct.unpack_from("<i", data, offset + 4)
    order = list(_BINARY_MODELS)
    name = order[model] if 0 <= model < len(order) else f"number {model}"
    _known_model(name, path)
    return offset + 24 + 8 * _BINARY_MODELS[name]  # ids, width and height; parameters


def _skip_image(data: bytes, offset: int, path: Path) -> int:
    end = data.find(b"\0", offset + 64)  # id, pose, camera; the name ends with a zero
    if end < 0:
        raise struct.error("a name is cut off")
    (observations,) = struct.unpack_from("<Q", data, end + 1)
    return end + 9 + 24 * observations


def _skip_point(data: bytes, offset: int, path: Path) -> int:
    (track,) = struct.unpack_from("<Q", data, offset + 43)  # id, position, colour, error
    return offset + 51 + 8 * track


def _known_model(name: str, path: Path):
    if name not in _BINARY_MODELS:
        raise ValueError(
            f"{path}: unknown camera model {name}; known are {list(_BINARY_MODELS)}, of which "
            f"{list(PINHOLE_MODELS)} can be rendered as they are"
        )


def _pinhole(camera, folder: Path) -> np.ndarray:
    """K [3, 3] of a pycolmap camera."""
    name, model = f"{folder}, camera {camera.camera_id}", camera.model.name
    params = [float(value) for value in camera.params]
    if model not in PINHOLE_MODELS and model not in _RADIAL_MODELS:
        raise ValueError(
            f"camera of {name!r}: model {model} is no pinhole; {posed_checks.UNDISTORT}"
        )
    used = 3 if model in _ONE_FOCAL else 4
    lens = dict(zip(_RADIAL_MODELS.get(model, ()), params[used:], strict=True))
    posed_checks.check_distortion(lens, model, name)
    fx, fy = params[0], params[used - 3]
    cx, cy = params[used - 2 : used]
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    posed_checks.check_intrinsics(matrix, camera.width, camera.height, name)
    return matrix


def write_model(path: str | Path, images: posed.PosedImages, *, binary: bool = True) -> Path:
    """Writes cameras, poses and points as a COLMAP model; photographs are not copied.

    Photographs of equal size and intrinsics share a PINHOLE camera. Names are those of ``images``,
    relative to its folder of photographs. Points have no observations, black where no colours.

    Args:
      path: folder of the model (``scene/sparse/0`` for ``load_posed('scene')``), made if missing.
      images: what to write.
      binary: .bin files, else text.

    Returns:
      ``path``.

    Raises:
      ImportError: pycolmap is not installed.
      ValueError: ``Ks`` with skew, which COLMAP's pinhole camera does not have, or names with spaces
        in the text format.
    """
    pycolmap = _pycolmap()
    path = Path(path)
    skew = np.flatnonzero(np.abs(images.Ks[:, 0, 1]) > 0)
    if len(skew):
        raise ValueError(
            f"Ks: {images.names[skew[0]]!r} has skew {images.Ks[skew[0], 0, 1]:g}, which COLMAP's "
            "PINHOLE model lacks; expected Ks[:, 0, 1] = 0"
        )
    spaced = [name for name in images.names if len(name.split()) != 1]
    if spaced and not binary:
        raise ValueError(
            f"names: COLMAP's text format has no room for spaces, found "
            f"{posed_checks.first_few(spaced)}; pass binary=True"
        )
    model, numbers = pycolmap.Reconstruction(), {}
    for i, name in enumerate(images.names):
        matrix = images.Ks[i]
        params = tuple(float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
        key = (int(images.width[i]), int(images.height[i]), params)
        if key not in numbers:
            numbers[key] = len(numbers) + 1
            model.add_camera_with_trivial_rig(
                pycolmap.Camera(
                    camera_id=numbers[key], model="PINHOLE",
                    width=key[0], height=key[1], params=list(params),
                )
            )  # fmt: skip
        pose = images.viewmats[i]
        rigid = pycolmap.Rigid3d(pycolmap.Rotation3d(pose[:3, :3].copy()), pose[:3, 3].copy())
        shot = pycolmap.Image(name=name, camera_id=numbers[key], image_id=i + 1)
        model.add_image_with_trivial_frame(shot, rigid)
    points = images.points if images.points is not None else np.zeros((0, 3))
    colors = images.point_colors
    colors = np.zeros(points.shape, np.uint8) if colors is None else colors
    for point, color in zip(points, colors, strict=True):
        model.add_point3D(np.asarray(point, np.float64), pycolmap.Track(), color)
    path.mkdir(parents=True, exist_ok=True)
    (model.write_binary if binary else model.write_text)(str(path))
    return path
