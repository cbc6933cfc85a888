"""A picture of what a run learned: held-out objects beside the captions retrieved for them."""

from collections.abc import Callable

import jax
import numpy as np
from absl import logging
from etils import epath
from PIL import Image, ImageDraw

from gsjax.data import features, loader

_SIDE = 96  # pixels of a view
_TEXT = 440  # pixels of the caption column
_LINE = 15
_RIGHT, _WRONG, _INK = (0, 120, 40), (110, 110, 110), (20, 20, 20)


def write(
    source,
    embed: Callable,
    variables,
    folder,
    *,
    split: str = "test",
    rows: int = 6,
    views: int = 2,
    captions: int = 4,
    gallery: int = 256,
) -> None:
    """Writes ``retrieved.png``: one row an object, its views and its nearest captions.

    Args:
        source: ``data.Source`` with records.
        embed: ``(variables, batch) -> embeddings`` of the system.
        variables: of the run.
        folder: where the picture goes; local or remote.
        split: whose objects and captions.
        rows: objects shown, spread over the split.
        views: pictures an object.
        captions: retrieved captions an object; the object's own is marked.
        gallery: at most this many objects' captions are searched.
    """
    records = source.records(split)
    count = min(len(records), gallery)
    shapes, texts = _embeddings(source.evaluate(split), embed, variables, count)
    similarity = shapes @ texts.T
    chosen = np.linspace(0, count - 1, min(rows, count)).astype(int)
    names = {i: records[i]["captions"][0] for i in range(count)}
    sheet = Image.new("RGB", (views * _SIDE + _TEXT, len(chosen) * (_SIDE + 4)), "white")
    for row, i in enumerate(chosen):
        nearest = np.argsort(-similarity[i], kind="stable")[:captions]
        lines = [(names[j], similarity[i, j], names[j] == names[i]) for j in nearest]
        rank = 1 + int(np.sum(similarity[i] > similarity[i, i]))
        top = row * (_SIDE + 4)
        _paste_views(sheet, records[i]["views"][:views], top)
        _write_captions(sheet, lines, names[i], rank, (views * _SIDE + 8, top + 2))
    path = epath.Path(folder) / "retrieved.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        sheet.save(file, format="PNG")
    logging.info("wrote %s: %d of %d held-out objects", path, len(chosen), len(records))


def _embeddings(dataset, embed, variables, count):
    """Unit vectors ([count, D] of the Gaussians, [count, D] of their captions)."""
    embed = jax.jit(embed)
    shapes, texts = [], []
    for batch in loader.eval_batches(dataset.slice(slice(0, count)), global_batch=min(count, 32)):
        found = embed(variables, batch)
        keep = np.asarray(batch["valid"])
        shapes.append(np.asarray(found["gaussian"])[keep])
        texts.append(np.asarray(found["text"])[keep])
    return np.concatenate(shapes), np.concatenate(texts)


def _paste_views(sheet, pngs, top):
    for column, png in enumerate(pngs):
        picture = features.decode_png(png)
        if picture.shape[-1] == 4:
            alpha = picture[..., 3:] / 255.0
            picture = np.uint8(np.round(picture[..., :3] * alpha + 255 * (1 - alpha)))
        view = Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        sheet.paste(view, (column * _SIDE, top))


def _write_captions(sheet, lines, truth, rank, corner):
    draw = ImageDraw.Draw(sheet)
    x, y = corner
    for text, score, right in lines:
        mark, ink = ("> ", _RIGHT) if right else ("  ", _WRONG)
        draw.text((x, y), f"{mark}{score:+.2f}  {_short(text)}", fill=ink)
        y += _LINE
    draw.text((x, y + 3), f"own caption, rank {rank}: {_short(truth)}", fill=_INK)


def _short(text: str, limit: int = 58) -> str:
    text = text.encode("ascii", "replace").decode()  # what the built-in font can draw
    return text if len(text) <= limit else text[: limit - 3] + "..."
