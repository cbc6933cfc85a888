"""Checks of posed photographs: files, poses, intrinsics, lens distortion, direction of view.

Every function takes plain arrays or paths and raises ValueError that says what was found where and
what to do about it. Reading files is the business of ``posed``, ``nerf_json`` and ``colmap``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Matrices printed with a few digits miss a rotation by about 1e-4; a wrong one misses it by far.
ROTATION_TOLERANCE = 1e-3
# At the corner of a 90 degree picture a coefficient this small moves a pixel by f * 1e-6.
DISTORTION_TOLERANCE = 1e-6
# Share of the cameras, and of the points of each, that must lie behind for the axes to be suspect.
BEHIND_SHARE = 0.9
# Viewing lines "meet" where their distance from the common point is below this share of the
# distance to the cameras; otherwise the point says nothing about the direction of view.
MEETING_SHARE = 0.3
MAX_NAMED = 3
MOST_PIXELS = 1 << 20  # a side of a photograph
# What to do with photographs through a lens: the way out of three messages.
UNDISTORT = (
    "undistort the photographs first. With a COLMAP model (ns-process-data leaves one in "
    "colmap/sparse/0 beside transforms.json): colmap image_undistorter --image_path images "
    "--input_path colmap/sparse/0 --output_path undistorted, then load the folder undistorted. "
    "Without one: any tool, such as OpenCV's undistort, then set the coefficients in the file to 0"
)


def first_few(names: Sequence) -> str:
    """At most three names, then how many more there are."""
    shown = ", ".join(repr(str(name)) for name in names[:MAX_NAMED])
    return shown + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def is_file(path: Path) -> bool:
    """Whether there is such a file; names that no file can have are those of none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def check_files(paths: Sequence[Path], source: str, kind: str = "image"):
    """Raises FileNotFoundError where some of the files do not exist; names up to three."""
    missing = [path for path in paths if not is_file(path)]
    if missing:
        raise FileNotFoundError(
            f"{source}: {len(missing)} of {len(paths)} {kind} files are missing: "
            f"{first_few(missing)}; restore them, or remove their entries"
        )


def check_names(names: Sequence[str], source: str):
    """Raises where there are no photographs or two of the same name."""
    if not names:
        raise ValueError(f"{source}: it lists no photographs; expected at least one with a pose")
    doubles = sorted({name for name in names if names.count(name) > 1}) if _doubles(names) else []
    if doubles:
        raise ValueError(f"{source}: listed more than once: {first_few(doubles)}")


