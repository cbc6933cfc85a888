"""Pointmaps: a 3D point for every pixel of several views, all in one frame, as teachers give them.

From depth (a sensor's, or exact in made-up scenes), mirrored, resized, brought to unit size, and spoilt on
purpose the way learned teachers are: by a similarity, smeared edges, smooth bends and noise. PM-Loss (arXiv
2506.05327) registers such maps to the prediction. Points are [V, H, W, 3], a mask or confidence [V, H, W] is 0
where a point is unknown. Imports no JAX.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gsjax.data import clouds, features, view_fit
from gsjax.data.scenes import View


def from_views(views: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
    """Depth unprojected into the frame of the first view's camera.

    Args:
        views: of one size, depth 0 where unknown.

    Returns:
        points float32 [V, H, W, 3], 0 where unknown; mask bool [V, H, W].
    """
    local = [view_fit.relative_to(view, views[0].viewmat) for view in views]
    points = np.stack([clouds.back_project(view.depth, view.viewmat, view.K) for view in local])
    mask = np.stack([view.depth > 0 for view in views])
    return np.where(mask[..., None], points, 0).astype(np.float32), mask


def mirrored(points: np.ndarray, conf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maps of views that are turned left to right: columns reversed **and** x negated.

    A reflection is no similarity, so a registration cannot make up for a missing sign.
    """
    return points[..., ::-1, :] * np.array([-1, 1, 1], points.dtype), conf[..., ::-1]


def resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest lookup, source row floor(i h / height): values [V, h, w, ...] at another size."""
    rows, columns = values.shape[1:3]
    if (rows, columns) == (height, width):
        return values
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    return values[:, row[:, None], column]


def size_of(points: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Mean [3] and root mean square distance from it, of the points in ``mask``; (0, 1) if none."""
    known = points[mask].astype(np.float64)
    if not len(known):
        return np.zeros(3, np.float32), np.float32(1)
    centre = known.mean(0)
    radius = np.sqrt(((known - centre) ** 2).sum(-1).mean())
    return centre.astype(np.float32), np.float32(radius if radius > 0 else 1)


