"""Where things stand: the shell of a room, its doors and windows, and furniture that does not overlap.

Rooms are boxes with z up and the floor's middle at the origin, metres. Everything is drawn from one
generator, so a seed is a room.
"""

import dataclasses

import numpy as np

from gsjax.data.rooms import things
from gsjax.data.rooms.textures import Texture
from gsjax.data.rooms.things import LABEL, Part, Thing
from gsjax.data.shapes import primitives
from gsjax.data.shapes.draft import COLOURS

# What kinds of rooms hold: (thing, least, most, how it stands). 'wall' = its back to a wall, 'free' =
# anywhere, 'corner' = close to a corner, 'seats' = chairs around the last table or desk.
KINDS = {
    "living": [
        ("sofa", 1, 2, "wall"), ("table", 1, 1, "free"), ("shelf", 1, 2, "wall"),
        ("cupboard", 0, 1, "wall"), ("chair", 1, 2, "free"), ("floor lamp", 1, 1, "corner"),
        ("plant", 1, 2, "corner"), ("ball", 0, 1, "free"),
    ],
    "bedroom": [
        ("bed", 1, 1, "wall"), ("cupboard", 1, 2, "wall"), ("desk", 0, 1, "wall"),
        ("chair", 0, 1, "seats"), ("shelf", 0, 1, "wall"), ("floor lamp", 0, 1, "corner"),
        ("plant", 0, 1, "corner"), ("carton", 0, 2, "free"),
    ],
    "office": [
        ("desk", 1, 2, "wall"), ("chair", 1, 1, "seats"), ("shelf", 1, 3, "wall"),
        ("cupboard", 1, 1, "wall"), ("table", 0, 1, "free"), ("plant", 1, 2, "corner"),
        ("carton", 1, 3, "free"),
    ],
    "dining": [
        ("table", 1, 1, "free"), ("chair", 2, 4, "seats"), ("cupboard", 1, 2, "wall"),
        ("shelf", 0, 1, "wall"), ("sofa", 0, 1, "wall"), ("floor lamp", 0, 1, "corner"),
        ("plant", 1, 2, "corner"),
    ],
}  # fmt: skip
_TOPPINGS = ("table lamp", "small thing", "small thing", "screen", "plant")
# Families of things for training rooms and for rooms that hold nothing a model has seen: each side has
# things for walls, for the open floor, for corners and for table tops. Shells, doors, rugs and pendant
# lamps are in both.
SEEN = ("table", "desk", "chair", "shelf", "bed", "floor lamp", "table lamp", "small thing")
UNSEEN = ("sofa", "cupboard", "plant", "screen", "carton", "ball")
FAMILIES = SEEN + UNSEEN
_GAP = 0.02  # metres between a thing and the wall it stands at
_TRIES = 40
_MAX_COVERED = 0.42  # share of the floor that furniture may take


@dataclasses.dataclass(frozen=True)
class Patch:
    """A coloured rectangle on a wall: door, window, picture.

    Attributes:
        face: wall: 0 low x, 1 high x, 2 low y, 3 high y.
        low, high: corners [2] along the wall (its x or y) and up (z).
        label: place in ``things.LABELS``.
        frame, inside: textures of its border and of the rest.
        bars: window bars (columns, rows); (1, 1) has none.
        border: metres of the border and the bars.
    """

    face: int
    low: np.ndarray
    high: np.ndarray
    label: int
    frame: Texture
    inside: Texture
    bars: tuple[int, int] = (1, 1)
    border: float = 0.06


