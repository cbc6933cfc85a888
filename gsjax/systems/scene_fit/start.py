"""The first Gaussians of a fit, on the host: from points, or from nothing but the cameras.

A point cloud (structure from motion, samples of a mesh) tells where the surface is. Without one,
Gaussians start anywhere that cameras look, with the colour of the pixel they lie behind.
"""

import numpy as np
from scipy import spatial

from gsjax.core import sh
from gsjax.data import discs

_MIN_DISTANCE = 1e-7**0.5  # 3DGS: squared distances of at least 1e-7


def neighbor_distance(points: np.ndarray, k: int = 3) -> np.ndarray:
    """[M] root mean squared distance to the k nearest other points (3DGS)."""
    k = min(k, len(points) - 1)
    if k < 1:
        return np.full(len(points), 1.0)
    distances = spatial.cKDTree(points).query(points, k + 1)[0][:, 1:]
    return np.maximum(np.sqrt(np.mean(distances**2, -1)), _MIN_DISTANCE)


def from_points(
    points: np.ndarray,
    rgb: np.ndarray,
    num: int,
    *,
    sh_degree: int,
    opacity: float,
    scale: float,
    used: int | None = None,
    normals: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Gaussians at points: balls, or discs where normals are known.

    Args:
      points: [M, 3] world units, rgb: [M, 3] in [0, 1].
      num: N rows of the result.
      sh_degree: of the colours; bands above 0 start at zero.
      opacity: of all.
      scale: standard deviation in units of the distance to neighbours.
      used: how many of the rows become Gaussians; None is all N.
      normals: [M, 3] of the surface that the points lie on: Gaussians are discs across them, a tenth
        as thick, and copies shrink with the square root of their number, not the cube root.
      seed: of the choice among too many points, or of jittered copies of too few.

    Returns:
      params of N rows, and alive [N].

    Raises:
      ValueError: no points, or not finite.
    """
    points, rgb = np.asarray(points, np.float64), np.asarray(rgb, np.float64)
    used = num if used is None else used
    if len(points) == 0 or points.shape[-1:] != (3,) or points.shape != rgb.shape:
        raise ValueError(
            f"points, rgb: found shapes {points.shape} and {rgb.shape}, expected [M, 3] of both "
            "with M >= 1"
        )
    if not (np.isfinite(points).all() and np.isfinite(rgb).all()):
        raise ValueError("points, rgb: found values that are not finite; leave those points out")
    rng = np.random.default_rng(seed)
    size, chosen, shift = neighbor_distance(points), np.arange(len(points)), 0.0
    if len(points) > used:
        chosen = rng.permutation(len(points))[:used]
        size = neighbor_distance(points[chosen])
    elif len(points) < used:
        chosen = np.arange(used) % len(points)
        jitter = rng.normal(size=(used, 3)) * (np.arange(used) >= len(points))[:, None]
        if normals is not None:  # within the surface
            across = np.asarray(normals)[chosen]
            jitter -= np.sum(jitter * across, -1, keepdims=True) * across
        shrink = (len(points) / used) ** (1 / 3 if normals is None else 1 / 2)
        shift = 0.5 * size[chosen, None] * jitter
        size = size[chosen] * shrink
    params, alive = _filled(
        points[chosen] + shift, rgb[chosen], size * scale, opacity, num, sh_degree
    )
    if normals is not None:
        params["quats"][: len(chosen)] = discs.normals_to_quats(np.asarray(normals)[chosen])
        params["log_scales"][: len(chosen), 2] += np.log(discs.DISC_THICKNESS)
    return params, alive


def _filled(points, rgb, size, opacity, num, degree):
    used = len(points)
    alive = np.arange(num) < used

    def rows(values, rest):
        out = np.full((num, *values.shape[1:]), rest, np.float32)
        out[:used] = values
        return out

    quats = np.zeros((num, 4), np.float32)
    quats[:, 0] = 1
    params = {
        "means": rows(points, 0.0),
        "log_scales": rows(np.log(np.repeat(size[:, None], 3, 1)), -10.0),
        "quats": quats,
        "logit_opacities": np.full(num, np.log(opacity / (1 - opacity)), np.float32),
        "sh0": rows((rgb[:, None] - 0.5) / 0.28209479177387814, 0.0),
        "shN": np.zeros((num, sh.num_coeffs(degree) - 1, 3), np.float32),
    }
    return params, alive


def focus(viewmats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The point nearest to all viewing axes (least squares), and its depth [V] in each camera."""
    viewmats = np.asarray(viewmats, np.float64)
    rotation, shift = viewmats[:, :3, :3], viewmats[:, :3, 3]
    centers = -np.einsum("vji,vj->vi", rotation, shift)
    axes = rotation[:, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None]
    right = np.einsum("vij,vj->i", across, centers)
    point = np.linalg.lstsq(across.sum(0), right, rcond=None)[0]
    return point, np.einsum("vj,vj->v", axes, point - centers)


def frustum_points(
    viewmats: np.ndarray, Ks: np.ndarray, images: np.ndarray, num: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Random points that the cameras look at, with the colour of the pixel they lie behind.

    Depths are uniform in disparity between a third and three times the distance of the point that
    the cameras look at (or of the cameras from one another, where they look apart).

    Args:
      viewmats: [V, 4, 4], Ks: [V, 3, 3], images: uint8 [V, H, W, 3 or 4], num: M, seed.

    Returns:
      points [M, 3], rgb [M, 3] in [0, 1].
    """
    rng = np.random.default_rng(seed)
    viewmats, Ks = np.asarray(viewmats, np.float64), np.asarray(Ks, np.float64)
    _, depth = focus(viewmats)
    centers = -np.einsum("vji,vj->vi", viewmats[:, :3, :3], viewmats[:, :3, 3])
    spread = np.linalg.norm(centers - centers.mean(0), axis=-1).max()
    depth = np.where(depth > 0.05 * spread, depth, max(spread, 1e-3))
    count, height, width = images.shape[:3]
    view = rng.integers(count, size=num)
    column, line = rng.integers(width, size=num), rng.integers(height, size=num)
    z = depth[view] / rng.uniform(1 / 3, 3, num)
    pixel = np.stack([column + 0.5, line + 0.5, np.ones(num)], -1)
    rays = np.linalg.solve(Ks[view], pixel[..., None])[..., 0] * z[:, None]
    points = centers[view] + np.einsum("nji,nj->ni", viewmats[view, :3, :3], rays)
    return points, images[view, line, column, :3] / 255.0