@dataclasses.dataclass(frozen=True)
class Flaws:
    """How a made-up teacher errs. Lengths are shares of the cloud's root mean square radius.

    Attributes:
        similarity: whether its frame and scale are its own (a random turn, a scale of 1/3 to 3, a shift).
        blur: standard deviation, in pixels, of a Gaussian that points are averaged with inside each view:
            edges smear between near and far, as networks' do.
        smooth: root mean square, per axis, of a smooth displacement.
        cells: bends of it along a picture (``per_view``) or along the cloud's diameter.
        per_view: each view is bent on its own, over its pixels; else space is, alike for all views.
        white: standard deviation, per axis, of independent noise of every point.
    """

    similarity: bool = True
    blur: float = 0.0
    smooth: float = 0.0
    cells: int = 3
    per_view: bool = True
    white: float = 0.0

    def __post_init__(self):
        for name in ("blur", "smooth", "white"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Flaws.{name}: expected 0 or more, found {getattr(self, name)}")
        if self.cells < 1:
            raise ValueError(f"Flaws.cells: expected 1 or more, found {self.cells}")


def spoil(
    points: np.ndarray, mask: np.ndarray, rng: np.random.Generator, flaws: Flaws
) -> np.ndarray:
    """Points of a teacher that has ``flaws``; float32 [V, H, W, 3], 0 where ``mask`` is False.

    Displacements are of the cloud before the similarity, so their sizes do not depend on it. The draws of
    one kind of flaw do not depend on the others': turning one up leaves the rest as it was.
    """
    streams = rng.spawn(3)
    centre, radius = size_of(points, mask)
    moved = (points.astype(np.float64) - centre) / radius
    result = _blurred(moved, mask, flaws.blur) if flaws.blur else moved
    if flaws.smooth:
        bend = (_pixel_field if flaws.per_view else _space_field)(moved, flaws.cells, streams[0])
        size = np.sqrt((bend[mask] ** 2).mean()) if mask.any() else 1.0
        result = result + flaws.smooth / max(size, 1e-12) * bend
    if flaws.white:
        result = result + flaws.white * streams[1].normal(size=points.shape)
    result = centre + radius * result
    if flaws.similarity:
        scale, turn, shift = random_similarity(streams[2], float(radius))
        result = scale * result @ turn.T + shift
    return np.where(mask[..., None], result, 0).astype(np.float32)


def random_similarity(
    rng: np.random.Generator, radius: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """(scale, turn [3, 3], shift [3]): p -> scale turn p + shift; shifts are about ``radius``."""
    # Marsaglia's uniform rotation: a normal quaternion brought to unit length.
    w, x, y, z = (lambda q: q / np.linalg.norm(q))(rng.normal(size=4))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return 3.0 ** rng.uniform(-1, 1), turn, radius * rng.normal(size=3)


def _blurred(points: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Means over a Gaussian window of known points, each view by itself."""
    reach = max(int(np.ceil(3 * sigma)), 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    values = np.concatenate([points, np.ones((*mask.shape, 1))], -1) * mask[..., None]
    for axis in (1, 2):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(4)])
        size = values.shape[axis]
        values = sum(
            weight * np.take(padded, np.arange(start, start + size), axis)
            for start, weight in enumerate(weights)
        )
    return values[..., :3] / np.maximum(values[..., 3:], 1e-12)


def _pixel_field(points: np.ndarray, cells: int, rng) -> np.ndarray:
    """Cubic B-splines over ``cells`` x ``cells`` spans of a picture: [V, H, W, 3], smooth."""
    views, height, width = points.shape[:3]
    knots = rng.normal(size=(views, cells + 3, cells + 3, 3))
    rows, columns = _spline(height, cells), _spline(width, cells)
    return np.einsum("hi,wj,vijc->vhwc", rows, columns, knots, optimize=True)


def _spline(size: int, cells: int) -> np.ndarray:
    """Weights [size, cells + 3] of uniform cubic B-splines at pixel centres."""
    place = (np.arange(size) + 0.5) / size * cells
    distance = np.abs(place[:, None] + 1 - np.arange(cells + 3))
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    return np.where(distance < 1, near, np.maximum(2 - distance, 0) ** 3 / 6)


def _space_field(points: np.ndarray, cells: int, rng) -> np.ndarray:
    """Sums of waves in space, up to ``cells`` half-waves along two radii: [V, H, W, 3]."""
    turns = rng.normal(size=(8, 3))
    turns *= rng.uniform(0.3, 1, (8, 1)) / np.linalg.norm(turns, axis=-1, keepdims=True)
    phases = points @ (0.5 * np.pi * cells * turns).T + rng.uniform(0, 2 * np.pi, 8)
    return np.sin(phases) @ rng.normal(size=(8, 3))


class DepthTeacher:
    """The depth of the views themselves: a sensor's, or exact."""

    name, revision = "depth", "1"

    def __call__(
        self, scene: str, frames: np.ndarray, views: Sequence[View], flipped: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Maps of an example's context views.

        Args:
            scene: its name.
            frames: [V].
            views: as the example has them, but before mirroring.
            flipped: whether the example is mirrored.

        Returns:
            points float32 [V, H, W, 3] in the (mirrored) first camera's frame, conf float32 [V, H, W].
        """
        points, mask = from_views(views)
        found = points, mask.astype(np.float32)
        return mirrored(*found) if flipped else found


class FlawedTeacher(DepthTeacher):
    """Depth that is spoilt; the same views always get the same maps, as from a frozen network.

    Args:
        flaws: how.
        seed: of the draws.
    """

    name = "flawed depth"

    def __init__(self, flaws: Flaws, seed: int = 0):
        self._flaws, self._seed = flaws, seed

    def __call__(self, scene, frames, views, flipped):
        points, mask = from_views(views)
        seed = features.stable_seed("teacher", self._seed, scene, *map(int, frames))
        points = spoil(points, mask, np.random.default_rng(seed), self._flaws)
        found = points, mask.astype(np.float32)
        return mirrored(*found) if flipped else found
