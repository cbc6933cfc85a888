"""Pictures that show whether cameras fit their photographs: points of one view, their lines in another.

The commonest fault of users' own data is a pose that is inverted, or intrinsics of another size; nothing in
the numbers gives it away, but a corner in one picture then lies off its line in the other. Imports no JAX.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from gsjax.data.scenes import View


def fundamental(one: View, two: View) -> np.ndarray:
    """F [3, 3] with p2^T F p1 = 0 for pixels p1, p2 (homogeneous) of the same point.

    F = K2^-T [t]x R K1^-1, where (R, t) takes points from the first camera to the second.

    Raises:
        ValueError: cameras in one place, which leave no line.
    """
    motion = two.viewmat @ np.linalg.inv(one.viewmat)
    x, y, z = shift = motion[:3, 3]
    if np.linalg.norm(shift) < 1e-9 * (1 + np.abs(one.viewmat[:3, 3]).max()):
        raise ValueError("one, two: both cameras are in one place: there are no epipolar lines")
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.linalg.inv(two.K).T @ cross @ motion[:3, :3] @ np.linalg.inv(one.K)


def textured_pixels(image: np.ndarray, count: int) -> np.ndarray:
    """(column, row) centres [P, 2], P <= ``count``, of well-marked places spread over a picture.

    The strongest Harris corner of each cell of a grid, the strongest first.
    """
    grey = image.astype(np.float64).mean(-1)
    down, across = np.gradient(grey)
    parts = [_box(x) for x in (across * across, down * down, across * down)]
    corner = parts[0] * parts[1] - parts[2] ** 2 - 0.05 * (parts[0] + parts[1]) ** 2
    side = max(int(np.ceil(np.sqrt(count))), 1)
    found = []
    for rows in np.array_split(np.arange(grey.shape[0]), side):
        for columns in np.array_split(np.arange(grey.shape[1]), side):
            if len(rows) and len(columns):
                cell = corner[np.ix_(rows, columns)]
                row, column = np.unravel_index(np.argmax(cell), cell.shape)
                found.append((cell[row, column], columns[column] + 0.5, rows[row] + 0.5))
    found.sort(key=lambda item: -item[0])
    return np.array([item[1:] for item in found[:count]])


def _box(values: np.ndarray, reach: int = 2) -> np.ndarray:
    """Sums over windows of 2 reach + 1 pixels a side; edges are repeated."""
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(2)], "edge")
        size = values.shape[axis]
        values = sum(np.take(padded, np.arange(s, s + size), axis) for s in range(2 * reach + 1))
    return values


def line_ends(line: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Ends [2, 2] (u, v) of the part of a line (a u + b v + c = 0) in a picture; None = outside."""
    a, b, c = line
    ends = []
    for u in (0.0, float(width)):
        if b != 0 and 0 <= (v := -(a * u + c) / b) <= height:
            ends.append((u, v))
    for v in (0.0, float(height)):
        if a != 0 and 0 <= (u := -(b * v + c) / a) <= width:
            ends.append((u, v))
    if len(ends) < 2:
        return None
    ends = np.array(ends)
    far = np.linalg.norm(ends - ends[0], axis=-1).argmax()
    return ends[[0, far]]


def draw(one: View, two: View, *, count: int = 16, pixels: np.ndarray | None = None) -> np.ndarray:
    """Both pictures side by side: dots in the first, the line of each in its colour in the second.

    Args:
        one, two: views; their sizes may differ.
        count: dots, at places with texture.
        pixels: [P, 2] (u, v) of the dots instead.

    Returns:
        uint8 [max height, sum of widths, 3].

    Raises:
        ValueError: cameras in one place.
    """
    matrix = fundamental(one, two)
    pixels = textured_pixels(one.image, count) if pixels is None else np.asarray(pixels, float)
    (h1, w1), (h2, w2) = one.image.shape[:2], two.image.shape[:2]
    sheet = Image.new("RGB", (w1 + w2, max(h1, h2)))
    sheet.paste(Image.fromarray(np.ascontiguousarray(one.image)), (0, 0))
    sheet.paste(Image.fromarray(np.ascontiguousarray(two.image)), (w1, 0))
    pen, radius = ImageDraw.Draw(sheet), max(h1 // 100, 2)
    for number, (u, v) in enumerate(pixels):
        shade = colorsys.hsv_to_rgb(number / len(pixels), 1, 1)
        colour = tuple(int(255 * x) for x in shade)
        pen.ellipse([u - radius, v - radius, u + radius, v + radius], outline=colour, width=2)
        ends = line_ends(matrix @ [u, v, 1], h2, w2)
        if ends is not None:
            pen.line([(w1 + x, y) for x, y in ends], fill=colour)
    return np.asarray(sheet)
