"""Grids of named pictures in one file, as systems show what they have learned. Imports no JAX."""

import numpy as np
from PIL import Image, ImageDraw

_SIDE = 112
_GAP, _LINE = 4, 14
_LEFT = 96  # pixels of the column of names
_INK, _PALE = (20, 20, 20), (110, 110, 110)


def spread(count: int, most: int) -> np.ndarray:
    """Places [min(count, most)] over 0 .. count - 1, evenly."""
    return np.round(np.linspace(0, count - 1, min(count, most))).astype(int)


def sheet(lines, side: int = _SIDE) -> Image.Image:
    """The grid.

    Args:
        lines: [(names beside the row, [(lines below, picture uint8 [H, W, 3])])]; pictures of one size.
        side: pixels of a picture's longer side, about; it is made larger by a whole factor, never smaller.
    """
    height, width = lines[0][1][0][1].shape[:2]
    factor = max(1, side // max(height, width))  # whole pixels stay sharp
    wide, high = width * factor, height * factor
    step, row_step = max(wide, 90) + _GAP, high + 2 * _LINE + 2 * _GAP
    columns = max(len(panels) for _, panels in lines)
    result = Image.new("RGB", (_LEFT + columns * step, len(lines) * row_step + _GAP), "white")
    pen = ImageDraw.Draw(result)
    for row, (names, panels) in enumerate(lines):
        top = _GAP + row * row_step
        for i, name in enumerate(names):
            pen.text((_GAP, top + i * _LINE), _short(name, 15), fill=_PALE if i else _INK)
        for column, (below, picture) in enumerate(panels):
            left = _LEFT + column * step
            shown = Image.fromarray(picture).resize((wide, high), Image.Resampling.NEAREST)
            result.paste(shown, (left, top))
            for i, text in enumerate(below):
                pen.text((left, top + high + 1 + i * _LINE), text, fill=_PALE if i else _INK)
    return result


def _short(text: str, limit: int) -> str:
    text = text.encode("ascii", "replace").decode()  # what the built-in font can draw
    return text if len(text) <= limit else "..." + text[3 - limit :]
