"""Closed solids with exact surface samples, exact normals, and a signed function.

Each solid offers ``area`` (of its surface), ``sample(rng, n) -> points [n, 3], normals [n, 3]``
(uniform by area, normals outward, from the formula of the surface) and ``value(points [P, 3]) ->
[P]`` (negative inside, zero on the surface, gradient along the outward normal). ``Placed`` puts a
solid somewhere else. All solids are built around the origin with +y as their axis.
"""

import dataclasses
import functools

import numpy as np

_TAU = 2 * np.pi


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@dataclasses.dataclass(frozen=True)
class Box:
    """Axis-aligned box with half sizes ``half`` (3)."""

    half: tuple[float, float, float]

    @functools.cached_property
    def _faces(self) -> np.ndarray:
        x, y, z = self.half
        return np.array([4 * y * z, 4 * x * z, 4 * x * y])

    @property
    def area(self) -> float:
        return float(2 * self._faces.sum())

    def sample(self, rng, n):
        half = np.array(self.half)
        axis = rng.choice(3, size=n, p=self._faces / self._faces.sum())
        sign = rng.choice((-1.0, 1.0), size=n)
        points = rng.uniform(-half, half, size=(n, 3))
        rows = np.arange(n)
        points[rows, axis] = sign * half[axis]
        normals = np.zeros((n, 3))
        normals[rows, axis] = sign
        return points, normals

    def value(self, points):
        return np.max(np.abs(points) - np.array(self.half), axis=-1)


@dataclasses.dataclass(frozen=True)
class Ellipsoid:
    """Ellipsoid with semi-axes ``radii`` (3)."""

    radii: tuple[float, float, float]

    @functools.cached_property
    def area(self) -> float:
        # Surface integral over the unit sphere of |cofactor . n|, a 32 x 64 midpoint rule.
        cos = (np.arange(32) + 0.5) / 16 - 1
        angle = (np.arange(64) + 0.5) * _TAU / 64
        sin = np.sqrt(1 - cos**2)[:, None]
        sphere = np.stack(
            [sin * np.cos(angle), cos[:, None] + 0 * angle, sin * np.sin(angle)], axis=-1
        )
        return float(self._stretch(sphere).mean() * 2 * _TAU)

    def _stretch(self, unit: np.ndarray) -> np.ndarray:
        """Area of the ellipsoid per area of the unit sphere at ``unit`` [..., 3]."""
        a, b, c = self.radii
        return np.linalg.norm(unit * (b * c, a * c, a * b), axis=-1)

    def sample(self, rng, n):
        a, b, c = self.radii
        bound = max(b * c, a * c, a * b)
        kept = np.zeros((0, 3))
        while len(kept) < n:
            unit = _unit(rng.normal(size=(2 * (n - len(kept)) + 16, 3)))
            accept = rng.random(len(unit)) * bound < self._stretch(unit)
            kept = np.concatenate([kept, unit[accept]])
        unit = kept[:n]
        return unit * self.radii, _unit(unit / self.radii)

    def value(self, points):
        radii = np.array(self.radii)
        level = np.linalg.norm(points / radii, axis=-1)
        slope = np.linalg.norm(points / radii**2, axis=-1)
        # First-order distance; at the centre, where it is undefined, minus the smallest radius.
        distance = level * (level - 1) / np.maximum(slope, 1e-12)
        return np.where(level < 1e-6, -radii.min(), distance)


def polygon_value(points: np.ndarray, polygon: np.ndarray, surface=None) -> np.ndarray:
    """Signed distance [P] of ``points`` [P, 2] to a simple closed ``polygon`` [E, 2].

    ``surface`` bool [E]: edges that count for the distance (default: all); the others only close
    the outline.
    """
    start, edge = polygon, np.roll(polygon, -1, axis=0) - polygon
    # Even-odd rule: edges that a ray to +x crosses.
    end_y = start[:, 1] + edge[:, 1]
    crosses = (start[:, 1] > points[:, 1:]) != (end_y > points[:, 1:])
    slope = edge[:, 0] / np.where(edge[:, 1] == 0, 1, edge[:, 1])
    x = start[:, 0] + (points[:, 1:] - start[:, 1]) * slope
    inside = np.sum(crosses & (points[:, :1] < x), axis=-1) % 2 == 1
    if surface is not None:
        start, edge = start[surface], edge[surface]
    offset = points[:, None] - start
    along = np.sum(offset * edge, -1) / np.maximum(np.sum(edge * edge, -1), 1e-24)
    nearest = offset - np.clip(along, 0, 1)[..., None] * edge
    distance = np.sqrt(np.min(np.sum(nearest * nearest, -1), axis=-1))
    return np.where(inside, -distance, distance)