@dataclasses.dataclass(frozen=True)
class Room:
    """A furnished room.

    Attributes:
        kind: a key of ``KINDS``.
        low, high: [3] inner corners; the floor is z = low[2] = 0.
        shell: textures of the six faces (low x, high x, low y, high y, floor, ceiling).
        patches: on the walls.
        parts: every solid in it.
        names: of the things; ``Part.thing`` indexes them.
        footprints: [T, 4, 2] corners, on the floor, of what a person cannot walk through.
        lights: [L, 3] positions of lamps.
    """

    kind: str
    low: np.ndarray
    high: np.ndarray
    shell: tuple[Texture, ...]
    patches: tuple[Patch, ...]
    parts: tuple[Part, ...]
    names: tuple[str, ...]
    footprints: np.ndarray
    lights: np.ndarray


def furnish(
    rng: np.random.Generator,
    size: tuple[float, float] = (3.0, 6.5),
    families: tuple[str, ...] = (),
) -> Room:
    """Draws a room.

    Args:
        rng: the only source of randomness.
        size: least and greatest length of a wall, metres.
        families: things that it may hold, of ``FAMILIES``; any other is replaced by a random one of
            these. Empty = all.

    Raises:
        ValueError: walls under 2.5 m, which leave no place to stand, or an unknown family.
    """
    if unknown := sorted(set(families) - set(FAMILIES)):
        raise ValueError(f"families: unknown {unknown}; known: {', '.join(FAMILIES)}")
    if not 2.5 <= size[0] <= size[1]:
        raise ValueError(f"size: expected 2.5 <= least <= greatest metres, found {size}")
    width, depth = rng.uniform(*size, size=2)
    high = np.array([width / 2, depth / 2, rng.uniform(2.4, 3.0)])
    low = np.array([-high[0], -high[1], 0.0])
    kind = list(KINDS)[int(rng.integers(len(KINDS)))]
    builder = _Builder(rng, low, high, families)
    patches = builder.openings()
    builder.corner_block()
    for name, least, most, how in KINDS[kind]:
        for _ in range(int(rng.integers(least, most + 1))):
            builder.furnish(builder.allowed(name), how)
    builder.rug()
    builder.top()
    builder.pendant()
    return Room(
        kind, low, high, _shell(rng), tuple(patches), tuple(builder.parts), tuple(builder.names),
        np.array(builder.footprints).reshape(-1, 4, 2), np.array(builder.lights),
    )  # fmt: skip


def rectangle(centre, half, angle: float) -> np.ndarray:
    """Corners [4, 2], counter-clockwise, of a turned rectangle with half sizes ``half`` [2]."""
    c, s = np.cos(angle), np.sin(angle)
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * half
    return corners @ np.array([[c, s], [-s, c]]) + centre


