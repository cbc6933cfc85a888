"""First hits of rays with the solids of ``gsjax.data.shapes``, from the formula of each surface.

Nothing is tessellated or marched: a hit lies on the surface up to float64 rounding. ``ray`` means
``origin + t * direction`` with t > 0; directions need no unit length, so that with directions whose
camera z is 1 the number t is the depth along the optical axis. Solids with holes (cuts of
``shapes.csg``), extruded polygons and tori are not served.
"""

import functools

import numpy as np

from gsjax.data.shapes import primitives

_TINY = 1e-300  # in place of a zero that is divided by
_START = 1e-9  # hits nearer than this are the ray's own start


def first_hits(solid, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Where rays first meet a solid.

    Args:
        solid: ``Box``, ``Ellipsoid``, ``Revolve``, ``Capsule``, or one of them ``Placed``.
        origins: [R, 3], or [1, 3] for rays from one point.
        directions: [R, 3], any length but 0.

    Returns:
        t [R], inf where a ray misses. A ray that starts inside meets the solid where it leaves.

    Raises:
        ValueError: another kind of solid.
    """
    if isinstance(solid, primitives.Placed):
        turn = solid.rotation
        return first_hits(solid.solid, (origins - solid.offset) @ turn, directions @ turn)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _known(solid, _HITS)(solid, origins, directions)


def normals(solid, points: np.ndarray) -> np.ndarray:
    """Outward unit normals [P, 3] at points [P, 3] of a solid's surface; on an edge one of its two.

    Raises:
        ValueError: as :func:`first_hits`.
    """
    if isinstance(solid, primitives.Placed):
        turn = solid.rotation
        return normals(solid.solid, (points - solid.offset) @ turn) @ turn.T
    return _known(solid, _NORMALS)(solid, points)


def _known(solid, table):
    if type(solid) not in table:
        raise ValueError(
            f"solid: no ray formula for {type(solid).__name__}; known: "
            f"{', '.join(kind.__name__ for kind in table)}"
        )
    return table[type(solid)]


def bounds(solid) -> tuple[np.ndarray, np.ndarray]:
    """Corners (low [3], high [3]) of an axis-aligned box around a solid.

    Raises:
        ValueError: as :func:`first_hits`.
    """
    if isinstance(solid, primitives.Placed):
        low, high = bounds(solid.solid)
        centre = solid.rotation @ (low + high) / 2 + solid.offset
        half = np.abs(solid.rotation) @ (high - low) / 2
        return centre - half, centre + half
    _known(solid, _HITS)
    if isinstance(solid, primitives.Box):
        half = np.array(solid.half)
    elif isinstance(solid, primitives.Ellipsoid):
        half = np.array(solid.radii)
    elif isinstance(solid, primitives.Capsule):
        half = np.array([solid.radius, solid.half_length + solid.radius, solid.radius])
    else:
        radius, height = np.array(solid.profile).T
        widest = radius.max()
        return (
            np.array([-widest, height.min(), -widest]),
            np.array([widest, height.max(), widest]),
        )
    return -half, half


def box_exit(
    low: np.ndarray, high: np.ndarray, origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where rays that start inside an axis-aligned box leave it.

    Args:
        low, high: [3] corners.
        origins: [R, 3] inside, or [1, 3].
        directions: [R, 3].

    Returns:
        t [R] and face [R]: 0, 2, 4 for the low faces of x, y, z and 1, 3, 5 for the high ones.
    """
    far = []
    for axis in range(3):
        slope = directions[:, axis]
        wall = np.where(slope > 0, high[axis], low[axis])
        with np.errstate(over="ignore"):
            far.append((wall - origins[:, axis]) / np.where(slope == 0, -_TINY, slope))
    t = np.minimum(np.minimum(far[0], far[1]), far[2])
    axis = np.where(far[0] == t, 0, np.where(far[1] == t, 1, 2))
    positive = np.where(axis == 0, directions[:, 0], np.where(axis == 1, *directions.T[1:])) > 0
    return t, 2 * axis + positive


def _box(solid, origins, directions):
    entry, leave = -np.inf, np.inf
    for axis, half in enumerate(solid.half):
        slope = directions[:, axis]
        inverse = 1 / np.where(slope == 0, _TINY, slope)
        middle, reach = -origins[:, axis] * inverse, half * np.abs(inverse)
        entry = np.maximum(entry, middle - reach)
        leave = np.minimum(leave, middle + reach)
    t = np.where(entry > _START, entry, leave)
    return np.where((entry <= leave) & (leave > _START), t, np.inf)


def _dot(one, two):
    return one[:, 0] * two[:, 0] + one[:, 1] * two[:, 1] + one[:, 2] * two[:, 2]


def _roots(a, b, c):
    """Both real roots of a t^2 + 2 b t + c, inf where there are none.

    Through q = -(b + sign(b) sqrt(b^2 - a c)), which loses no digits where b^2 >> a c; for a = 0
    one root is the line's and the other is inf.
    """
    square = b * b - a * c
    real = square >= 0
    q = -(b + np.where(b >= 0, 1.0, -1.0) * np.sqrt(np.where(real, square, 0.0)))
    one = q / np.where(a == 0, _TINY, a)
    two = c / np.where(q == 0, _TINY, q)
    return tuple(np.where(real & np.isfinite(x), x, np.inf) for x in (one, two))


def _first(candidates):
    """The least t of (t, valid) pairs that lies ahead of the start."""
    best = np.inf
    for t, valid in candidates:
        best = np.minimum(best, np.where(valid & (t > _START), t, np.inf))
    return best


def _ellipsoid(solid, origins, directions):
    o, d = origins / np.array(solid.radii), directions / np.array(solid.radii)
    return _first((t, True) for t in _roots(_dot(d, d), _dot(o, d), _dot(o, o) - 1))


def _capsule(solid, origins, directions):
    half, radius = solid.half_length, solid.radius
    candidates = []
    (ox, oy, oz), (dx, dy, dz) = origins.T, directions.T
    for t in _roots(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - radius**2):
        candidates.append((t, np.abs(oy + t * dy) <= half))
    for sign in (-1.0, 1.0):
        o = origins - (0, sign * half, 0)
        for t in _roots(_dot(directions, directions), _dot(o, directions), _dot(o, o) - radius**2):
            candidates.append((t, sign * (o[:, 1] + t * dy) >= 0))
    return _first(candidates)


@functools.lru_cache(maxsize=4096)
def _profile_edges(solid):
    """(start, end, outward unit normal [radial, axial]) of the edges that have an area."""
    polygon = np.asarray(solid.profile, np.float64)
    if primitives.polygon_area(polygon) < 0:
        polygon = polygon[::-1]
    edges = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0)):
        side = end - start
        length = np.hypot(*side)
        if length > 1e-12 and max(start[0], end[0]) > 1e-12:
            edges.append((start, end, np.array([side[1], -side[0]]) / length))
    return tuple(edges)