def polygon_area(polygon: np.ndarray) -> float:
    """Signed area: positive where the corners run counter-clockwise."""
    following = np.roll(polygon, -1, axis=0)
    return float(0.5 * np.sum(polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]))


def _counter_clockwise(corners) -> np.ndarray:
    polygon = np.asarray(corners, np.float64)
    return polygon if polygon_area(polygon) > 0 else polygon[::-1]


@dataclasses.dataclass(frozen=True)
class Revolve:
    """Solid of revolution about y: ``profile`` is a closed polygon of (radius, height) corners.

    Corners at radius 0 lie on the axis; an edge along the axis has no area and drops out.
    """

    profile: tuple[tuple[float, float], ...]

    @functools.cached_property
    def _polygon(self) -> np.ndarray:
        return _counter_clockwise(self.profile)

    @functools.cached_property
    def _edges(self):
        start = self._polygon
        end = np.roll(start, -1, axis=0)
        length = np.linalg.norm(end - start, axis=-1)
        # Frustum: pi (r0 + r1) * slant height.
        return start, end, np.pi * (start[:, 0] + end[:, 0]) * length

    @property
    def area(self) -> float:
        return float(self._edges[2].sum())

    def sample(self, rng, n):
        start, end, areas = self._edges
        edge = rng.choice(len(areas), size=n, p=areas / areas.sum())
        r0, r1 = start[edge, 0], end[edge, 0]
        # Along the slant the density grows with the radius: invert its quadratic integral.
        u = rng.random(n)
        radius = np.sqrt(r0**2 + u * (r1**2 - r0**2))
        flat = np.abs(r1 - r0) < 1e-9
        t = np.where(flat, u, (radius - r0) / np.where(flat, 1, r1 - r0))
        radius = r0 + t * (r1 - r0)
        height = start[edge, 1] + t * (end[edge, 1] - start[edge, 1])
        angle = rng.uniform(0, _TAU, n)
        side = end[edge] - start[edge]
        outward = _unit(np.stack([side[:, 1], -side[:, 0]], -1))
        points = np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], -1)
        normals = np.stack(
            [outward[:, 0] * np.cos(angle), outward[:, 1], outward[:, 0] * np.sin(angle)], -1
        )
        return points, normals

    def value(self, points):
        flat = np.stack([np.hypot(points[:, 0], points[:, 2]), points[:, 1]], -1)
        # Edges on the axis close the outline but are no surface.
        axis = self._polygon[:, 0] <= 1e-9
        return polygon_value(flat, self._polygon, ~(axis & np.roll(axis, -1)))


@dataclasses.dataclass(frozen=True)
class Extrude:
    """A simple polygon of (x, y) ``corners``, extended to |z| <= ``half_depth``."""

    corners: tuple[tuple[float, float], ...]
    half_depth: float

    @functools.cached_property
    def _polygon(self) -> np.ndarray:
        return _counter_clockwise(self.corners)

    @functools.cached_property
    def _areas(self):
        edge = np.roll(self._polygon, -1, axis=0) - self._polygon
        sides = np.linalg.norm(edge, axis=-1) * 2 * self.half_depth
        return sides, 2 * polygon_area(self._polygon)

    @property
    def area(self) -> float:
        return float(self._areas[0].sum() + self._areas[1])

    def sample(self, rng, n):
        sides, caps = self._areas
        on_caps = rng.binomial(n, caps / self.area)
        flat = self._inside(rng, on_caps)
        sign = rng.choice((-1.0, 1.0), size=on_caps)
        cap_points = np.column_stack([flat, sign * self.half_depth])
        cap_normals = np.column_stack([np.zeros((on_caps, 2)), sign])
        edge = rng.choice(len(sides), size=n - on_caps, p=sides / sides.sum())
        start, vector = self._polygon, np.roll(self._polygon, -1, axis=0) - self._polygon
        place = start[edge] + rng.random((n - on_caps, 1)) * vector[edge]
        depth = rng.uniform(-self.half_depth, self.half_depth, n - on_caps)
        outward = _unit(np.stack([vector[edge, 1], -vector[edge, 0]], -1))
        points = np.concatenate([cap_points, np.column_stack([place, depth])])
        normals = np.concatenate([cap_normals, np.column_stack([outward, 0 * depth])])
        order = rng.permutation(n)
        return points[order], normals[order]

    def _inside(self, rng, n):
        low, high = self._polygon.min(0), self._polygon.max(0)
        kept = np.zeros((0, 2))
        while len(kept) < n:
            tried = rng.uniform(low, high, size=(3 * (n - len(kept)) + 16, 2))
            kept = np.concatenate([kept, tried[polygon_value(tried, self._polygon) < 0]])
        return kept[:n]

    def value(self, points):
        flat = polygon_value(points[:, :2], self._polygon)
        return np.maximum(flat, np.abs(points[:, 2]) - self.half_depth)


