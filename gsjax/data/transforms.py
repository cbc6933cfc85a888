"""Per-object steps of the input pipeline on NumPy arrays: size, axes, pruning, colour.

Every function takes and returns a dict of Gaussian arrays (``means`` [N, 3], ``quats`` [N, 4] wxyz,
``log_scales`` [N, 3], ``logit_opacities`` [N], ``sh0`` [N, 3], others with N rows) and leaves its
input as it was. Normalisation and augmentation are not here: they run on the device.
Imports no JAX.
"""

from collections.abc import Mapping

import numpy as np

# A padding row: at the origin, far smaller and fainter than anything real, but finite.
PADDING = {"quats": (1.0, 0.0, 0.0, 0.0), "log_scales": -10.0, "logit_opacities": -20.0}

# Rotation (wxyz) that takes each up axis to +y. Proper rotations only: exchanging two axes is a
# reflection, which no quaternion can express.
_HALF = np.sqrt(0.5)
UP_ROTATIONS = {
    "y": (1.0, 0.0, 0.0, 0.0),
    "-y": (0.0, 1.0, 0.0, 0.0),
    "z": (_HALF, -_HALF, 0.0, 0.0),  # (x, y, z) -> (x, z, -y)
    "-z": (_HALF, _HALF, 0.0, 0.0),
    "x": (_HALF, 0.0, 0.0, _HALF),
    "-x": (_HALF, 0.0, 0.0, -_HALF),
}


def choose(
    count: int,
    num_points: int,
    *,
    rng: np.random.Generator | None,
    short: str,
    anchors: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to take so that there are exactly ``num_points``.

    More than enough: the first ``anchors`` rows and a random subset of the others without
    replacement (the first rows where ``rng`` is None). Of rows in farthest-point order the anchors
    are the first farthest points of the subset too: each was farthest among more points.
    Too few: every row once, then ``short='repeat'`` draws the rest again with replacement
    (CLIP-GS follows Uni3D here), ``short='pad'`` leaves them empty.

    Args:
        count: M, rows there are.
        num_points: N, rows wanted.
        rng: source of the draw, or None for the first rows.
        short: 'repeat' or 'pad'.
        anchors: how many of the first rows are always taken, in their order.

    Returns:
        rows int64 [N] and mask bool [N]; where the mask is False the row is padding.

    Raises:
        ValueError: there are no rows, or an unknown ``short``.
    """
    if count < 1:
        raise ValueError("choose: the object has no Gaussians; drop it when the set is prepared")
    if short not in ("repeat", "pad"):
        raise ValueError(f"short: expected 'repeat' or 'pad', found {short!r}")
    if count >= num_points:
        rows = np.arange(count)
        if rng is not None:
            anchors = min(anchors, num_points)
            rows[anchors:] = anchors + rng.permutation(count - anchors)
        return rows[:num_points], np.ones(num_points, bool)
    missing = num_points - count
    if short == "pad":
        extra = np.zeros(missing, np.int64)
    elif rng is None:
        extra = np.arange(missing) % count
    else:
        extra = rng.integers(count, size=missing)
    rows = np.concatenate([np.arange(count), extra])
    return rows, (np.arange(num_points) < count) | (short == "repeat")


def take(
    gaussians: Mapping[str, np.ndarray], rows: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Rows of every array, with padding values where ``mask`` [N] is False; adds ``mask``."""
    result = {}
    for name, value in gaussians.items():
        taken = value[rows]
        if not mask.all():
            taken[~mask] = PADDING.get(name, 0)
        result[name] = taken
    return {**result, "mask": mask}


def to_float32(gaussians: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Half-precision arrays as float32; other types unchanged."""
    return {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in gaussians.items()
    }


def rotate(gaussians: Mapping[str, np.ndarray], quat) -> dict[str, np.ndarray]:
    """Rotates positions and orientations by a unit quaternion ``quat`` [4] wxyz."""
    quat = np.asarray(quat, np.float64)
    means = gaussians["means"].astype(np.float64) @ rotmats(quat).T
    quats = multiply(quat, gaussians["quats"].astype(np.float64))
    return {
        **gaussians,
        "means": means.astype(gaussians["means"].dtype),
        "quats": quats.astype(gaussians["quats"].dtype),
    }


def to_y_up(gaussians: Mapping[str, np.ndarray], up_axis: str) -> dict[str, np.ndarray]:
    """Turns an object whose up is ``up_axis`` so that up is +y.

    Raises:
        ValueError: unknown axis.
    """
    if up_axis not in UP_ROTATIONS:
        raise ValueError(f"up_axis: unknown {up_axis!r}; known: {sorted(UP_ROTATIONS)}")
    if up_axis == "y":
        return dict(gaussians)
    return rotate(gaussians, UP_ROTATIONS[up_axis])


def prune(gaussians: Mapping[str, np.ndarray], min_alpha: float) -> dict[str, np.ndarray]:
    """Drops Gaussians fainter than ``min_alpha``; keeps the most opaque one in any case."""
    alphas = 1 / (1 + np.exp(-gaussians["logit_opacities"].astype(np.float64)))
    keep = alphas >= min_alpha
    keep[np.argmax(alphas)] = True
    return {name: value[keep] for name, value in gaussians.items()}


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product of quaternions [..., 4] wxyz: first ``b``, then ``a``."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def rotmats(quats: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4] wxyz."""
    w, x, y, z = np.moveaxis(quats, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def disc_normals(quats: np.ndarray) -> np.ndarray:
    """Outward normals [..., 3] of surface discs: the local +z axis of ``quats`` [..., 4]."""
    quats = np.asarray(quats, np.float32)
    quats = quats / np.linalg.norm(quats, axis=-1, keepdims=True)
    return rotmats(quats)[..., 2]