def _doubles(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def to_rigid(matrix, name: str) -> np.ndarray:
    """A pose as a 4x4 rigid motion, its rotation moved to the nearest exact one.

    Args:
      matrix: [3, 4] or [4, 4] nested lists or array.
      name: of the photograph, for messages.

    Returns:
      [4, 4] float64.

    Raises:
      ValueError: wrong shape, NaN or infinite entries, a last row other than 0 0 0 1, or a 3x3 part
        that scales, shears or mirrors.
    """
    try:
        found = np.asarray(matrix, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"pose of {name!r}: expected a 4x4 matrix of numbers") from error
    if found.shape not in ((3, 4), (4, 4)):
        raise ValueError(
            f"pose of {name!r}: expected shape [3, 4] or [4, 4], found {list(found.shape)}"
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"pose of {name!r}: NaN or infinite entries; the camera was probably not registered, "
            "remove its entry"
        )
    if found.shape == (4, 4) and np.abs(found[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise ValueError(
            f"pose of {name!r}: expected the last row 0 0 0 1, found {found[3].tolist()}; "
            "is the matrix transposed?"
        )
    left, singular, right = np.linalg.svd(found[:3, :3])
    determinant = np.linalg.det(left @ right)
    if np.abs(singular - 1).max() > ROTATION_TOLERANCE or determinant < 0:
        if np.ptp(singular) < ROTATION_TOLERANCE * singular.max():
            what = f"it scales by {singular[0]:.6g}; divide its 3x3 part by that"
        else:
            what = f"its singular values are {np.array2string(singular, precision=4)}"
        if determinant < 0:
            what += "; it mirrors (determinant below 0): one axis has the wrong sign"
        raise ValueError(f"pose of {name!r}: the 3x3 part is no rotation: {what}")
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = left @ right, found[:3, 3]
    return rigid


def invert_rigid(pose: np.ndarray) -> np.ndarray:
    """Inverse of rigid motions [..., 4, 4]: camera-to-world <-> world-to-camera."""
    inverse = np.zeros_like(pose)
    rotation = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, pose[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def check_intrinsics(matrix: np.ndarray, width: int, height: int, name: str):
    """Raises unless [3, 3] ``matrix`` is a pinhole camera's and the size is positive."""
    if not (1 <= width <= MOST_PIXELS and 1 <= height <= MOST_PIXELS):
        raise ValueError(
            f"camera of {name!r}: expected a positive size, found {width} x {height} pixels (a side "
            f"has at most {MOST_PIXELS})"
        )
    if matrix[2].tolist() != [0, 0, 1] or matrix[1, 0] != 0:
        raise ValueError(
            f"camera of {name!r}: Ks: expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]], found "
            f"{matrix.tolist()}"
        )
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise ValueError(
            f"camera of {name!r}: expected finite, positive focal lengths in pixels, found "
            f"fx {matrix[0, 0]:g}, fy {matrix[1, 1]:g}, cx {matrix[0, 2]:g}, cy {matrix[1, 2]:g}"
        )


def check_distortion(coefficients: dict[str, float], model: str, name: str):
    """Raises where a lens coefficient is not (nearly) zero: photographs are read as pinhole ones.

    ``gsjax.rasterize`` draws distorted cameras (radial_coeffs, tangential_coeffs); what is read for
    a fit has no place for them.
    """
    found = {k: v for k, v in coefficients.items() if not abs(v) <= DISTORTION_TOLERANCE}
    if found:
        listed = ", ".join(f"{key} = {value:g}" for key, value in found.items())
        raise ValueError(
            f"camera of {name!r}: model {model} has lens distortion ({listed}); gsjax fit takes "
            "photographs of pinhole cameras alone (gsjax.rasterize itself draws distorted cameras "
            f"by radial_coeffs and tangential_coeffs): {UNDISTORT}"
        )


def meeting_point(centers: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, float]:
    """The point closest to all lines, in the sense of least squares.

    Args:
      centers: [V, 3] points on the lines.
      directions: [V, 3] unit vectors.

    Returns:
      The point [3] and the root mean square of its distances from the lines. Parallel lines have no
      such point: the distance is then infinite.
    """
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]  # projects off each line
    normal = across.sum(axis=0)
    if np.linalg.eigvalsh(normal)[0] < 1e-6 * len(centers):
        return np.zeros(3), np.inf
    point = np.linalg.solve(normal, np.einsum("vij,vj->i", across, centers))
    off = np.einsum("vij,vj->vi", across, point - centers)
    return point, float(np.sqrt((off**2).sum(axis=1).mean()))


def check_points_in_front(viewmats: np.ndarray, points: np.ndarray | None, source: str):
    """Raises where nearly the whole scene lies behind nearly all cameras.

    With ``points`` a camera is suspect where 90 % of them are behind it. Without, the point where
    the viewing lines come closest to each other stands for the scene, provided that they do meet:
    cameras in a row that look the same way decide nothing. Cameras that stand close together and
    look outwards (a panorama) cannot be told from cameras around an object with wrong axes.

    Args:
      viewmats: [V, 4, 4] world-to-camera, OpenCV axes (z forward).
      points: [M, 3] or None.
      source: file name for messages.

    Raises:
      ValueError: the axes convention looks wrong.
    """
    rotations, shifts = viewmats[:, :3, :3], viewmats[:, :3, 3]
    if points is not None and len(points):
        some = points[:: max(1, len(points) // 4096)]
        depths = some @ rotations[:, 2].T + shifts[:, 2]  # [M, V]
        behind = (depths < 0).mean(axis=0) > BEHIND_SHARE
        scene = "the scene's points lie"
    else:
        centers = invert_rigid(viewmats)[:, :3, 3]
        point, off = meeting_point(centers, rotations[:, 2])
        reach = np.median(np.linalg.norm(point - centers, axis=1))
        if len(viewmats) < 3 or not off < MEETING_SHARE * reach:
            return
        behind = rotations[:, 2] @ point + shifts[:, 2] < 0
        scene = "the point that the viewing lines meet in lies"
    if behind.mean() > BEHIND_SHARE:
        raise ValueError(
            f"{source}: {scene} behind {behind.sum()} of {len(behind)} cameras: the axes "
            "convention looks wrong. transforms.json is read with OpenGL camera axes (y up, z "
            "backward) unless axes='opencv' says otherwise (and 'opengl' the reverse). If the "
            "cameras do look away from there, as in a panorama, pass check_axes=False"
        )
