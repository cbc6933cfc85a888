"""Views brought to a picture size, mirrored, and with cameras as feed-forward models take them.

Every step changes the camera with the picture: a point that projects to a pixel before is seen at its image
after. Imports no JAX.
"""

import dataclasses

import numpy as np
from PIL import Image

from gsjax.data.scenes import View

FITS = ("cover", "crop")
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def fit(view: View, height: int, width: int, how: str = "cover") -> View:
    """A view of ``height`` x ``width`` pixels from the middle of a larger or smaller one.

    'cover' scales the picture until it just covers that size (Lanczos on uint8, as pixelSplat does) and
    cuts the rest off; 'crop' cuts alone. They differ in the field of view: DepthSplat gets 256 x 448 from
    270 x 480 by cutting, PM-Loss by scaling. Depth and labels are those of the nearest source pixel.

    Args:
        view: any size.
        height, width: pixels.
        how: of ``FITS``.

    Returns:
        The view with its own ``K`` in pixels. The principal point follows the cut exactly; released code
        leaves it in the middle, which is half a pixel off where an odd number of pixels is cut.

    Raises:
        ValueError: unknown ``how``, or a picture that is too small to cut from.
    """
    if how not in FITS:
        raise ValueError(f"how: unknown {how!r}; known: {', '.join(FITS)}")
    rows, columns = view.image.shape[:2]
    if how == "cover":
        scale = max(height / rows, width / columns)
        view = _scaled(view, max(round(rows * scale), height), max(round(columns * scale), width))
        rows, columns = view.image.shape[:2]
    if rows < height or columns < width:
        raise ValueError(
            f"view: {rows} x {columns} pixels, {height} x {width} cannot be cut from them; use 'cover'"
        )
    top, left = (rows - height) // 2, (columns - width) // 2
    window = slice(top, top + height), slice(left, left + width)
    K = np.array(view.K, np.float64)
    K[:2, 2] -= left, top
    label = None if view.label is None else view.label[window]
    return View(view.image[window], view.depth[window], label, view.viewmat, K)


def _scaled(view: View, height: int, width: int) -> View:
    rows, columns = view.image.shape[:2]
    if (rows, columns) == (height, width):
        return view
    image = np.asarray(
        Image.fromarray(view.image).resize((width, height), Image.Resampling.LANCZOS)
    )
    # The source pixel that holds the centre of each new one.
    row = ((np.arange(height) + 0.5) * rows / height).astype(int)[:, None]
    column = ((np.arange(width) + 0.5) * columns / width).astype(int)
    label = None if view.label is None else view.label[row, column]
    ratio = np.array([width / columns, height / rows, 1.0])
    return View(image, view.depth[row, column], label, view.viewmat, view.K * ratio[:, None])


def mirrored(view: View) -> View:
    """What a camera sees in the world mirrored at x = 0: the picture turned left to right.

    E -> F E F with F = diag(-1, 1, 1, 1), for the camera-to-world matrix as for its inverse, and the
    principal point at the mirrored column (pixelSplat leaves it, right only in the middle). All views
    of an example must be mirrored together.
    """
    K = np.array(view.K, np.float64)
    K[0, 1] = -K[0, 1]
    K[0, 2] = view.image.shape[1] - K[0, 2]
    label = None if view.label is None else view.label[:, ::-1]
    return View(
        view.image[:, ::-1], view.depth[:, ::-1], label, _MIRROR @ view.viewmat @ _MIRROR, K
    )


def relative_to(view: View, origin: np.ndarray) -> View:
    """The view in the frame of the camera with viewmat ``origin`` [4, 4] (rigid)."""
    inverse = np.eye(4)
    inverse[:3, :3] = origin[:3, :3].T
    inverse[:3, 3] = -origin[:3, :3].T @ origin[:3, 3]
    return dataclasses.replace(view, viewmat=view.viewmat @ inverse)


def normalised(Ks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Ks [..., 3, 3] in pixels -> row 0 in widths, row 1 in heights of the picture."""
    return np.asarray(Ks) / np.array([[width], [height], [1.0]])


def in_pixels(Ks: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inverse of :func:`normalised`."""
    return np.asarray(Ks) * np.array([[width], [height], [1.0]])


def check_depth(view: View, name: str):
    """Raises where depth is NaN, infinite or below 0; unknown depth is 0.

    Raises:
        ValueError: naming ``name``.
    """
    bad = ~np.isfinite(view.depth) | (view.depth < 0)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{name}: depth is {view.depth[row, column]} at row {row}, column {column}, and NaN, "
            f"infinite or negative at {bad.sum()} of {bad.size} pixels; store 0 where it is unknown"
        )
