"""Objects out of solids: unions, cuts, uniform surface samples with part labels and colours."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gsjax.data.shapes import primitives

_INSIDE = -1e-4  # closer to a surface than this counts as on it, not inside


@dataclasses.dataclass(frozen=True)
class Paint:
    """Colour of a part.

    Attributes:
        name: colour word for captions.
        rgb: in [0, 1].
        alpha: opacity of its Gaussians.
        second: second colour of stripes, or None.
        stripes: stripes per unit of height.
    """

    name: str
    rgb: tuple[float, float, float]
    alpha: float = 0.95
    second: tuple[float, float, float] | None = None
    stripes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Piece:
    """One solid of an object: which part it belongs to, its paint, or a hole (``cut=True``)."""

    solid: object
    part: str
    paint: Paint
    cut: bool = False


def rotation(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Rotation matrix from angles in degrees: about x first, then y, then z."""
    result = np.eye(3)
    for axis, degrees in ((0, x), (1, y), (2, z)):
        angle = np.deg2rad(degrees)
        c, s = np.cos(angle), np.sin(angle)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        result = turn @ result
    return result


class Assembly:
    """Collects the pieces of one object while it is being designed."""

    def __init__(self):
        self.pieces: list[Piece] = []

    def add(self, solid, part: str, paint: Paint, at=(0, 0, 0), turn=None) -> None:
        """Adds a solid, turned by ``turn`` [3, 3] and moved to ``at``."""
        turn = np.eye(3) if turn is None else turn
        placed = primitives.Placed(solid, np.asarray(at, np.float64), turn)
        self.pieces.append(Piece(placed, part, paint))

    def cut(self, solid, part: str, paint: Paint, at=(0, 0, 0), turn=None) -> None:
        """Takes a solid away; the walls of the hole belong to ``part``."""
        self.add(solid, part, paint, at, turn)
        self.pieces[-1] = dataclasses.replace(self.pieces[-1], cut=True)

    def bar(self, start, end, radius: float, part: str, paint: Paint) -> None:
        """A round-ended bar between two points."""
        start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
        length = float(np.linalg.norm(end - start))
        turn = _frame_y((end - start) / max(length, 1e-9))
        self.add(primitives.Capsule(length / 2, radius), part, paint, (start + end) / 2, turn)


def _frame_y(axis: np.ndarray) -> np.ndarray:
    """A rotation matrix whose second column is ``axis``."""
    side = np.eye(3)[np.argmin(np.abs(axis))]
    x = np.cross(axis, side)
    x /= np.linalg.norm(x)
    return np.stack([x, axis, np.cross(x, axis)], axis=1)


@dataclasses.dataclass(frozen=True)
class Surface:
    """Samples of an object's surface.

    Attributes:
        points: [M, 3].
        normals: [M, 3], outward.
        parts: part name of each sample.
        rgb: [M, 3] in [0, 1].
        alpha: [M].
        area: of the visible surface, estimated from the share of samples kept.
    """

    points: np.ndarray
    normals: np.ndarray
    parts: np.ndarray
    rgb: np.ndarray
    alpha: np.ndarray
    area: float


def value(pieces: Sequence[Piece], points: np.ndarray) -> np.ndarray:
    """Signed function of an object at ``points`` [P, 3]: negative inside.

    Pieces act in order: a cut takes away from what was there before it.
    """
    total = np.full(len(points), np.inf)
    for piece in pieces:
        own = piece.solid.value(points)
        total = np.maximum(total, -own) if piece.cut else np.minimum(total, own)
    return total


def sample_surface(pieces: Sequence[Piece], count: int, rng: np.random.Generator) -> Surface:
    """``count`` samples, uniform by area over the surface of union minus cuts.

    Samples of one piece inside another are hidden and drop out; the walls of a hole are the cut's
    samples inside the rest, with their normals turned round.

    Raises:
        ValueError: nothing of the surface is visible.
    """
    areas = np.array([p.solid.area for p in pieces])
    kept: list[tuple] = []
    tried = found = 0
    for _ in range(20):
        number = 64 + int(1.3 * (count - found) * (tried / max(found, 1) if tried else 1.5))
        share = rng.multinomial(number, areas / areas.sum())
        tried += number
        for which, n in enumerate(share):
            if n:
                kept.append(_visible(pieces, which, n, rng))
                found += len(kept[-1][0])
        if found >= count:
            break
    if found < count:
        raise ValueError(f"sample_surface: {found} of {tried} samples visible, {count} wanted")
    points, normals, owner = (np.concatenate(column) for column in zip(*kept))
    chosen = rng.permutation(found)[:count]
    points, normals, owner = points[chosen], normals[chosen], owner[chosen]
    return Surface(
        points=points,
        normals=normals,
        parts=np.array([p.part for p in pieces])[owner],
        rgb=_colours(pieces, points, owner),
        alpha=np.array([p.paint.alpha for p in pieces])[owner],
        area=float(areas.sum() * found / tried),
    )


def _visible(pieces, which: int, n: int, rng):
    """Samples of one piece that are on the surface of the object."""
    own = pieces[which]
    points, normals = own.solid.sample(rng, n)
    before = value(pieces[:which], points)
    keep = before < _INSIDE if own.cut else before > _INSIDE
    for later in pieces[which + 1 :]:
        keep &= later.solid.value(points) > _INSIDE
    if own.cut:
        normals = -normals
    return points[keep], normals[keep], np.full(int(keep.sum()), which)


def _colours(pieces, points, owner):
    """Paint of each sample; stripes alternate along the object's height."""
    rgb = np.array([p.paint.rgb for p in pieces])[owner]
    for which, piece in enumerate(pieces):
        paint = piece.paint
        if paint.second is not None:
            odd = np.floor(points[:, 1] * paint.stripes).astype(int) % 2 == 1
            rgb[(owner == which) & odd] = paint.second
    return rgb
