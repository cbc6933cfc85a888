"""What ``gsjax search`` found as an HTML page or as one picture; draws, and searches nothing.

The page holds everything itself: pictures as data URIs, no script, no address of another server.
"""

import base64
import dataclasses
import html
import io
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from gsjax.cli import render
from gsjax.data import splats

_COLUMNS = 4  # of the picture
_LINE, _GAP, _HEAD = 16, 8, 40  # pixels of the picture
_INK, _GREY, _BLANK = (20, 20, 20), (110, 110, 110), (235, 235, 235)
_AZIMUTH, _ELEVATION, _DISTANCE, _FOV = 30.0, 15.0, 2.6, 45.0  # as `gsjax render` does by default
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #141414; background: #fff; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(%dpx, 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: 8px; }
img, .blank { display: block; width: 100%%; aspect-ratio: 1; object-fit: contain; }
.blank { background: #ebebeb; }
figcaption { overflow-wrap: anywhere; margin-top: 6px; }
.score { color: #6e6e6e; }
header img { width: %dpx; }
"""


@dataclasses.dataclass(frozen=True)
class Result:
    """One file: ``rank`` from 1, ``name``, cosine, and uint8 [S, S, 3] or None."""

    rank: int
    name: str
    score: float
    image: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Page:
    """What is shown.

    Attributes:
        query: the sentence, or the picture's file name.
        picture: the query picture, uint8 [H, W, 3 or 4], or None.
        results: best first.
        total: files that were searched.
    """

    query: str
    picture: np.ndarray | None
    results: Sequence[Result]
    total: int


def thumbnail(path, *, size: int, up: str) -> np.ndarray:
    """A splat file rendered on white, uint8 [size, size, 3].

    Raises:
        ValueError: the file is bad.
    """
    from gsjax.core import gaussians

    scene = splats.load(path)  # as it is; the camera knows what is up
    raw = gaussians.RawGaussians(**_padded(scene))
    return render.render_orbit(
        raw.activate(),
        views=1,
        size=size,
        fov=_FOV,
        azimuth=_AZIMUTH,
        elevation=_ELEVATION,
        distance=_DISTANCE,
        up=up,
        background=(1.0, 1.0, 1.0),
        depth=False,
    )[0]


def _padded(scene: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As many rows as the next of few sizes, so that files of like size share a compilation.

    Rows that are added repeat others, which leaves the box almost as it is, and are invisible.
    """
    count = len(scene["means"])
    size = 1 << max(count - 1, 1).bit_length()
    size = next(s for s in (size * 5 // 8, size * 3 // 4, size) if s >= count)
    rows = np.arange(size) % count
    result = {name: value[rows] for name, value in scene.items()}
    result["logit_opacities"] = np.where(
        np.arange(size) < count, result["logit_opacities"], np.float32(-30.0)
    )
    return result


def _data_uri(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shrunk(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture on white that fits into a square, its own shape kept."""
    image = Image.fromarray(picture).convert("RGBA")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def write_html(page: Page, path, size: int) -> None:
    """Writes the page; every text in it is escaped."""
    pathlib.Path(path).write_text(as_html(page, size), encoding="utf-8")


def as_html(page: Page, size: int) -> str:
    """The page as text; see :func:`write_html`."""
    query = html.escape(page.query)
    asked = ""
    if page.picture is not None:
        asked = f'<img alt="query" src="{_data_uri(_shrunk(page.picture, size))}">'
    figures = "\n".join(map(_figure, page.results))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{query}</title>
<style>{_STYLE % (size, size)}</style>
</head>
<body>
<header><h1>{query}</h1>{asked}
<p>{len(page.results)} of {page.total} files, by cosine</p></header>
<main>
{figures}
</main>
</body>
</html>
"""


def _figure(result: Result) -> str:
    name = html.escape(result.name)
    shown = '<div class="blank"></div>'
    if result.image is not None:
        shown = f'<img alt="{name}" src="{_data_uri(result.image)}">'
    caption = f'{result.rank}. {name} <span class="score">{result.score:+.3f}</span>'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def write_png(page: Page, path, size: int) -> None:
    """Writes the page's grid as a picture: query, then thumbnails with rank, score and name."""
    columns = min(_COLUMNS, max(len(page.results), 1))
    rows = -(-len(page.results) // columns)
    head = _HEAD + (size + _GAP if page.picture is not None else 0)
    step_x, step_y = size + _GAP, size + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (columns * step_x + _GAP, head + rows * step_y + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), _fitted(draw, page.query, sheet.width - 2 * _GAP), fill=_INK)
    subtitle = f"{len(page.results)} of {page.total} files, by cosine"
    draw.text((_GAP, _GAP + _LINE), subtitle, fill=_GREY)
    if page.picture is not None:
        sheet.paste(Image.fromarray(_shrunk(page.picture, size)), (_GAP, _HEAD))
    for place, result in enumerate(page.results):
        x, y = _GAP + place % columns * step_x, head + place // columns * step_y
        if result.image is None:
            draw.rectangle((x, y, x + size - 1, y + size - 1), fill=_BLANK)
        else:
            sheet.paste(Image.fromarray(result.image), (x, y))
        draw.text((x, y + size), f"{result.rank}.  {result.score:+.3f}", fill=_GREY)
        draw.text((x, y + size + _LINE), _fitted(draw, result.name, size), fill=_INK)
    sheet.save(path, format="PNG", optimize=True)


def _fitted(draw, text: str, width: int) -> str:
    """The end of a text that fits a width; the built-in font draws ASCII."""
    text = text.encode("ascii", "replace").decode()
    if draw.textlength(text) <= width:
        return text
    while len(text) > 1 and draw.textlength("..." + text) > width:
        text = text[1:]
    return "..." + text