@dataclasses.dataclass(frozen=True)
class Torus:
    """Ring of tube radius ``minor`` around a circle of radius ``major`` in the x-y plane.

    With ``arc`` below a full turn it is the piece from angle 0 (at +x) to ``arc`` radians,
    with flat ends.
    """

    major: float
    minor: float
    arc: float = _TAU

    @property
    def _ends(self) -> float:
        return 0.0 if self.arc >= _TAU else 2 * np.pi * self.minor**2

    @property
    def area(self) -> float:
        return float(self.arc * _TAU * self.major * self.minor + self._ends)

    def sample(self, rng, n):
        on_ends = rng.binomial(n, self._ends / self.area)
        count = n - on_ends
        angle = rng.uniform(0, self.arc, count)
        turn = np.zeros(0)
        while len(turn) < count:  # the outside of the tube has more area than the inside
            tried = rng.uniform(0, _TAU, 2 * (count - len(turn)) + 16)
            weight = (self.major + self.minor * np.cos(tried)) / (self.major + self.minor)
            turn = np.concatenate([turn, tried[rng.random(len(tried)) < weight]])
        turn = turn[:count]
        normals = np.stack(
            [np.cos(turn) * np.cos(angle), np.cos(turn) * np.sin(angle), np.sin(turn)], -1
        )
        centres = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1) * self.major
        points = centres + self.minor * normals
        end_points, end_normals = self._sample_ends(rng, on_ends)
        order = rng.permutation(n)
        return (
            np.concatenate([points, end_points])[order],
            np.concatenate([normals, end_normals])[order],
        )

    def _sample_ends(self, rng, n):
        last = rng.random(n) < 0.5
        angle = np.where(last, self.arc, 0.0)
        radius, turn = self.minor * np.sqrt(rng.random(n)), rng.uniform(0, _TAU, n)
        out = self.major + radius * np.cos(turn)
        points = np.stack([out * np.cos(angle), out * np.sin(angle), radius * np.sin(turn)], -1)
        direction = np.where(last, 1.0, -1.0)
        tangent = np.stack([-np.sin(angle), np.cos(angle), 0 * angle], -1)
        return points, tangent * direction[:, None]

    def value(self, points):
        ring = np.hypot(points[:, 0], points[:, 1])
        tube = np.hypot(ring - self.major, points[:, 2]) - self.minor
        if self.arc >= _TAU:
            return tube
        # Angle from the middle of the arc: positive beyond its ends.
        middle = self.arc / 2
        angle = np.arctan2(points[:, 1], points[:, 0]) - middle
        angle = np.abs((angle + np.pi) % _TAU - np.pi) - middle
        return np.maximum(tube, ring * np.sin(np.clip(angle, -np.pi / 2, np.pi / 2)))


@dataclasses.dataclass(frozen=True)
class Capsule:
    """Straight tube of radius ``radius`` with round ends, from -y to +y ``half_length``."""

    half_length: float
    radius: float

    @property
    def area(self) -> float:
        return float(2 * _TAU * self.radius * (self.half_length + self.radius))

    def sample(self, rng, n):
        side = rng.random(n) < self.half_length / (self.half_length + self.radius)
        sphere = _unit(rng.normal(size=(n, 3)))
        angle = rng.uniform(0, _TAU, n)
        round_side = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], -1)
        normals = np.where(side[:, None], round_side, sphere)
        height = np.where(
            side,
            rng.uniform(-self.half_length, self.half_length, n),
            np.sign(sphere[:, 1]) * self.half_length,
        )
        points = self.radius * normals
        points[:, 1] += height
        return points, normals

    def value(self, points):
        nearest = np.clip(points[:, 1], -self.half_length, self.half_length)
        offset = np.stack([points[:, 0], points[:, 1] - nearest, points[:, 2]], -1)
        return np.linalg.norm(offset, axis=-1) - self.radius


@dataclasses.dataclass(frozen=True)
class Placed:
    """A solid turned by ``rotation`` [3, 3] and then moved by ``offset`` [3]."""

    solid: object
    offset: np.ndarray
    rotation: np.ndarray

    @property
    def area(self) -> float:
        return self.solid.area

    def sample(self, rng, n):
        points, normals = self.solid.sample(rng, n)
        return points @ self.rotation.T + self.offset, normals @ self.rotation.T

    def value(self, points):
        return self.solid.value((points - self.offset) @ self.rotation)


def cylinder(radius: float, height: float, top: float | None = None) -> Revolve:
    """Cylinder from y = 0 to ``height``; with ``top`` radius a frustum, with top 0 a cone."""
    top = radius if top is None else top
    if top == 0:
        return Revolve(((0, 0), (radius, 0), (0, height)))
    return Revolve(((0, 0), (radius, 0), (top, height), (0, height)))
