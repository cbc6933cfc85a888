"""A made-up scene whose views, depths and points are known in closed form."""

import numpy as np

from gsjax.data import clouds, scenes


class WallScene:
    """Cameras on a line along x look along +y at the wall y = 4; the wall's colour is its place.

    The point (x, 4, z) has label floor(x) mod 5 and colour (40 (x + 3), 40 (z + 3), 7).
    """

    def __init__(self, name="wall", num_frames=24, width=32, height=20, near=None):
        self.name, self.num_frames, self._size, self._near = name, num_frames, (height, width), near
        self.K = np.array([[30.0, 0, 14.2], [0, 27.0, 11.3], [0, 0, 1]])

    @property
    def viewmats(self):
        eyes = np.stack(
            [np.linspace(-1.5, 1.5, self.num_frames)] + [np.zeros(self.num_frames)] * 2, 1
        )
        viewmats = np.zeros((self.num_frames, 4, 4))
        viewmats[:, :3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
        viewmats[:, :3, 3] = -np.einsum("fij,fj->fi", viewmats[:, :3, :3], eyes)
        viewmats[:, 3, 3] = 1
        return viewmats

    def neighbours(self, frame):
        return None if self._near is None else self._near(frame)

    def paint(self, points):
        rgb = np.stack(
            [40 * (points[..., 0] + 3), 40 * (points[..., 2] + 3), 0 * points[..., 0] + 7], -1
        )
        return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)

    def view(self, frame):
        depth = np.full(self._size, 4.0)
        points = clouds.back_project(depth, self.viewmats[frame], self.K)
        label = (np.floor(points[..., 0]) % 5).astype(np.int8)
        return scenes.View(
            self.paint(points), depth.astype(np.float32), label, self.viewmats[frame], self.K
        )

    def cloud(self):
        x, z = np.meshgrid(np.linspace(-2.5, 2.5, 40), np.linspace(-2, 2, 30))
        points = np.stack([x, np.full_like(x, 4.0), z], -1).reshape(-1, 3)
        return clouds.Cloud(
            points.astype(np.float32),
            self.paint(points),
            np.tile(np.float32([0, -1, 0]), (len(points), 1)),
            (np.floor(points[:, 0]) % 5).astype(np.int32),
        )
