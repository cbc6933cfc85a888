"""Point clouds of scenes: from depth images, thinned to a grid, cropped to a fixed number.

Arrays alone; cameras are (viewmat [4, 4] world to camera with OpenCV axes, K [3, 3] in pixels with
pixel centres at +0.5), depth is metres along the optical axis with 0 for unknown. Imports no JAX.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

NO_LABEL = -1
CROPS = ("random", "sphere", "box")


@dataclasses.dataclass(frozen=True, eq=False)
class Cloud:
    """Coloured points of a scene.

    Attributes:
        xyz: float32 [P, 3], metres.
        rgb: uint8 [P, 3].
        normal: float32 [P, 3], unit; zeros where unknown.
        label: int32 [P], class of each point; ``NO_LABEL`` where unknown.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    normal: np.ndarray
    label: np.ndarray

    def __post_init__(self):
        count = len(self.xyz)
        for name, trailing in (("xyz", (3,)), ("rgb", (3,)), ("normal", (3,)), ("label", ())):
            found = np.shape(getattr(self, name))
            if found != (count, *trailing):
                raise ValueError(
                    f"Cloud.{name}: expected shape {[count, *trailing]}, found {list(found)}"
                )

    def __len__(self) -> int:
        return len(self.xyz)

    def take(self, rows) -> "Cloud":
        """The points of these rows (any index of numpy)."""
        return Cloud(self.xyz[rows], self.rgb[rows], self.normal[rows], self.label[rows])


def back_project(depth: np.ndarray, viewmat: np.ndarray, K: np.ndarray) -> np.ndarray:
    """World points [H, W, 3] float64 of the pixel centres of a depth image [H, W]."""
    height, width = depth.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    points = rays * np.asarray(depth, np.float64)[..., None]
    rotation = np.asarray(viewmat, np.float64)[:3, :3]
    return (points - np.asarray(viewmat, np.float64)[:3, 3]) @ rotation


