"""Cameras in a room: a person who stands and looks around, or walks about. Never inside furniture."""

import collections
import functools

import numpy as np

from gsjax.data.rooms.layout import Room
from gsjax.data.rooms.render import Caster

KINDS = ("look", "walk", "glide")  # 'mixed' recipes draw one of the first two
CLEARANCE = 0.2  # metres that every camera keeps from furniture and walls
CELL = 0.1
_MARGIN = CLEARANCE + 0.1  # of the cells: a place between two of them still keeps CLEARANCE
_SPEED = 0.12  # greatest step of a walk, metres a frame
_LEVELS = (1.2, 1.65)  # heights of cameras, metres
_CANDIDATES = {"look": 6, "walk": 6, "glide": 20}  # paths drawn, of which one is taken
_GLIDE = (0.35, 1.1)  # length of a glide, metres
_AHEAD = (1.5, 3.0)  # metres to the point that a glide keeps in view
_NEAREST = 0.5  # metres that a glide's pictures keep from what they show, at five rays a frame


def cameras(caster: Caster, num_frames: int, rng: np.random.Generator, kind: str) -> np.ndarray:
    """Cameras of one recording.

    Args:
        caster: the room.
        num_frames: F.
        rng: of the path.
        kind: 'look' (one place, a turn over 220 to 400 degrees), 'walk' (through the room, with
            slower turns) or 'glide' (a straight metre or less past a point that stays in view: every
            frame sees much of what every other sees).

    Returns:
        viewmats float64 [F, 4, 4], world to camera, OpenCV axes; z of the world points up in the
        pictures.

    Raises:
        ValueError: unknown kind, no frames, or a room too full to stand in.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: unknown {kind!r}; known: {', '.join(KINDS)}")
    if num_frames < 1:
        raise ValueError(f"num_frames: expected 1 or more, found {num_frames}")
    free, origin = free_cells(caster.room)
    region = largest_region(free)
    if not region.any():
        raise ValueError("room: there is no place to stand; draw another one")
    # Of a few paths the one that sees farthest and most furniture, not a near wall all the time.
    draw = _glide if kind == "glide" else functools.partial(_path, kind=kind)
    drawn = [draw(region, origin, num_frames, rng) for _ in range(_CANDIDATES[kind])]
    few = np.unique(
        np.linspace(0, num_frames - 1, 3 if kind == "glide" else 10).round().astype(int)
    )
    scores = _sights(caster, [[x[few] for x in path] for path in drawn], 5.0 * (kind == "glide"))
    eyes, yaw, pitch = drawn[int(np.argmax(scores))]
    return look_along(eyes, directions(yaw, pitch))


def _path(region, origin, num_frames, rng, kind):
    """Eyes [F, 3] and angles yaw [F] and pitch [F] in radians of one path."""
    time = np.linspace(0, 1, num_frames)
    wave = lambda most: np.sin(2 * np.pi * (time * rng.uniform(1, most) + rng.random()))  # noqa: E731
    if kind == "look":
        spots, turn = _stand(region, origin, num_frames, rng), rng.uniform(220, 400)
    else:
        spots, turn = _walk(region, origin, num_frames, rng), rng.uniform(120, 300)
    height = rng.uniform(*_LEVELS) + 0.06 * wave(3)
    yaw = rng.uniform(0, 360) + rng.choice((-1, 1)) * turn * time + rng.uniform(0, 12) * wave(2.5)
    pitch = rng.uniform(-28, -14) + 7 * wave(2)
    eyes = np.column_stack([spots, np.clip(height, *_LEVELS)])
    return eyes, np.deg2rad(yaw), np.deg2rad(pitch)


def _glide(region, origin, num_frames, rng):
    """As :func:`_path`: evenly along a straight line of free cells, looking at one point."""
    cells = np.argwhere(region)
    free = np.pad(region, 1)  # a line that leaves the grid is not free
    for _ in range(60):
        start = cells[int(rng.integers(len(cells)))]
        heading = rng.uniform(0, 2 * np.pi)
        length = rng.uniform(*_GLIDE)
        end = start + length / CELL * np.array([np.cos(heading), np.sin(heading)])
        if (end > -0.5).all() and (end < np.array(region.shape) - 0.5).all():
            if _straight(free, start + 1, end + 1):
                break
    else:
        # Hardly any way in a very full room: to a neighbouring cell, which a region always has.
        steps = np.abs(cells - start).sum(-1)
        end = cells[int(np.argmax(steps == 1))].astype(float)
    time = np.linspace(0, 1, num_frames)[:, None]
    spots = origin + CELL * (start + time * (end - start))
    # Sideways, ahead or backwards: any direction of view; it turns with the way to keep its point.
    gaze, reach = rng.uniform(0, 2 * np.pi), rng.uniform(*_AHEAD)
    point = spots.mean(0) + reach * np.array([np.cos(gaze), np.sin(gaze)])
    ahead = point - spots
    height = rng.uniform(*_LEVELS) + rng.uniform(-0.1, 0.1) * (time[:, 0] - 0.5)
    height = np.clip(height, *_LEVELS)
    drop = rng.uniform(0.5, 1.3)  # height of the point
    pitch = np.arctan2(drop - height, np.hypot(*ahead.T))
    return np.column_stack([spots, height]), np.arctan2(ahead[:, 1], ahead[:, 0]), pitch


_LOOKS = ((0, 0), (-0.3, -0.2), (0.3, -0.2), (-0.3, 0.2), (0.3, 0.2))  # yaw and pitch, radians


def _sights(caster: Caster, drawn, too_near: float) -> list[float]:
    """Of each path: mean of distance (up to 3 m, as a share) and of furniture hit, five rays a frame.

    Args:
        caster: the room.
        drawn: paths (eyes [F, 3], yaw [F], pitch [F]), all of as many frames.
        too_near: taken off for the share of rays that end within ``_NEAREST``.
    """
    eyes = [eyes for eyes, _, _ in drawn for _ in _LOOKS]
    looks = [directions(yaw + a, pitch + b) for _, yaw, pitch in drawn for a, b in _LOOKS]
    hits = caster.cast(np.concatenate(eyes), np.concatenate(looks))  # one call for all
    shape = (len(drawn), len(_LOOKS), -1)
    scores = []
    for t, part in zip(hits.t.reshape(shape), hits.part.reshape(shape)):
        score = sum((np.minimum(d, 3.0) / 3.0 + 1.5 * (p >= 0)).mean() for d, p in zip(t, part))
        scores.append(score - too_near * (t < _NEAREST).sum() / t.shape[-1])
    return scores


def directions(yaw: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Unit vectors [F, 3] from angles in radians: yaw about z from +x, pitch up from level."""
    flat = np.cos(pitch)
    return np.stack([flat * np.cos(yaw), flat * np.sin(yaw), np.sin(pitch)], -1)


