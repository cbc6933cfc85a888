"""A picture of what a run learned: held-out objects or scenes, true views beside rendered ones."""

from collections.abc import Callable

import jax
import numpy as np
from absl import logging
from etils import epath
from PIL import Image, ImageDraw

from gsjax.core import image as image_lib
from gsjax.metrics import rendering

NAME = "novel_views.png"
_SIDE = 112  # pixels of a picture's longer side, about
_GAP, _LINE = 4, 14
_LEFT = 96  # pixels of the column of names
_INK, _PALE = (20, 20, 20), (110, 110, 110)


def write(
    source,
    render: Callable,
    references: int,
    variables,
    folder,
    *,
    split: str = "test",
    rows: int = 6,
    targets: int = 3,
) -> None:
    """Writes ``novel_views.png``: one row an object, its first reference view and some others.

    The objects are spread evenly over the split, and so are the views over those that are supervised:
    the same ones whatever was trained. Under each rendered view stands its PSNR over the object's
    pixels; a scene is all foreground.

    Args:
        source: ``data.Source``.
        render: ``predict_fns['render']`` of the system.
        references: R; views before that are shown to the model.
        variables: of the run.
        folder: where the picture goes; local or remote.
        split: whose objects.
        rows: objects at most.
        targets: supervised views at most, each beside its rendering.
    """
    dataset = source.evaluate(split)
    places = _spread(len(dataset), rows)
    render = jax.jit(render)
    lines = []
    for place in places:  # one at a time: what a picture needs is little beside a training batch
        example = dataset[int(place)]
        batch = {name: np.asarray(x)[None] for name, x in example.items()}
        found = {name: np.asarray(x)[0] for name, x in render(variables, batch).items()}
        label = _names(source, split, example, int(place))
        lines.append((label, _panels(found, references, targets)))
    path = epath.Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        sheet(lines).save(file, format="PNG")
    logging.info("wrote %s: %d of %d held-out examples", path, len(places), len(dataset))


def _spread(count: int, most: int) -> np.ndarray:
    """Places [min(count, most)] over 0 .. count - 1, evenly."""
    return np.round(np.linspace(0, count - 1, min(count, most))).astype(int)


def _names(source, split: str, example, place: int) -> list[str]:
    """What is written beside a row: the category, if there are any, and which one it is."""
    category = source.class_names[int(example["category"])] if source.class_names else "scene"
    uid = source.uids(split)[place] if source.uids is not None else str(int(example["index"]))
    return [category, uid]


def _panels(found, references: int, targets: int) -> list[tuple[list[str], np.ndarray]]:
    """[(lines below, picture uint8 [H, W, 3])] of one row, from left to right."""
    truth, drawn = found["target"], found["image"]
    panels = []
    if references:
        panels.append((["reference", f"view 1 of {references}"], _pixels(truth[0])))
    scores = np.asarray(
        rendering.foreground_psnr(np.clip(drawn, 0.0, 1.0), truth, found["target_alpha"])
    )
    whole = np.asarray(image_lib.psnr(np.clip(drawn, 0.0, 1.0), truth))
    for number in _spread(len(truth) - references, targets):
        view = references + number
        score = scores[view] if np.isfinite(scores[view]) else whole[view]
        panels.append(([f"view {number + 1}", "truth"], _pixels(truth[view])))
        panels.append(([f"view {number + 1}", f"drawn, {score:.1f} dB"], _pixels(drawn[view])))
    return panels


def _pixels(image: np.ndarray) -> np.ndarray:
    return np.uint8(np.round(255 * np.clip(image, 0.0, 1.0)))


def sheet(lines) -> Image.Image:
    """The grid.

    Args:
        lines: [(names beside the row, [(lines below, picture uint8 [H, W, 3])])]; pictures of one size.
    """
    height, width = lines[0][1][0][1].shape[:2]
    factor = max(1, _SIDE // max(height, width))  # whole pixels stay sharp
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