def project(
    points: np.ndarray, viewmat: np.ndarray, K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [..., 2] and depths [...] of world points [..., 3]; pixels of depth <= 0 mean nothing."""
    camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    pixels = camera @ K.T
    depth = camera[..., 2]
    return pixels[..., :2] / np.where(depth == 0, 1e-12, depth)[..., None], depth


def strided(K: np.ndarray, stride: int) -> np.ndarray:
    """Intrinsics of a picture of which every ``stride``-th row and column is kept, from the first."""
    result = np.array(K, np.float64)
    result[:2] /= stride
    result[:2, 2] += 0.5 - 0.5 / stride
    return result


def depth_normals(
    depth: np.ndarray, viewmat: np.ndarray, K: np.ndarray, *, jump: float = 0.05
) -> np.ndarray:
    """Normals of the surface in a depth image, from neighbouring pixels.

    Args:
        depth: [H, W], 0 unknown.
        viewmat, K: the camera.
        jump: a pixel has no normal where a neighbour is nearer or farther by more than this share
            of its depth (an edge between two surfaces).

    Returns:
        float32 [H, W, 3] in world axes, unit, towards the camera; zeros where unknown, which the
        outermost pixels are.
    """
    points = back_project(depth, viewmat, K)
    across, down = np.zeros_like(points), np.zeros_like(points)
    across[:, 1:-1] = points[:, 2:] - points[:, :-2]
    down[1:-1] = points[2:] - points[:-2]
    normals = np.cross(down, across)  # x right, y down: this order faces the camera
    length = np.linalg.norm(normals, axis=-1)
    fine = np.zeros(depth.shape, bool)
    near = np.stack([depth[1:-1, 2:], depth[1:-1, :-2], depth[2:, 1:-1], depth[:-2, 1:-1]])
    middle = depth[1:-1, 1:-1]
    smooth = (np.abs(near - middle) <= jump * middle).all(0)
    fine[1:-1, 1:-1] = (middle > 0) & (near > 0).all(0) & smooth & (length[1:-1, 1:-1] > 0)
    unit = normals / np.where(length > 0, length, 1)[..., None]
    return np.where(fine[..., None], unit, 0).astype(np.float32)


def fuse(
    frames: Iterable, *, voxel: float, stride: int = 1, max_depth: float = np.inf, least: int = 1
) -> Cloud:
    """One cloud from posed pictures with depth: means over the voxels of a grid.

    Pixels at depth edges have no normal and are left out, as they float between surfaces.

    Args:
        frames: each with ``image`` uint8 [H, W, 3], ``depth`` [H, W], ``viewmat``, ``K`` and
            ``label`` int [H, W] or None.
        voxel: edge of a voxel, metres.
        stride: every ``stride``-th row and column is used.
        max_depth: metres; farther pixels are left out.
        least: pixels that a voxel must have.

    Returns:
        A point a voxel, in the order of the grid: mean position and colour, mean normal, and the
        label that most of its pixels have (the lowest of equals).

    Raises:
        ValueError: an impossible option, or no pixel with depth.
    """
    if not voxel > 0 or stride < 1 or least < 1:
        raise ValueError(f"fuse: expected voxel > 0, stride >= 1 and least >= 1; found {voxel=}, "
                         f"{stride=}, {least=}")  # fmt: skip
    columns: list[tuple] = []
    for frame in frames:
        depth, K = np.asarray(frame.depth, np.float64)[::stride, ::stride], strided(frame.K, stride)
        normals = depth_normals(depth, frame.viewmat, K)
        keep = (np.abs(normals).max(-1) > 0) & (depth < max_depth)
        label = np.full(depth.shape, NO_LABEL)
        if frame.label is not None:
            label = frame.label[::stride, ::stride]
        image = frame.image[::stride, ::stride]
        points = back_project(depth, frame.viewmat, K)
        # One picture at a time is thinned, so that memory grows with the surface seen.
        columns.append(_means(points[keep], image[keep], normals[keep], label[keep], voxel))
    if not sum(len(column[0]) for column in columns):
        raise ValueError("fuse: no pixel of these frames has a depth and neighbours on its surface")
    points, rgb, normals, label, count = (np.concatenate(c) for c in zip(*columns))
    points, rgb, normals, label, count = _means(points, rgb, normals, label, voxel, count)
    fine = count >= least
    if not fine.any():
        raise ValueError(f"fuse: no voxel has {least} pixels; lower least or raise voxel")
    normals = normals[fine] / np.maximum(np.linalg.norm(normals[fine], axis=-1), 1e-9)[:, None]
    return Cloud(
        points[fine].astype(np.float32),
        np.rint(rgb[fine]).astype(np.uint8),
        normals.astype(np.float32),
        label[fine].astype(np.int32),
    )


def _means(points, rgb, normals, label, voxel, count=None):
    """Weighted means of each occupied voxel, and the weights' sums."""
    weight = np.ones(len(points)) if count is None else count
    _, group = np.unique(_cells(points, voxel), return_inverse=True)
    number = int(group.max()) + 1 if len(group) else 0
    total = np.bincount(group, weight, number)

    def mean(values):
        columns = [np.bincount(group, weight * values[:, i], number) for i in range(3)]
        return np.stack(columns, -1) / np.maximum(total, 1e-12)[:, None]

    return mean(points), mean(rgb), mean(normals), _majority(group, label, weight, number), total


def _majority(group, label, weight, number):
    """The label of the greatest weight in each group."""
    known, place = np.unique(label, return_inverse=True)
    votes = np.bincount(group * max(len(known), 1) + place.reshape(-1), weight,
                        number * max(len(known), 1))  # fmt: skip
    if not number:
        return np.zeros(0, np.int64)
    return known[votes.reshape(number, -1).argmax(-1)]


def _cells(points: np.ndarray, voxel: float) -> np.ndarray:
    """One number for each point's voxel [P]; voxels lie on multiples of ``voxel``."""
    cells = np.floor(np.asarray(points, np.float64) / voxel).astype(np.int64)
    if not len(cells):
        return np.zeros(0, np.int64)
    cells -= cells.min(0)
    extent = cells.max(0) + 1
    return (cells[:, 0] * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2]


def grid_sample(
    xyz: np.ndarray, voxel: float, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Rows of one point of each occupied voxel, ascending.

    Args:
        xyz: [P, 3].
        voxel: edge, metres.
        rng: which point of a voxel is drawn; None = its first.

    Raises:
        ValueError: ``voxel`` is not positive.
    """
    if not voxel > 0:
        raise ValueError(f"voxel: expected metres above 0, found {voxel}")
    order = np.arange(len(xyz)) if rng is None else rng.permutation(len(xyz))
    _, first = np.unique(_cells(xyz[order], voxel), return_index=True)
    return np.sort(order[first])


@dataclasses.dataclass(frozen=True)
class Region:
    """The part of a scene that a crop kept, in the scene's own coordinates.

    Attributes:
        center: [3]; zeros for 'random', which has no bounds.
        reach: [] metres: radius of a sphere, half an edge of a box, inf for 'random'.
        kind: one of ``CROPS``.
    """

    center: np.ndarray
    reach: float
    kind: str

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Which of points [..., 3] lie inside: bool [...]."""
        return distance(points - self.center, self.kind) <= self.reach


def distance(offsets: np.ndarray, kind: str) -> np.ndarray:
    """Length [...] of offsets [..., 3]: Euclidean for 'sphere', greatest coordinate for 'box'."""
    if kind == "sphere":
        return np.linalg.norm(offsets, axis=-1)
    if kind == "box":
        return np.abs(offsets).max(-1)
    return np.zeros(offsets.shape[:-1])


def crop(
    xyz: np.ndarray, num_points: int, kind: str, *, center=None, rng: np.random.Generator | None
) -> tuple[np.ndarray, Region]:
    """At most ``num_points`` rows of a cloud.

    Args:
        xyz: [P, 3].
        num_points: N.
        kind: 'random' (an even subset of the whole), 'sphere' or 'box' (the N points nearest to
            ``center`` by Euclidean or by greatest coordinate).
        center: [3] of a sphere or box; by default one of the points, at random.
        rng: of the draws; None = N points at even steps, and the point nearest to the mean as center.

    Returns:
        Ascending rows [min(P, N)] and the region they are all of, which reaches as far as the
        farthest point kept (unbounded where nothing was left out).

    Raises:
        ValueError: unknown kind, ``num_points`` below 1, or no points.
    """
    if kind not in CROPS:
        raise ValueError(f"crop: unknown {kind!r}; known: {', '.join(CROPS)}")
    if num_points < 1 or not len(xyz):
        raise ValueError(f"crop: expected points and num_points >= 1, found {len(xyz)} points and "
                         f"{num_points=}")  # fmt: skip
    everything = Region(np.zeros(3), np.inf, "random")
    if len(xyz) <= num_points:
        return np.arange(len(xyz)), everything
    if kind == "random":
        if rng is None:
            return np.arange(num_points) * len(xyz) // num_points, everything
        return np.sort(rng.permutation(len(xyz))[:num_points]), everything
    if center is None:
        near = np.argmin(np.linalg.norm(xyz - xyz.mean(0), axis=-1))
        center = xyz[near if rng is None else int(rng.integers(len(xyz)))]
    center = np.asarray(center, np.float64)
    away = distance(xyz - center, kind)
    rows = np.argpartition(away, num_points - 1)[:num_points]
    return np.sort(rows), Region(center, float(away[rows].max()), kind)
