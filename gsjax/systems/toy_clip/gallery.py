"""A picture of what the pair learned: held-out captions beside the views retrieved for them."""

import jax
import numpy as np
from PIL import Image, ImageDraw

_ROWS, _COLUMNS, _TEXT = 12, 5, 320  # captions, views beside each, pixels for the caption


def draw(embed, variables, examples, folder, *, limit: int = 512) -> None:
    """Writes ``retrieved.png``: for each of some captions, the nearest views, best first.

    The object's own view has a green frame.

    Args:
        embed: the system's predict function, ``(variables, batch) -> embeddings``.
        variables: of the system.
        examples: held-out examples with ``view``, ``tokens`` and ``caption``; the first ``limit`` are the gallery.
        folder: where the picture goes.
        limit: most views considered.
    """
    count = min(limit, len(examples))
    chosen = [examples[i] for i in range(count)]
    fields = ("view", "tokens", "caption_hash", "category", "valid")
    batch = {name: np.stack([example[name] for example in chosen]) for name in fields}
    found = jax.tree.map(np.asarray, jax.jit(embed)(variables, batch))
    rows = np.linspace(0, count - 1, min(_ROWS, count)).astype(int)
    similarity = found["text_embed"][rows] @ found["image_embed"].T
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :_COLUMNS]
    captions = [chosen[row]["caption"] for row in rows]
    sheet(batch["view"], captions, rows, best).save(str(folder / "retrieved.png"))


def sheet(views: np.ndarray, captions, rows: np.ndarray, best: np.ndarray) -> Image.Image:
    """The sheet itself.

    Args:
        views: uint8 [B, S, S, 3].
        captions: one text a row.
        rows: [R] the view that belongs to each caption.
        best: [R, C] views to show, best first.
    """
    side = views.shape[1] + 6
    picture = Image.new("RGB", (_TEXT + side * best.shape[1], side * len(rows)), "white")
    pen = ImageDraw.Draw(picture)
    for line, (caption, own, shown) in enumerate(zip(captions, rows, best)):
        pen.multiline_text((6, line * side + 8), _wrap(caption), fill="black")
        for column, view in enumerate(shown):
            left, top = _TEXT + column * side, line * side
            frame = "#2a9d3f" if view == own else "#dddddd"
            pen.rectangle([left, top, left + side - 2, top + side - 2], outline=frame, width=2)
            picture.paste(Image.fromarray(views[view]), (left + 2, top + 2))
    return picture


def _wrap(text: str, width: int = 46) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