def look_along(eyes: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """viewmats [F, 4, 4] of cameras at ``eyes`` [F, 3]; ``forward`` [F, 3] unit, not along z."""
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    turns = np.stack([right, np.cross(forward, right), forward], axis=-2)
    viewmats = np.zeros((len(eyes), 4, 4))
    viewmats[:, :3, :3] = turns
    viewmats[:, :3, 3] = -np.einsum("fij,fj->fi", turns, eyes)
    viewmats[:, 3, 3] = 1
    return viewmats


def free_cells(room: Room) -> tuple[np.ndarray, np.ndarray]:
    """Where a person can stand: bool [X, Y] of cells, and the middle [2] of cell (0, 0)."""
    low, high = room.low[:2] + _MARGIN, room.high[:2] - _MARGIN
    shape = np.maximum(np.floor((high - low) / CELL).astype(int) + 1, 1)
    places = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) * CELL + low
    free = np.ones(shape, bool)
    for corners in room.footprints:
        # Distance to a convex polygon is at least the largest distance to the lines of its edges.
        edges = np.roll(corners, -1, axis=0) - corners
        outward = np.stack([edges[:, 1], -edges[:, 0]], -1)
        outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
        beyond = np.einsum("xyed,ed->xye", places[:, :, None] - corners, outward)
        free &= beyond.max(-1) > _MARGIN
    return free, low


