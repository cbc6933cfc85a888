"""Gaussians from surface samples: thin oriented discs in farthest-point order. Imports no JAX."""

import numpy as np

from gsjax.data.features import SH_C0

# Standard deviation of a disc over the mean spacing of samples sqrt(area / M). Samples are random,
# so gaps reach twice the spacing; 0.7 closes them at opacity 0.95 and keeps edges within a pixel
# or two at the picture sizes used.
DISC_SIZE = 0.7
DISC_THICKNESS = 0.1  # third axis over the other two
_LIGHT = np.array([0.41, 0.82, 0.40])


def normals_to_quats(normals: np.ndarray) -> np.ndarray:
    """Unit quaternions [M, 4] wxyz that turn +z onto ``normals`` [M, 3] by the shortest way."""
    unit = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    x, y, z = unit.T
    # Half-way quaternion (1 + z, z-axis x n); at n = -z any axis in the plane will do.
    quats = np.stack([1 + z, -y, x, np.zeros_like(z)], -1)
    opposite = z < -1 + 1e-7
    quats[opposite] = (0.0, 1.0, 0.0, 0.0)
    return quats / np.linalg.norm(quats, axis=-1, keepdims=True)


def shaded(rgb: np.ndarray, normals: np.ndarray, amount: float) -> np.ndarray:
    """Colours [M, 3] darkened by up to ``amount`` where the surface turns from a fixed light.

    Both sides of a surface count alike: normals of found meshes do not always point outwards.
    """
    facing = np.abs(normals @ (_LIGHT / np.linalg.norm(_LIGHT)))
    return np.clip(rgb * (1 - amount + amount * facing[:, None]), 0, 1)


def farthest_point_order(points: np.ndarray, length: int | None = None) -> np.ndarray:
    """A permutation whose prefixes of up to ``length`` are farthest-point subsets.

    The first point is row 0, as in CLIP-GS and its parents; ties go to the lowest row. Rows past
    ``length`` keep their order.

    Args:
        points: [M, 3].
        length: how many to choose greedily; default all M.
    """
    count = len(points)
    length = count if length is None else min(length, count)
    x, y, z = np.ascontiguousarray(points.T, dtype=np.float32)
    order = np.zeros(count, np.int64)
    nearest = np.full(count, np.inf, np.float32)
    total, term = np.empty_like(nearest), np.empty_like(nearest)
    chosen = 0
    for i in range(length):
        order[i] = chosen
        np.subtract(x, x[chosen], out=total)
        np.multiply(total, total, out=total)
        for axis in (y, z):
            np.subtract(axis, axis[chosen], out=term)
            np.multiply(term, term, out=term)
            np.add(total, term, out=total)
        np.minimum(nearest, total, out=nearest)
        nearest[chosen] = -1.0
        chosen = int(nearest.argmax())
    taken = np.zeros(count, bool)
    taken[order[:length]] = True
    order[length:] = np.flatnonzero(~taken)
    return order


def from_surface(
    points: np.ndarray,
    normals: np.ndarray,
    rgb: np.ndarray,
    *,
    area: float,
    alpha: np.ndarray | float = 0.95,
    parts: np.ndarray | None = None,
    shade: float = 0.3,
    fps_length: int | None = None,
) -> dict[str, np.ndarray]:
    """Raw Gaussians of a sampled surface, in farthest-point order.

    The local +z axis of each disc is its normal, so ``transforms.disc_normals`` gives the normals
    back. Discs are sized by the density of samples: sqrt(area / M).

    Args:
        points: [M, 3], uniform by area.
        normals: [M, 3].
        rgb: [M, 3] in [0, 1].
        area: of the sampled surface.
        alpha: opacity, [M] or one number.
        parts: [M] labels, 0 = none.
        shade: strength of the shading baked into the colours, 0 = none.
        fps_length: see ``farthest_point_order``.

    Returns:
        ``means``, ``quats``, ``log_scales``, ``logit_opacities``, ``sh0``, ``parts``.
    """
    order = farthest_point_order(points, fps_length)
    count = len(points)
    size = DISC_SIZE * np.sqrt(max(area, 1e-12) / count)
    scales = np.array([size, size, size * DISC_THICKNESS])
    alpha = np.broadcast_to(np.asarray(alpha, np.float64), count)
    parts = np.zeros(count, np.uint8) if parts is None else parts
    colours = shaded(rgb, normals, shade)
    result = {
        "means": points.astype(np.float32),
        "quats": normals_to_quats(normals).astype(np.float32),
        "log_scales": np.broadcast_to(np.log(scales), (count, 3)).astype(np.float32),
        "logit_opacities": np.log(alpha / (1 - alpha)).astype(np.float32),
        "sh0": ((colours - 0.5) / SH_C0).astype(np.float32),
        "parts": parts,
    }
    return {name: value[order] for name, value in result.items()}
