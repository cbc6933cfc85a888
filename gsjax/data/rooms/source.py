"""Rooms as scenes: recordings of F posed RGB-D frames and a point cloud, by (seed, split, index).

Frames are cast when asked for; ``scenes.Kept`` keeps them in memory and ``scene_store`` on disk.
Worlds have z up and the floor's middle at the origin, in metres. Classes: ``LABELS``.
"""

import dataclasses
import functools
import threading

import numpy as np

from gsjax.data import clouds, features
from gsjax.data.rooms import layout, paths, render, things
from gsjax.data.scenes import View

LABELS = things.LABELS
_DRAWS = 20  # rooms tried until one has place to stand
_COINCIDENT = 1e-4  # metres: a point this near to another thing touches it


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How rooms are recorded.

    Attributes:
        num_frames: F.
        width, height: pixels.
        fov_degrees: horizontal angle of view; pixels are square.
        principal: principal point as shares of width and height; (0.5, 0.5) is the middle.
        path: 'look', 'walk', or 'mixed' (either of these, drawn for each room); 'glide', a short way
            with one direction of view, so that frames overlap and have parallax.
        supersample: k x k rays a pixel for colours.
        num_points: of the cloud.
        points_from: 'surfaces' (even by area, hidden sides included) or 'views' (pixels of the
            frames, thinned to a 2 cm grid: what a scanner would have seen).
        size: least and greatest length of a wall, metres.
        families: of things that rooms may hold, see ``layout.furnish``; empty = all.
    """

    num_frames: int = 64
    width: int = 160
    height: int = 120
    fov_degrees: float = 57.95161  # ScanNet's depth camera
    principal: tuple[float, float] = (0.5, 0.5)
    path: str = "mixed"
    supersample: int = 1
    num_points: int = 100_000
    points_from: str = "surfaces"
    size: tuple[float, float] = (3.0, 6.5)
    families: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("num_frames", "width", "height", "supersample", "num_points"):
            if getattr(self, name) < 1:
                raise ValueError(f"Recipe.{name}: expected 1 or more, found {getattr(self, name)}")
        if not 0 < self.fov_degrees < 180:
            raise ValueError(
                f"Recipe.fov_degrees: expected degrees between 0 and 180, found {self.fov_degrees}"
            )
        if self.path not in (*paths.KINDS, "mixed"):
            raise ValueError(
                f"Recipe.path: unknown {self.path!r}; known: {', '.join(paths.KINDS)}, mixed"
            )
        if unknown := sorted(set(self.families) - set(layout.FAMILIES)):
            raise ValueError(
                f"Recipe.families: unknown {unknown}; known: {', '.join(layout.FAMILIES)}"
            )
        if self.points_from not in ("surfaces", "views"):
            raise ValueError(
                f"Recipe.points_from: expected 'surfaces' or 'views', found {self.points_from!r}"
            )

    def identity(self) -> dict:
        """What rooms of this recipe depend on, as plain values; options of later versions only if set."""
        fields = dataclasses.asdict(self)
        if not self.families:
            del fields["families"]
        return fields

    @property
    def K(self) -> np.ndarray:
        """Intrinsics [3, 3] in pixels."""
        focal = 0.5 * self.width / np.tan(np.deg2rad(self.fov_degrees) / 2)
        x, y = self.principal[0] * self.width, self.principal[1] * self.height
        return np.array([[focal, 0, x], [0, focal, y], [0, 0, 1.0]])


class Rooms:
    """``count`` rooms of a split; room i is the same whatever ``count`` is.

    Args:
        count: rooms.
        seed: of the whole set.
        split: any name; splits of different names share no room.
        recipe: how they are recorded.
    """

    def __init__(self, count: int, *, seed: int, split: str, recipe: Recipe = Recipe()):
        if count < 1:
            raise ValueError(f"count: expected 1 room or more, found {count}")
        self._count, self._seed, self._split, self._recipe = count, seed, split, recipe

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> "RoomScene":
        if not 0 <= index < self._count:
            raise IndexError(f"index: expected 0 to {self._count - 1}, found {index}")
        return RoomScene(index, seed=self._seed, split=self._split, recipe=self._recipe)


class RoomScene:
    """One room; a ``scenes.Scene``. See :class:`Rooms` for the arguments."""

    def __init__(self, index: int, *, seed: int, split: str, recipe: Recipe = Recipe()):
        self.name = f"room-{seed}/{split}/{index:06d}"
        self.recipe = recipe
        self._key = (seed, split, index)
        self._lock = threading.Lock()

    def _rng(self, what: str) -> np.random.Generator:
        return np.random.default_rng(features.stable_seed("room", *self._key, what))

    @functools.cached_property
    def _made(self) -> tuple[render.Caster, np.ndarray]:
        for draw in range(_DRAWS):
            rng = self._rng(f"layout {draw}")
            caster = render.Caster(layout.furnish(rng, self.recipe.size, self.recipe.families))
            kind = self.recipe.path
            kind = paths.KINDS[int(rng.integers(2))] if kind == "mixed" else kind
            free, _ = paths.free_cells(caster.room)
            # A square metre to stand on, so that a walk leads somewhere.
            if paths.largest_region(free).sum() * paths.CELL**2 >= 1.0:
                return caster, paths.cameras(caster, self.recipe.num_frames, rng, kind)
        raise ValueError(
            f"{self.name}: {_DRAWS} rooms drawn, none with a square metre to stand on; raise "
            f"Recipe.size above {self.recipe.size}"
        )

    @property
    def caster(self) -> render.Caster:
        """The room and its rays."""
        with self._lock:
            return self._made[0]

    @property
    def num_frames(self) -> int:
        return self.recipe.num_frames

    @property
    def viewmats(self) -> np.ndarray:
        with self._lock:
            return self._made[1]

    def neighbours(self, frame: int) -> None:
        """Not known beforehand: frames close in time."""
        del frame

    def frame(self, frame: int) -> render.Frame:
        """Everything about one picture, normals included."""
        recipe = self.recipe
        return self.caster.render(
            self.viewmats[frame], recipe.K, recipe.width, recipe.height,
            supersample=recipe.supersample,
        )  # fmt: skip

    def view(self, frame: int) -> View:
        made = self.frame(frame)
        return View(made.image, made.depth, made.label, self.viewmats[frame], self.recipe.K)

    def cloud(self) -> clouds.Cloud:
        rng = self._rng("cloud")
        if self.recipe.points_from == "views":
            return view_cloud(self, self.recipe.num_points, rng)
        return surface_cloud(self.caster, self.recipe.num_points, rng)


def surface_cloud(caster: render.Caster, num_points: int, rng: np.random.Generator) -> clouds.Cloud:
    """Points on all surfaces of a room, even by area.

    Sides inside a solid, and where one thing touches another or the shell, are left out; sides that no
    camera happens to see are not.

    Args:
        caster: the room.
        num_points: P.
        rng: of the points.
    """
    room = caster.room
    areas = np.array([part.solid.area for part in room.parts])
    size = room.high - room.low
    faces = np.repeat([size[1] * size[2], size[0] * size[2], size[0] * size[1]], 2)
    weights = np.r_[areas, faces] / (areas.sum() + faces.sum())
    columns, found = [], 0
    for _ in range(20):
        share = rng.multinomial(64 + int(1.6 * (num_points - found)), weights)
        for number, n in enumerate(share):
            if not n:
                continue
            if number < len(areas):
                points, _ = room.parts[number].solid.sample(rng, n)
            else:
                number = len(areas) - 1 - number  # -1 - face
                points = rng.uniform(room.low, room.high, (n, 3))
                face = -1 - number
                points[:, face // 2] = (room.low, room.high)[face % 2][face // 2]
            points = points[_open(caster, number, points)]
            columns.append((points, np.full(len(points), number)))
            found += len(points)
        if found >= num_points:
            break
    if found < num_points:
        raise ValueError(f"surface_cloud: {found} of {num_points} points are not hidden")
    points, part = (np.concatenate(c) for c in zip(*columns))
    rows = rng.permutation(found)[:num_points]
    points, part = points[rows], part[rows]
    rgb, label, normals = caster.surface(part, points)
    return _cloud(points, rgb, normals, label)


def _open(caster: render.Caster, number: int, points: np.ndarray) -> np.ndarray:
    """Which points of one part (or -1 - face of the shell) are not covered by another: bool [P]."""
    room = caster.room
    keep = np.ones(len(points), bool)
    low, high = points.min(0) - _COINCIDENT, points.max(0) + _COINCIDENT
    near = ((caster.low <= high) & (caster.high >= low)).all(-1)
    thing = room.parts[number].thing if number >= 0 else None
    for other in np.flatnonzero(near):
        if other != number:
            # Sides that lie flush within one thing are the same side twice; elsewhere a contact.
            margin = -_COINCIDENT if room.parts[other].thing == thing else _COINCIDENT
            rows = np.flatnonzero(keep)
            keep[rows] = room.parts[other].solid.value(points[rows]) > margin
    if number >= 0:
        inner = np.minimum(points - room.low, room.high - points).min(-1)
        keep &= inner > _COINCIDENT
    return keep


def view_cloud(
    scene: RoomScene,
    num_points: int,
    rng: np.random.Generator,
    *,
    num_views: int = 16,
    voxel: float = 0.02,
) -> clouds.Cloud:
    """Points at pixels of evenly spaced frames, one in each voxel, at most ``num_points``.

    They are the hits themselves: on the surface, with its normal, label and colour.

    Args:
        scene: the room.
        num_points: most points.
        rng: which pixel of a voxel, and which of too many points.
        num_views: frames used.
        voxel: metres.
    """
    frames = np.unique(np.linspace(0, scene.num_frames - 1, num_views).round().astype(int))
    columns = []
    for number in frames:
        made = scene.frame(int(number))
        points = clouds.back_project(made.depth, scene.viewmats[number], scene.recipe.K)
        columns.append([x.reshape(-1, *x.shape[2:]) for x in
                        (points, made.image, made.normal, made.label)])  # fmt: skip
    points, rgb, normals, label = (np.concatenate(c) for c in zip(*columns))
    rows = clouds.grid_sample(points, voxel, rng)
    rows = rng.permutation(rows)[:num_points]
    return _cloud(points[rows], rgb[rows] / 255.0, normals[rows], label[rows])


def _cloud(points, rgb, normals, label) -> clouds.Cloud:
    return clouds.Cloud(
        points.astype(np.float32),
        np.rint(255 * rgb).astype(np.uint8),
        normals.astype(np.float32),
        label.astype(np.int32),
    )