def largest_region(free: np.ndarray) -> np.ndarray:
    """The largest 4-connected region of free cells, bool like ``free``."""
    best, left = np.zeros_like(free), free.copy()
    while left.any():
        start = tuple(np.argwhere(left)[0])
        region = _steps(free, start) >= 0
        left &= ~region
        if region.sum() > best.sum():
            best = region
    return best


def _steps(free: np.ndarray, start) -> np.ndarray:
    """Steps from ``start`` to each cell over free ones, -1 where there is no way."""
    steps = np.full(free.shape, -1)
    steps[start] = 0
    queue = collections.deque([start])
    while queue:
        x, y = queue.popleft()
        for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            inside = 0 <= cell[0] < free.shape[0] and 0 <= cell[1] < free.shape[1]
            if inside and free[cell] and steps[cell] < 0:
                steps[cell] = steps[x, y] + 1
                queue.append(cell)
    return steps


def _route(free: np.ndarray, start, end) -> list[tuple[int, int]]:
    """Cells of a shortest way."""
    steps, way = _steps(free, end), [tuple(start)]
    while steps[way[-1]] > 0:
        x, y = way[-1]
        for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            inside = 0 <= cell[0] < free.shape[0] and 0 <= cell[1] < free.shape[1]
            if inside and steps[cell] == steps[x, y] - 1:
                way.append(cell)
                break
    return way


def _stand(region, origin, num_frames, rng) -> np.ndarray:
    """Places [F, 2] on a small circle around one free cell."""
    cells = np.argwhere(region)
    cell = cells[int(rng.integers(len(cells)))]
    angle = 2 * np.pi * (np.arange(num_frames) / num_frames + rng.random())
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    return origin + CELL * (cell + 0.4 * circle)  # stays within half a cell


def _walk(region, origin, num_frames, rng) -> np.ndarray:
    """Places [F, 2] at even distances along ways between random free cells."""
    cells = np.argwhere(region)
    wanted = 1.0 + _SPEED * 0.8 * num_frames * rng.uniform(0.4, 1.0)
    way = [tuple(cells[int(rng.integers(len(cells)))])]
    length = 0.0
    for _ in range(20):
        goal = tuple(cells[int(rng.integers(len(cells)))])
        added = _shortened(region, _route(region, way[-1], goal))[1:]
        for cell in added:
            length += CELL * np.hypot(cell[0] - way[-1][0], cell[1] - way[-1][1])
            way.append(cell)
        if length > wanted:
            break
    corners = origin + CELL * np.array(way, float)
    steps = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=-1))]
    reach = min(steps[-1], _SPEED * max(num_frames - 1, 0))
    along = np.linspace(0, reach, num_frames)
    return np.stack([np.interp(along, steps, corners[:, i]) for i in range(2)], -1)


def _shortened(free: np.ndarray, way: list) -> list:
    """A way with corners left out where the straight line stays on free cells."""
    kept, place = [way[0]], 0
    while place < len(way) - 1:
        ahead = len(way) - 1
        while ahead > place + 1 and not _straight(free, way[place], way[ahead]):
            ahead -= 1
        place = ahead
        kept.append(way[place])
    return kept


def _straight(free: np.ndarray, start, end) -> bool:
    number = 4 * int(max(abs(end[0] - start[0]), abs(end[1] - start[1]))) + 2
    line = np.linspace(start, end, number)
    # Both neighbours where the line runs between two cells.
    for nudge in (-1e-6, 1e-6):
        cells = np.rint(line + nudge).astype(int)
        if not free[cells[:, 0], cells[:, 1]].all():
            return False
    return True
