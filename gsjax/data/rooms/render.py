"""Pictures of a room by exact ray casting: colour, depth, labels and normals at every pixel centre.

Light is baked into the surfaces (a constant, and Lambert's cosine towards every lamp and window), with
no shadows and no gloss: a point has one colour from wherever it is seen, as Gaussians of low SH degree
can show.
"""

import dataclasses

import numpy as np

from gsjax.data.rooms import rays
from gsjax.data.rooms.layout import Room
from gsjax.data.rooms.textures import albedo
from gsjax.data.rooms.things import LABEL

_AMBIENT = 0.5
_REACH = 2.5  # metres at which a lamp's light has halved
_FACE_LABELS = tuple(LABEL[name] for name in ("wall",) * 4 + ("floor", "ceiling"))


@dataclasses.dataclass(frozen=True)
class Hits:
    """Where R rays end.

    Attributes:
        t: [R] along the ray, in lengths of its direction; a room is closed, so always finite.
        part: int64 [R], place in ``Room.parts``, or -1 - face for the shell.
    """

    t: np.ndarray
    part: np.ndarray


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture with everything known about its pixels.

    Attributes:
        image: uint8 [H, W, 3].
        depth: float32 [H, W], metres along the optical axis.
        label: int8 [H, W], place in ``things.LABELS``.
        normal: float32 [H, W, 3] in the room's axes, unit, towards the camera.
        part: int64 [H, W], as in ``Hits``.
    """

    image: np.ndarray
    depth: np.ndarray
    label: np.ndarray
    normal: np.ndarray
    part: np.ndarray


class Caster:
    """Casts rays into a room; keeps the boxes around its solids.

    Args:
        room: what to look at.
    """

    def __init__(self, room: Room):
        self.room = room
        corners = [rays.bounds(part.solid) for part in room.parts]
        self.low = np.array([c[0] for c in corners]).reshape(-1, 3)
        self.high = np.array([c[1] for c in corners]).reshape(-1, 3)

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """First hits of any rays [R, 3] that start inside the room; every solid is tried."""
        hits = self._shell(origins, directions)
        for number, part in enumerate(self.room.parts):
            t = rays.first_hits(part.solid, origins, directions)
            nearer = t < hits.t
            hits.t[nearer], hits.part[nearer] = t[nearer], number
        return hits

    def look(self, viewmat: np.ndarray, K: np.ndarray, width: int, height: int) -> Hits:
        """First hits of the rays through the pixel centres, row by row; t is the depth.

        Args:
            viewmat: [4, 4] world to camera, OpenCV axes; the camera stands in the room.
            K: [3, 3] in pixels, pixel centres at +0.5.
            width, height: pixels.

        Raises:
            ValueError: the camera is outside the room.
        """
        eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
        if ((eye <= self.room.low) | (eye >= self.room.high)).any():
            raise ValueError(
                f"viewmat: the camera at {eye.round(3)} is outside the room, {self.room.low} to "
                f"{self.room.high}"
            )
        directions = pixel_rays(viewmat, K, width, height)
        hits = self._shell(eye[None], directions.reshape(-1, 3))
        depth, part = hits.t.reshape(height, width), hits.part.reshape(height, width)
        for number, (top, bottom, left, right) in self._windows(viewmat, K, width, height):
            some = directions[top:bottom, left:right]
            t = rays.first_hits(self.room.parts[number].solid, eye[None], some.reshape(-1, 3))
            t = t.reshape(some.shape[:2])
            near, own = depth[top:bottom, left:right], part[top:bottom, left:right]
            nearer = t < near
            near[nearer], own[nearer] = t[nearer], number
        return hits

    def _shell(self, origins, directions) -> Hits:
        t, face = rays.box_exit(self.room.low, self.room.high, origins, directions)
        return Hits(t, -1 - face)

    def _windows(self, viewmat, K, width, height):
        """(part, rows and columns that it may cover) of the parts that may be seen."""
        pick = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], bool)
        corners = np.where(pick, self.high[:, None], self.low[:, None])
        camera = corners @ viewmat[:3, :3].T + viewmat[:3, 3]
        depth = camera[..., 2]
        crossing = (depth < 1e-3).any(-1)
        pixels = camera @ K.T
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = pixels[..., :2] / depth[..., None]
        size = np.array([width, height])
        # A pixel is touched where its centre, half a pixel in, can be inside; one pixel to spare.
        first = np.floor(pixels.min(1) - 1).clip(0, size)
        last = np.ceil(pixels.max(1) + 1).clip(0, size)
        first[crossing], last[crossing] = 0, size
        for number in np.flatnonzero(~(depth < 1e-3).all(-1) & (first < last).all(-1)):
            (left, top), (right, bottom) = first[number].astype(int), last[number].astype(int)
            yield int(number), (top, bottom, left, right)

    def render(
        self, viewmat: np.ndarray, K: np.ndarray, width: int, height: int, *, supersample: int = 1
    ) -> Frame:
        """A picture with depth, labels and normals at the pixel centres.

        Args:
            viewmat, K, width, height: as :meth:`look`.
            supersample: k; colours are means over k x k rays of a pixel (the rest is not averaged).

        Raises:
            ValueError: the camera is outside the room, or ``supersample`` below 1.
        """
        if supersample < 1:
            raise ValueError(f"supersample: expected 1 or more, found {supersample}")
        hits = self.look(viewmat, K, width, height)
        rgb, label, normals = self.surface(hits.part, _points(viewmat, K, width, height, hits.t))
        if supersample > 1:
            k = supersample
            wide = (viewmat, K * np.array([[k], [k], [1.0]]), width * k, height * k)
            fine = self.look(*wide)
            rgb = self.surface(fine.part, _points(*wide, fine.t))[0]
            rgb = rgb.reshape(height, k, width, k, 3).mean((1, 3))
        shape = (height, width)
        return Frame(
            np.rint(255 * rgb).astype(np.uint8).reshape(*shape, 3),
            hits.t.astype(np.float32).reshape(shape),
            label.reshape(shape),
            normals.astype(np.float32).reshape(*shape, 3),
            hits.part.reshape(shape),
        )

    def surface(
        self, part: np.ndarray, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colours, labels and normals of points on the room's surfaces.

        Args:
            part: int [P], as in ``Hits``.
            points: [P, 3].

        Returns:
            rgb [P, 3] in [0, 1], shaded; label int8 [P]; normals [P, 3], unit, into the room.
        """
        rgb, normals = np.zeros((len(points), 3)), np.zeros((len(points), 3))
        label = np.zeros(len(points), np.int8)
        glow = np.zeros(len(points), bool)
        order = np.argsort(part, kind="stable")
        numbers, starts = np.unique(part[order], return_index=True)
        for number, rows in zip(numbers, np.split(order, starts[1:])):
            if number < 0:
                face = -1 - number
                normals[rows, face // 2] = -1.0 if face % 2 else 1.0
                rgb[rows], label[rows], glow[rows] = self._wall(face, points[rows], normals[rows])
                continue
            one = self.room.parts[number]
            turn = one.solid.rotation
            local = (points[rows] - one.solid.offset) @ turn
            own = rays.normals(one.solid.solid, local)
            rgb[rows], normals[rows] = albedo(one.texture, local, own), own @ turn.T
            label[rows], glow[rows] = one.label, one.texture.kind == "glow"
        light = np.where(glow, 1.0, self._light(points, normals))
        return np.clip(rgb * light[:, None], 0, 1), label, normals

    def _wall(self, face, points, normals):
        """(rgb, label, glow) of points on one face of the shell, patches included."""
        upright = np.stack([points[:, 0], points[:, 2], -points[:, 1]], -1)  # y up
        turned = np.stack([normals[:, 0], normals[:, 2], -normals[:, 1]], -1)
        rgb = albedo(self.room.shell[face], upright, turned)
        label = np.full(len(points), _FACE_LABELS[face], np.int8)
        glow = np.zeros(len(points), bool)
        along = 1 if face < 2 else 0
        places = points[:, [along, 2]]
        for patch in self.room.patches:
            inside = ((places >= patch.low) & (places <= patch.high)).all(-1)
            if patch.face != face or not inside.any():
                continue
            rows = np.flatnonzero(inside)
            pane = (patch.high - patch.low) / patch.bars
            rest = (places[rows] - patch.low) % pane
            edge = ((rest < patch.border) | (rest > pane - patch.border)).any(-1)
            for which, texture in ((edge, patch.frame), (~edge, patch.inside)):
                rgb[rows[which]] = albedo(texture, upright[rows[which]], turned[rows[which]])
                glow[rows[which]] = texture.kind == "glow"
            label[rows] = patch.label
        return rgb, label, glow

    def _light(self, points, normals):
        total = np.full(len(points), _AMBIENT)
        share = 1.2 / max(len(self.room.lights), 2)
        for lamp in self.room.lights:
            x, y, z = (lamp - points).T
            square = np.maximum(x * x + y * y + z * z, 1e-6)
            lean = x * normals[:, 0] + y * normals[:, 1] + z * normals[:, 2]
            total += share * np.maximum(lean, 0) / (np.sqrt(square) * (1 + square / _REACH**2))
        return total

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """[P]: signed distance-like value of points [P, 3] to all surfaces; negative in a solid.

        The values of solids are exact at their surface and of the right sign everywhere.
        """
        room = self.room
        nearest = np.minimum(points - room.low, room.high - points).min(-1)
        for part in room.parts:
            nearest = np.minimum(nearest, part.solid.value(points))
        return nearest


def pixel_rays(viewmat: np.ndarray, K: np.ndarray, width: int, height: int) -> np.ndarray:
    """World directions [H, W, 3] through pixel centres whose camera z is 1, so that t is depth."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([x, y, np.ones_like(x)], -1)
    return pixels @ np.linalg.inv(K).T @ viewmat[:3, :3]


def _points(viewmat, K, width, height, depth):
    eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
    return eye + depth[:, None] * pixel_rays(viewmat, K, width, height).reshape(-1, 3)
