"""A scene of any size with the statistics of a real one, for benchmarks: the garden's points.

138,766 points and three cameras that gsplat ships for its tests (``garden_3view/test_garden.npz``);
shapes and opacities are drawn at random. More Gaussians than that are copies of it, side by side.
"""

import pathlib

import numpy as np

FILE = pathlib.PurePosixPath("scenes/garden_3view/test_garden.npz")


def load(root: pathlib.Path, num: int, width: int, height: int) -> dict[str, np.ndarray]:
    """Arguments of `rasterize` for `num` Gaussians and the first camera.

    Args:
      root: the data folder.
      num: Gaussians; the first points come first.
      width, height: pixels; the camera keeps its horizontal angle of view.
    """
    with np.load(root / FILE) as file:
        points, colors = file["means3d"].astype(np.float32), file["colors"] / np.float32(255)
        viewmat, K = file["viewmats"][0].astype(np.float32), file["Ks"][0].astype(np.float32)
        K[:2] *= width / float(file["width"])
        K[1, 2] += (height - width * float(file["height"]) / float(file["width"])) / 2
    copies = -(-num // len(points))
    means = (points[None] + _shifts(points, copies)[:, None]).reshape(-1, 3)[:num]
    rng = np.random.default_rng(0)
    drawn = dict(
        quats=rng.normal(size=(num, 4)),
        scales=0.01 * np.exp(0.5 * rng.normal(size=(num, 3))),
        opacities=rng.uniform(0.1, 1.0, num),
    )
    return dict(
        means=means,
        **{name: value.astype(np.float32) for name, value in drawn.items()},
        colors=np.tile(colors, (copies, 1))[:num],
        viewmats=viewmat[None],
        Ks=K[None],
    )


def _shifts(points, copies):
    """[copies, 3] offsets on a grid in the two widest directions, the first one zero."""
    low, high = np.percentile(points, [5, 95], axis=0)
    first, second = np.argsort(high - low)[:-3:-1]
    side = int(np.ceil(np.sqrt(copies)))
    cells = np.stack(np.divmod(np.arange(copies), side), -1)
    shifts = np.zeros((copies, 3), np.float32)
    shifts[:, first] = cells[:, 0] * (high - low)[first]
    shifts[:, second] = cells[:, 1] * (high - low)[second]
    return shifts