def overlap(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two convex polygons [4, 2] overlap (separating axes)."""
    for polygon in (one, two):
        edges = np.roll(polygon, -1, axis=0) - polygon
        for axis in np.stack([edges[:2, 1], -edges[:2, 0]], -1):
            a, b = one @ axis, two @ axis
            if a.max() <= b.min() or b.max() <= a.min():
                return False
    return True


def _shell(rng) -> tuple[Texture, ...]:
    seeds = rng.integers(1 << 30, size=4)
    tone = rng.uniform(0.72, 0.93) * np.array([1, rng.uniform(0.92, 1), rng.uniform(0.82, 1)])
    wall = Texture("noise", tuple(tone), tuple(tone * 0.93), 0.8, int(seeds[0]))
    accent = wall
    choice = rng.random()
    if choice < 0.3:
        brick = (0.62, 0.3, 0.22)
        accent = Texture("bricks", brick, (0.75, 0.73, 0.7), 0.4, int(seeds[1]))
    elif choice < 0.75:
        colour = np.clip(np.array(list(COLOURS.values())[int(rng.integers(9))]), 0.15, 0.9)
        mixed = 0.6 * colour + 0.4 * tone
        kind = ("plain", "stripes", "noise")[int(rng.integers(3))]
        accent = Texture(kind, tuple(mixed), tuple(mixed * 0.85), 0.5, int(seeds[2]))
    walls = [wall] * 4
    walls[int(rng.integers(4))] = accent
    wood = np.array([(0.72, 0.53, 0.33), (0.45, 0.29, 0.17), (0.6, 0.57, 0.53)][rng.integers(3)])
    floor = Texture("planks", tuple(wood), tuple(wood * 0.7), 0.2, int(seeds[3]))
    if rng.random() < 0.35:
        floor = Texture("checker", tuple(wood), tuple(np.clip(wood * 1.4, 0, 1)), 0.5)
    ceiling = Texture("plain", (0.92, 0.92, 0.9))
    return (*walls, floor, ceiling)


class _Builder:
    """A room while it is being furnished."""

    def __init__(self, rng, low, high, families=()):
        self.rng, self.low, self.high = rng, low, high
        self._families = families
        self.parts: list[Part] = []
        self.names: list[str] = []
        self.footprints: list[np.ndarray] = []
        self.lights: list[np.ndarray] = []
        self._doors: list[np.ndarray] = []  # floor kept clear in front of them
        self._windows: list[np.ndarray] = []  # floor where nothing tall stands
        self._covered = 0.0
        self._tables: list[tuple[Thing, np.ndarray, float]] = []

    def openings(self) -> list[Patch]:
        """One or two doors, windows and pictures, on different stretches of the walls."""
        patches, taken = [], {face: [] for face in range(4)}
        wanted = ["door"] * int(self.rng.integers(1, 3))
        wanted += ["window"] * int(self.rng.integers(1, 4))
        wanted += ["picture"] * int(self.rng.integers(1, 5))
        for what in wanted:
            for _ in range(10):
                face = int(self.rng.integers(4))
                along = 1 if face < 2 else 0
                span = self.high[along] - 0.25
                width = {"door": 0.9, "window": 1.4, "picture": 0.7}[what]
                width *= self.rng.uniform(0.85, 1.15)
                if 2 * span < width + 0.1:
                    continue
                start = self.rng.uniform(-span, span - width)
                if any(start < b + 0.1 and start + width > a - 0.1 for a, b in taken[face]):
                    continue
                taken[face].append((start, start + width))
                patches.append(self._patch(what, face, start, width))
                break
        return patches

    def _patch(self, what, face, start, width) -> Patch:
        rng, top = self.rng, self.high[2]
        if what == "door":
            low, high = (start, 0.0), (start + width, 2.05)
            paint = np.array([0.85, 0.82, 0.75]) * rng.uniform(0.5, 1.0, 3)
            frame = Texture("plain", tuple(paint * 0.75))
            inside = Texture("planks", tuple(paint), tuple(paint * 0.8), 0.25)
            self._doors.append(self._before(face, start - 0.05, start + width + 0.05, 0.8))
            return Patch(face, np.array(low), np.array(high), LABEL["door"], frame, inside)
        if what == "window":
            sill = rng.uniform(0.75, 1.0)
            high = (start + width, min(sill + rng.uniform(1.0, 1.4), top - 0.15))
            sky = np.array([0.68, 0.84, 0.98]) * rng.uniform(0.85, 1.0)
            frame = Texture("plain", (0.95, 0.95, 0.93))
            inside = Texture("glow", tuple(np.clip(sky, 0, 1)))
            bars = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
            self._windows.append(self._before(face, start, start + width, 0.6))
            self.lights.append(self._on_wall(face, start + width / 2, sill + 0.6))
            return Patch(
                face, np.array((start, sill)), np.array(high), LABEL["window"], frame, inside, bars
            )
        base = rng.uniform(1.15, 1.45)
        high = (start + width, base + width * rng.uniform(0.6, 1.1))
        colours = rng.uniform(0.05, 0.95, (3, 3))
        kind = ("noise", "checker", "stripes")[int(rng.integers(3))]
        inside = Texture(
            kind, tuple(colours[0]), tuple(colours[1]), float(rng.uniform(0.2, 0.5)),
            int(rng.integers(1 << 30)),
        )  # fmt: skip
        frame = Texture("plain", tuple(colours[2] * 0.5))
        return Patch(
            face, np.array((start, base)), np.array(high), LABEL["clutter"], frame, inside,
            border=0.03,
        )  # fmt: skip

    def _on_wall(self, face, along, height) -> np.ndarray:
        """A point of a wall."""
        axis = face // 2
        spot = np.zeros(3)
        spot[axis] = (self.low, self.high)[face % 2][axis]
        spot[1 - axis], spot[2] = along, height
        return spot

    def _before(self, face, start, end, reach) -> np.ndarray:
        """The stretch of floor in front of a part of a wall, as a rectangle [4, 2]."""
        axis, sign = face // 2, -1.0 if face % 2 else 1.0
        wall = self._on_wall(face, 0.0, 0.0)[axis]
        centre, half = np.zeros(2), np.zeros(2)
        centre[axis], half[axis] = wall + sign * reach / 2, reach / 2
        centre[1 - axis], half[1 - axis] = (start + end) / 2, (end - start) / 2
        return rectangle(centre, half, 0.0)

    def corner_block(self) -> None:
        """Now and then a corner is walled off, which makes the room L-shaped."""
        if self.rng.random() > 0.35:
            return
        half = self.rng.uniform(0.1, 0.16, 2) * (self.high - self.low)[:2]
        corner = np.where(self.rng.random(2) < 0.5, -1.0, 1.0)
        centre = corner * (self.high[:2] - half)
        footprint = rectangle(centre, half, 0.0)
        if any(overlap(footprint, door) for door in self._doors + self._windows):
            return
        tone = self.rng.uniform(0.7, 0.9)
        solid = primitives.Box((float(half[0]), float(self.high[2] / 2), float(half[1])))
        texture = Texture("noise", (tone, tone, tone * 0.95), (tone * 0.9,) * 3, 0.8)
        part = Part(solid, LABEL["wall"], texture)
        self._add("corner block", [dataclasses.replace(part, solid=self._upright(solid, centre))])
        self._occupy(footprint)

    def _upright(self, solid, centre) -> primitives.Placed:
        offset = np.array([*centre, self.high[2] / 2])
        return primitives.Placed(solid, offset, things.Y_TO_Z)

    def _add(self, name: str, parts: list[Part]) -> None:
        number = len(self.names)
        self.names.append(name)
        self.parts += [dataclasses.replace(part, thing=number) for part in parts]

    def _occupy(self, footprint: np.ndarray) -> None:
        self.footprints.append(footprint)
        self._covered += abs(primitives.polygon_area(footprint))

    def allowed(self, name: str) -> str:
        """The thing itself, or another one where its family may not occur."""
        if not self._families or name in self._families:
            return name
        return self._families[int(self.rng.integers(len(self._families)))]

    def furnish(self, name: str, how: str) -> None:
        """Puts one thing where there is place for it; leaves it out where there is none."""
        floor = np.prod((self.high - self.low)[:2])
        thing = things.MAKERS[name](self.rng)
        half = thing.size[[0, 2]] / 2
        for _ in range(_TRIES):
            spot, angle = self._spot(how, half)
            footprint = rectangle(spot, half, angle)
            if self._covered + 4 * half.prod() > _MAX_COVERED * floor:
                return
            if not self._free(footprint, thing.size[1]):
                continue
            self._add(name, things.place(thing, spot, 0.0, angle))
            self._occupy(footprint)
            if name in ("table", "desk"):
                self._tables.append((thing, spot, angle))
            if "lamp" in name:
                self.lights.append(np.array([*spot, thing.size[1] - 0.1]))
            return

    def _spot(self, how: str, half: np.ndarray) -> tuple[np.ndarray, float]:
        """A place and a direction to try; the front (-y at angle 0) looks away from the wall."""
        rng = self.rng
        room = self.high[:2]
        if how == "seats" and self._tables:
            table, middle, turn = self._tables[-1]
            side = int(rng.integers(4)) if "desk" != table.name else 0
            angle = turn + side * np.pi / 2
            reach = table.size[0 if side % 2 else 2] / 2 + half[1] + 0.03
            out = np.array([np.sin(angle), -np.cos(angle)])  # front of the table, turned
            along = np.array([-out[1], out[0]]) * rng.uniform(-0.25, 0.25)
            return middle + reach * out + along, angle + np.pi  # the seat faces the table
        if how == "wall":
            face = int(rng.integers(4))
            axis, sign = face // 2, (-1.0, 1.0)[face % 2]
            spot = np.zeros(2)
            spot[axis] = sign * (room[axis] - half[1] - _GAP)
            limit = max(room[1 - axis] - half[0] - _GAP, 0.0)
            spot[1 - axis] = rng.uniform(-limit, limit)
            return spot, (np.pi / 2, -np.pi / 2, np.pi, 0.0)[face]
        angle = rng.uniform(0, 2 * np.pi)
        reach = room - np.hypot(*half) - 0.05
        if how == "corner":
            corner = np.where(rng.random(2) < 0.5, -1.0, 1.0)
            return corner * (reach - rng.uniform(0, 0.3, 2)), angle
        return rng.uniform(-1, 1, 2) * np.maximum(reach, 0), angle

    def _free(self, footprint: np.ndarray, height: float) -> bool:
        limit = self.high[:2] - 0.005
        if (np.abs(footprint) > limit).any():
            return False
        if height > 0.95 and any(overlap(footprint, w) for w in self._windows):
            return False
        return not any(overlap(footprint, other) for other in self.footprints + self._doors)

    def rug(self) -> None:
        """A rug in the free middle; furniture may not stand on it."""
        thing = things.rug(self.rng)
        half = thing.size[[0, 2]] / 2
        for _ in range(_TRIES // 2):
            spot, _ = self._spot("free", half * 0.7)
            angle = self.rng.choice([0.0, np.pi / 2]) + self.rng.normal(0, 0.05)
            footprint = rectangle(spot, half, angle)
            if self._free(footprint, 0.01):
                self._add("rug", things.place(thing, spot, 0.0, angle))
                return

    def top(self) -> None:
        """Small things on tables and desks."""
        for table, middle, angle in self._tables:
            taken: list[np.ndarray] = []
            for _ in range(int(self.rng.integers(1, 4))):
                name = _TOPPINGS[int(self.rng.integers(len(_TOPPINGS)))]
                if self._families and name not in self._families:
                    continue
                thing = things.MAKERS[name](self.rng)
                half = thing.size[[0, 2]] / 2
                # Round tops hold a square of this share of their width.
                room = 0.33 * table.size[[0, 2]] - half
                if (room < 0).any() or thing.size[1] > 0.7:
                    continue
                c, s = np.cos(angle), np.sin(angle)
                offset = self.rng.uniform(-room, room) @ np.array([[c, s], [-s, c]])
                footprint = rectangle(middle + offset, half, angle)
                if any(overlap(footprint, other) for other in taken):
                    continue
                taken.append(footprint)
                self._add(name, things.place(thing, middle + offset, table.size[1], angle))
                if "lamp" in name:
                    spot = [*(middle + offset), table.size[1] + thing.size[1]]
                    self.lights.append(np.array(spot))

    def pendant(self) -> None:
        """A lamp under the ceiling."""
        drop = self.rng.uniform(0.45, 0.6)
        spot = self.rng.uniform(-0.25, 0.25, 2) * (self.high - self.low)[:2]
        thing = things.pendant(self.rng, drop)
        self._add("pendant", things.place(thing, spot, self.high[2] - drop, 0.0))
        self.lights.append(np.array([*spot, self.high[2] - drop - 0.05]))
