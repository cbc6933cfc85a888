"""Procedural colours of surfaces, as functions of the place on the solid.

A texture is evaluated in the solid's own frame (y up, metres), at hits of camera rays and at sampled
points alike, so every picture of a room and its point cloud agree. No picture files.
"""

import dataclasses

import numpy as np

KINDS = ("plain", "noise", "stripes", "checker", "planks", "bricks", "glow")
# Patterns are shifted by this share of their period: faces often lie on multiples of it, where
# rounding would decide the colour.
_SHIFT = np.array([0.3819, 0.2361, 0.4472])


@dataclasses.dataclass(frozen=True)
class Texture:
    """Colour of a surface.

    Attributes:
        kind: one of ``KINDS``; 'glow' is plain and is not shaded.
        first, second: colours in [0, 1]; 'plain' and 'glow' use the first alone.
        size: metres of one period of the pattern.
        seed: of 'noise', 'planks' and 'bricks'.
    """

    kind: str
    first: tuple[float, float, float]
    second: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: float = 0.2
    seed: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"Texture.kind: unknown {self.kind!r}; known: {', '.join(KINDS)}")
        if not self.size > 0:
            raise ValueError(f"Texture.size: expected metres above 0, found {self.size}")


def albedo(texture: Texture, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Colours of points on a surface.

    Args:
        texture: the surface's.
        points: [P, 3] in the solid's frame, y up.
        normals: [P, 3] there.

    Returns:
        [P, 3] in [0, 1].
    """
    first, second = np.array(texture.first), np.array(texture.second)
    if texture.kind in ("plain", "glow"):
        return np.broadcast_to(first, (len(points), 3)).copy()
    share = _PATTERNS[texture.kind](points / texture.size + _SHIFT, normals, texture.seed)
    return first + (second - first) * share[:, None]


def _stripes(places, normals, seed):
    del seed
    # Along y, or along x where the surface is level.
    level = np.abs(normals[:, 1]) > 0.7
    return (np.floor(2 * np.where(level, places[:, 0], places[:, 1])) % 2).astype(float)


def _checker(places, normals, seed):
    del seed
    u, v = _flat(places, normals)
    return ((np.floor(u) + np.floor(v)) % 2).astype(float)


def _planks(places, normals, seed):
    """Boards along u, each of its own brightness, with a weak grain."""
    u, v = _flat(places, normals)
    board = np.floor(v)
    length = 6.0
    joint = np.floor((u + length * _hash(board, 0 * board, 0 * board, seed)) / length)
    tone = _hash(board, joint, 0 * board, seed + 1)
    grain = 0.5 + 0.5 * np.sin(9.0 * (v - board) + 3 * tone + 0.6 * np.sin(1.7 * u))
    return np.clip(0.8 * tone + 0.2 * grain, 0, 1)


def _bricks(places, normals, seed):
    u, v = _flat(places, normals)
    row = np.floor(2 * v)
    column = np.floor(u + 0.5 * (row % 2))
    joint = ((u + 0.5 * (row % 2)) % 1 < 0.08) | ((2 * v) % 1 < 0.12)
    return np.where(joint, 1.0, 0.35 * _hash(row, column, 0 * row, seed))


def _noise(places, normals, seed):
    """Smooth value noise of two octaves."""
    del normals
    return 0.65 * _lattice(places, seed) + 0.35 * _lattice(2.3 * places, seed + 1)


def _lattice(places, seed):
    base = np.floor(places)
    part = places - base
    part = part * part * (3 - 2 * part)
    total = 0.0
    for corner in range(8):
        step = (corner & 1, corner >> 1 & 1, corner >> 2 & 1)
        weight = 1.0
        for axis in range(3):
            weight = weight * (part[:, axis] if step[axis] else 1 - part[:, axis])
        total = total + weight * _hash(*(base + step).T, seed)
    return total


def _flat(places, normals):
    """(u, v) of the two coordinates along the face, v the upright one on upright faces."""
    axis = np.argmax(np.abs(normals), axis=-1)
    x, y, z = places.T
    return np.where(axis == 0, z, x), np.where(axis == 1, z, y)


def _hash(x, y, z, seed):
    """Numbers in [0, 1) from integer places."""
    x, y, z = (np.asarray(value).astype(np.int64).astype(np.uint32) for value in (x, y, z))
    mixed = x * np.uint32(73856093) ^ y * np.uint32(19349663) ^ z * np.uint32(83492791)
    mixed = mixed ^ np.uint32(seed * 2654435761 % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # finaliser of MurmurHash3
        mixed = (mixed ^ mixed >> np.uint32(shift)) * np.uint32(factor)
    return (mixed ^ mixed >> np.uint32(16)) / 2.0**32


_PATTERNS = {
    "noise": _noise,
    "stripes": _stripes,
    "checker": _checker,
    "planks": _planks,
    "bricks": _bricks,
}