def _revolve(solid, origins, directions):
    candidates = []
    for start, end, _ in _profile_edges(solid):
        flat = abs(start[1] - end[1]) < 1e-12
        candidates += (_disc if flat else _frustum)(start, end, origins, directions)
    return _first(candidates)


def _disc(start, end, origins, directions):
    (ox, oy, oz), (dx, dy, dz) = origins.T, directions.T
    t = (start[1] - oy) / np.where(dy == 0, _TINY, dy)
    radius = np.hypot(ox + t * dx, oz + t * dz)
    low, high = sorted((start[0], end[0]))
    return [(t, (radius >= low) & (radius <= high))]


def _frustum(start, end, origins, directions):
    """x^2 + z^2 = (r + k (y - y0))^2 between the heights of two corners of the profile."""
    (ox, oy, oz), (dx, dy, dz) = origins.T, directions.T
    k = (end[0] - start[0]) / (end[1] - start[1])
    r, dr = start[0] + k * (oy - start[1]), k * dy
    low, high = sorted((start[1], end[1]))
    result = []
    for t in _roots(dx * dx + dz * dz - dr * dr, ox * dx + oz * dz - r * dr, ox**2 + oz**2 - r**2):
        height = oy + t * dy
        # The mirror cone beyond the apex solves the equation too.
        own = r + t * dr >= -1e-12
        result.append((t, (height >= low) & (height <= high) & own))
    return result


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _box_normals(solid, points):
    axis = np.argmax(np.abs(points) - np.array(solid.half), axis=-1)
    rows = np.arange(len(points))
    result = np.zeros_like(points)
    result[rows, axis] = np.sign(points[rows, axis])
    return result


def _ellipsoid_normals(solid, points):
    return _unit(points / np.array(solid.radii) ** 2)


def _capsule_normals(solid, points):
    nearest = np.clip(points[:, 1], -solid.half_length, solid.half_length)
    return _unit(np.stack([points[:, 0], points[:, 1] - nearest, points[:, 2]], -1))


def _revolve_normals(solid, points):
    """Of the profile's edge that each point lies on."""
    edges = _profile_edges(solid)
    radius = np.hypot(points[:, 0], points[:, 2])
    flat = np.stack([radius, points[:, 1]], -1)
    distances = []
    for start, end, _ in edges:
        side = end - start
        along = np.clip((flat - start) @ side / (side @ side), 0, 1)
        distances.append(np.linalg.norm(flat - start - along[:, None] * side, axis=-1))
    outward = np.array([edge[2] for edge in edges])[np.argmin(distances, axis=0)]
    radial = points[:, [0, 2]] / np.maximum(radius, 1e-12)[:, None] * outward[:, :1]
    return np.stack([radial[:, 0], outward[:, 1], radial[:, 1]], -1)


_HITS = {
    primitives.Box: _box,
    primitives.Ellipsoid: _ellipsoid,
    primitives.Revolve: _revolve,
    primitives.Capsule: _capsule,
}
_NORMALS = {
    primitives.Box: _box_normals,
    primitives.Ellipsoid: _ellipsoid_normals,
    primitives.Revolve: _revolve_normals,
    primitives.Capsule: _capsule_normals,
}
