"""Furniture and small things of rooms: solids with labels and textures, standing at their origin.

A thing is built in its own frame (y up, its base at y = 0 and centred there, front to +z, metres) and
then put into the room, whose up is z. Chairs, tables, sofas, beds and a few small things come from
the recipes of ``gsjax.data.shapes``, scaled to fit; the rest is drafted here.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from gsjax.data.rooms import rays
from gsjax.data.rooms.textures import Texture
from gsjax.data.shapes import csg, furniture, household, primitives
from gsjax.data.shapes.draft import Draft

LABELS = (
    "wall", "floor", "ceiling", "door", "window", "table", "chair", "sofa", "bed", "shelf",
    "cupboard", "lamp", "plant", "clutter",
)  # fmt: skip
LABEL = {name: number for number, name in enumerate(LABELS)}
Y_TO_Z = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y up -> z up; +z (front) becomes -y


@dataclasses.dataclass(frozen=True)
class Part:
    """One solid of a room.

    Attributes:
        solid: a ``primitives.Placed``.
        label: place in ``LABELS``.
        texture: its colours, in the frame of the solid that ``solid`` places.
        thing: number of the thing it belongs to; -1 before a room holds it.
    """

    solid: primitives.Placed
    label: int
    texture: Texture
    thing: int = -1


@dataclasses.dataclass(frozen=True)
class Thing:
    """A piece of furniture in its own frame.

    Attributes:
        name: what it is.
        parts: its solids.
        low, high: [3] corners of the box around it.
    """

    name: str
    parts: tuple[Part, ...]
    low: np.ndarray
    high: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """[3]: width (x), height (y), depth (z) in metres."""
        return self.high - self.low


def place(thing: Thing, spot: Sequence[float], height: float, angle: float) -> list[Part]:
    """The parts of a thing that stands in a room (z up).

    Args:
        thing: y up, front to +z.
        spot: x and y of its middle, metres.
        height: z of its base.
        angle: radians about z; at 0 its front looks to -y.
    """
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ Y_TO_Z
    offset = np.array([spot[0], spot[1], height])
    return [
        dataclasses.replace(
            part,
            solid=primitives.Placed(
                part.solid.solid, turn @ part.solid.offset + offset, turn @ part.solid.rotation
            ),
        )
        for part in thing.parts
    ]


def scaled(solid, factor: float):
    """A solid of ``gsjax.data.shapes``, ``factor`` times as large about its origin."""
    grow = lambda values: tuple(float(v) * factor for v in values)  # noqa: E731
    if isinstance(solid, primitives.Placed):
        return primitives.Placed(scaled(solid.solid, factor), solid.offset * factor, solid.rotation)
    if isinstance(solid, primitives.Box):
        return primitives.Box(grow(solid.half))
    if isinstance(solid, primitives.Ellipsoid):
        return primitives.Ellipsoid(grow(solid.radii))
    if isinstance(solid, primitives.Capsule):
        return primitives.Capsule(solid.half_length * factor, solid.radius * factor)
    if isinstance(solid, primitives.Revolve):
        return primitives.Revolve(tuple(grow(corner) for corner in solid.profile))
    raise ValueError(f"solid: {type(solid).__name__} cannot be scaled")


def _finish(name: str, label: int, solids) -> Thing:
    """A thing of (Placed, Texture) pairs, moved so that its base is centred at the origin."""
    corners = [rays.bounds(solid) for solid, _ in solids]
    low = np.min([c[0] for c in corners], axis=0)
    high = np.max([c[1] for c in corners], axis=0)
    shift = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    parts = tuple(
        Part(primitives.Placed(s.solid, s.offset - shift, s.rotation), label, texture)
        for s, texture in solids
    )
    return Thing(name, parts, low - shift, high - shift)


def _texture(rng, paint: csg.Paint, patterned: float = 0.3) -> Texture:
    """A texture around the colour of a paint: planks for wood, else at times a pattern."""
    first = np.array(paint.rgb)
    seed = int(rng.integers(1 << 30))
    if "wooden" in paint.name:
        second = tuple(first * 0.72)
        return Texture("planks", tuple(first), second, float(rng.uniform(0.09, 0.16)), seed)
    if rng.random() > patterned:
        return Texture("plain", tuple(first))
    kind = ("noise", "stripes", "checker")[int(rng.integers(3))]
    other = np.clip(first + rng.uniform(-0.35, 0.35, 3), 0.03, 0.97)
    return Texture(kind, tuple(first), tuple(other), float(rng.uniform(0.12, 0.3)), seed)


def _from_recipe(rng, name, label, recipe, limits, patterned=0.3) -> Thing:
    """A thing from a recipe of ``gsjax.data.shapes``, as large as fits ``limits`` (w, h, d)."""
    draft = Draft(rng, csg.Assembly(), name)
    recipe(draft)
    pieces = draft.assembly.pieces
    corners = [rays.bounds(piece.solid) for piece in pieces]
    extent = np.max([c[1] for c in corners], axis=0) - np.min([c[0] for c in corners], axis=0)
    factor = float(np.min(np.array(limits) / extent))
    paints = {}
    for piece in pieces:  # one paint, one texture
        if piece.paint not in paints:
            paints[piece.paint] = _texture(rng, piece.paint, patterned)
    return _finish(
        name, label, [(scaled(piece.solid, factor), paints[piece.paint]) for piece in pieces]
    )


def chair(rng) -> Thing:
    """A chair that fits 0.62 x 1.0 x 0.62 m."""
    return _from_recipe(rng, "chair", LABEL["chair"], furniture.chair, (0.62, 1.0, 0.62))


def table(rng) -> Thing:
    """A table up to 0.76 m high."""
    limits = (rng.uniform(0.9, 1.7), 0.76, 1.1)
    return _from_recipe(rng, "table", LABEL["table"], furniture.table, limits)


def sofa(rng) -> Thing:
    """A sofa of one to four seats."""
    limits = (2.3, 0.95, 0.95)
    return _from_recipe(rng, "sofa", LABEL["sofa"], furniture.sofa, limits, patterned=0.6)


def bed(rng) -> Thing:
    """A bed up to 2.1 m long, its head at the back."""
    limits = (1.8, 1.2, 2.1)
    return _from_recipe(rng, "bed", LABEL["bed"], furniture.bed, limits, patterned=0.7)


def floor_lamp(rng) -> Thing:
    """A lamp on a tall stand."""
    limits = (0.5, rng.uniform(1.3, 1.7), 0.5)
    return _from_recipe(rng, "floor lamp", LABEL["lamp"], household.lamp, limits)


def table_lamp(rng) -> Thing:
    """A lamp for a table."""
    limits = (0.35, rng.uniform(0.35, 0.5), 0.35)
    return _from_recipe(rng, "table lamp", LABEL["lamp"], household.lamp, limits)


def small_thing(rng) -> Thing:
    """A bottle, a bowl or a candle."""
    recipe = (household.bottle, household.bowl, household.candle)[int(rng.integers(3))]
    limits = (0.3, rng.uniform(0.15, 0.35), 0.3)
    return _from_recipe(rng, recipe.__name__, LABEL["clutter"], recipe, limits)


class _Boxes:
    """Collects upright boxes and rods of one thing."""

    def __init__(self):
        self.assembly = csg.Assembly()
        self.textures: list[Texture] = []

    def box(self, size, at, texture) -> None:
        half = tuple(float(s) / 2 for s in size)
        centre = np.asarray(at, float) + (0, half[1], 0)
        self._add(primitives.Box(half), centre, texture)

    def rod(self, radius, height, at, texture, top=None) -> None:
        self._add(primitives.cylinder(float(radius), float(height), top), at, texture)

    def ball(self, radii, at, texture, turn=None) -> None:
        radii = tuple(float(r) for r in np.broadcast_to(radii, 3))
        self._add(primitives.Ellipsoid(radii), at, texture, turn)

    def _add(self, solid, at, texture, turn=None) -> None:
        self.assembly.add(solid, "", None, at, turn)
        self.textures.append(texture)

    def done(self, name: str, label: str) -> Thing:
        pieces = zip(self.assembly.pieces, self.textures, strict=True)
        return _finish(name, LABEL[label], [(piece.solid, texture) for piece, texture in pieces])


def _paint(rng, wood: float = 0.5) -> Texture:
    draft = Draft(rng, csg.Assembly(), "")
    return _texture(rng, draft.wood() if rng.random() < wood else draft.colour())


def shelf(rng) -> Thing:
    """Open shelves with rows of books."""
    width, height, depth = rng.uniform(0.6, 1.4), rng.uniform(0.9, 2.0), rng.uniform(0.25, 0.38)
    wood, board, b = _paint(rng, 0.7), 0.03, _Boxes()
    for side in (-1, 1):
        b.box((board, height, depth), (side * (width - board) / 2, 0, 0), wood)
    b.box((width - 2 * board, height, 0.02), (0, 0, -depth / 2 + 0.01), wood)
    levels = max(int(height / rng.uniform(0.3, 0.45)), 2)
    gap = (height - board) / levels
    for level in range(levels + 1):
        b.box((width - 2 * board, board, depth - 0.02), (0, level * gap, 0.01), wood)
    for level in range(levels):
        left = -width / 2 + board + 0.01
        for _ in range(int(rng.integers(0, 5))):
            size = (rng.uniform(0.06, 0.3), gap * rng.uniform(0.45, 0.85), depth * 0.7)
            if left + size[0] > width / 2 - board - 0.01:
                break
            base = level * gap + board
            b.box(size, (left + size[0] / 2, base, 0.0), _paint(rng, 0.1))
            left += size[0] + rng.choice([0.002, 0.05])
    return b.done("shelf", "shelf")


def cupboard(rng) -> Thing:
    """A closed cupboard or a chest of drawers, with knobs."""
    width, height, depth = rng.uniform(0.6, 1.5), rng.uniform(0.7, 2.1), rng.uniform(0.35, 0.6)
    body, front, b = _paint(rng), _paint(rng), _Boxes()
    knob = Texture("plain", (0.75, 0.72, 0.6))
    b.box((width, height, depth), (0, 0, 0), body)
    columns = int(rng.integers(1, 4))
    rows = int(rng.integers(2, 5)) if height < 1.3 else 1
    panel = np.array([width / columns, (height - 0.08) / rows])
    for row in range(rows):
        for column in range(columns):
            x = (column - (columns - 1) / 2) * panel[0]
            y = 0.06 + row * panel[1]
            b.box((panel[0] - 0.03, panel[1] - 0.03, 0.02), (x, y, depth / 2 + 0.01), front)
            b.ball(0.02, (x + 0.3 * panel[0], y + panel[1] / 2, depth / 2 + 0.035), knob)
    return b.done("cupboard", "cupboard")


def desk(rng) -> Thing:
    """A desk with drawers at one side."""
    width, depth = rng.uniform(1.0, 1.6), rng.uniform(0.55, 0.8)
    top, leg, b = _paint(rng, 0.7), _paint(rng, 0.3), _Boxes()
    b.box((width, 0.04, depth), (0, 0.7, 0), top)
    for z in (-1, 1):
        b.box((0.05, 0.7, 0.05), (-width / 2 + 0.05, 0, z * (depth / 2 - 0.05)), leg)
    b.box((0.4, 0.7, depth - 0.04), (width / 2 - 0.22, 0, 0), leg)
    for row in range(3):
        b.box((0.36, 0.2, 0.02), (width / 2 - 0.22, 0.04 + 0.22 * row, depth / 2 - 0.01), top)
    return b.done("desk", "table")


def plant(rng) -> Thing:
    """A pot with a stem and leaves."""
    radius, height, b = rng.uniform(0.12, 0.22), rng.uniform(0.6, 1.5), _Boxes()
    pot = 1.6 * radius
    b.rod(radius * 0.75, pot, (0, 0, 0), _paint(rng, 0.0), top=radius)
    stem = Texture("plain", (0.35, 0.24, 0.12))
    b.rod(0.025, height - pot, (0, pot - 0.02, 0), stem, top=0.012)
    green = np.array([0.12, 0.42, 0.14]) * rng.uniform(0.7, 1.4, 3)
    for _ in range(int(rng.integers(5, 10))):
        tone = np.clip(green * rng.uniform(0.8, 1.25), 0, 1)
        leaf = Texture("noise", tuple(tone), tuple(tone * 0.6), 0.15, int(rng.integers(1 << 30)))
        turn = csg.rotation(y=rng.uniform(0, 360)) @ csg.rotation(z=rng.uniform(10, 60))
        reach = rng.uniform(0.1, 0.24)
        at = turn @ (reach, 0, 0) + (0, rng.uniform(0.45, 0.95) * height, 0)
        b.ball((reach, 0.025, rng.uniform(0.05, 0.1)), at, leaf, turn)
    return b.done("plant", "plant")


def carton(rng) -> Thing:
    """One to three boxes on one another."""
    b, base, width = _Boxes(), 0.0, rng.uniform(0.3, 0.6)
    for _ in range(int(rng.integers(1, 4))):
        height = rng.uniform(0.18, 0.4)
        card = np.array([0.72, 0.55, 0.36]) * rng.uniform(0.75, 1.2)
        paint = Texture("plain", tuple(np.clip(card, 0, 1)))
        if rng.random() < 0.4:
            paint = _paint(rng, 0.0)
        b.box((width, height, width * rng.uniform(0.7, 1.0)), (0, base, 0), paint)
        base += height
        width *= rng.uniform(0.7, 0.95)
    return b.done("carton", "clutter")


def screen(rng) -> Thing:
    """A monitor or a television on its foot."""
    width, b = rng.uniform(0.45, 0.9), _Boxes()
    height = 0.6 * width
    case = Texture("plain", (0.08, 0.08, 0.09))
    shown = tuple(rng.uniform(0.1, 0.6, 3))
    picture = Texture("noise", shown, tuple(rng.uniform(0.2, 0.9, 3)), 0.2, int(rng.integers(999)))
    b.box((0.4 * width, 0.02, 0.18), (0, 0, 0), case)
    b.box((0.06, 0.12, 0.04), (0, 0.02, -0.02), case)
    b.box((width, height, 0.05), (0, 0.12, 0), case)
    b.box((width - 0.04, height - 0.04, 0.005), (0, 0.14, 0.0275), picture)
    return b.done("screen", "clutter")


def ball(rng) -> Thing:
    """A ball on the floor."""
    b = _Boxes()
    b.ball(rng.uniform(0.1, 0.3), (0, 0, 0), _paint(rng, 0.0))
    return b.done("ball", "clutter")


def rug(rng) -> Thing:
    """A thin rug."""
    b = _Boxes()
    size = (rng.uniform(1.2, 2.4), 0.012, rng.uniform(0.9, 1.7))
    b.box(size, (0, 0, 0), _texture(rng, Draft(rng, csg.Assembly(), "").colour(), 1.0))
    return b.done("rug", "floor")


def pendant(rng, drop: float) -> Thing:
    """A lamp that hangs ``drop`` metres from the ceiling: its top is at y = drop."""
    radius, b = rng.uniform(0.12, 0.25), _Boxes()
    cord = Texture("plain", (0.1, 0.1, 0.1))
    shade = Texture("glow", tuple(rng.uniform((0.9, 0.8, 0.55), (1.0, 0.97, 0.9))))
    if rng.random() < 0.5:
        b.ball(radius, (0, radius, 0), shade)
        b.rod(0.01, drop - 1.9 * radius, (0, 1.9 * radius, 0), cord)
    else:
        b.rod(radius, 0.2, (0, 0, 0), shade, top=0.3 * radius)
        b.rod(0.01, drop - 0.19, (0, 0.19, 0), cord)
    return b.done("pendant", "lamp")


MAKERS: dict[str, Callable[[np.random.Generator], Thing]] = {
    "chair": chair, "table": table, "sofa": sofa, "bed": bed, "shelf": shelf, "cupboard": cupboard,
    "desk": desk, "floor lamp": floor_lamp, "table lamp": table_lamp, "plant": plant,
    "carton": carton, "screen": screen, "small thing": small_thing, "ball": ball, "rug": rug,
}  # fmt: skip
