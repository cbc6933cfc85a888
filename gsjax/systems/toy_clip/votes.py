"""A picture of the votes: which views of an object a pair of towers finds like its caption.

    python -m gsjax.systems.toy_clip.votes --dataset_dir=DIR --towers=FILE --out=votes.png

CLIP-GS (arXiv 2412.19142) weighs the views of an object by S, the cosine of a view's embedding and
the caption's; the training cache (``data.embed``) stores the same numbers. Here they stand beside
the views, for objects of the test split. Any pair that ``models.towers`` loads will do.
"""

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from gsjax.data import features, store
from gsjax.io import weights
from gsjax.models import towers

_SIDE, _GAP, _TEXT, _LINE = 112, 8, 250, 16  # pixels
_FRAMES = {"best": "#2a9d3f", "worst": "#c0392b"}


@dataclasses.dataclass(frozen=True)
class Votes:
    """One object: its caption, its views uint8 [V, H, W, 3], and their scores float [V]."""

    caption: str
    category: str
    views: np.ndarray
    scores: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Numbers of the views, highest score first."""
        return np.argsort(-self.scores, kind="stable")


def collect(dataset_dir, pair: towers.Towers, count: int, split: str = "test") -> list[Votes]:
    """Votes over the views of some objects, no two of one category.

    Objects are taken at even steps through the split, not for their votes; those of the category
    'other' are left out.

    Args:
        dataset_dir: a prepared set with pictures.
        pair: towers.
        count: objects at most.
        split: where they come from.

    Raises:
        ValueError: the split holds no pictures.
    """
    names = store.category_names(dataset_dir)
    plain = store.open_split(dataset_dir, split, fields=("uid", "category"))
    labels = [plain[i]["category"] for i in range(len(plain))]
    chosen = spread([names[label] for label in labels], count)
    records = store.open_split(dataset_dir, split, fields=("uid", "category", "captions", "views"))
    return [_vote(records[i], names, pair) for i in chosen]


def spread(categories: Sequence[str], count: int) -> list[int]:
    """Positions of ``count`` objects at even steps, the first of each category but 'other'."""
    first = {name: i for i, name in reversed(list(enumerate(categories))) if name != "other"}
    positions = sorted(first.values())
    steps = np.linspace(0, len(positions) - 1, min(count, len(positions)))
    return [positions[int(round(step))] for step in steps]


def _vote(record: dict, names: Sequence[str], pair: towers.Towers) -> Votes:
    """Scores of all views of a record against its plainest caption."""
    if not record["views"]:
        raise ValueError(
            f"votes: record {record['uid']!r} has no pictures; prepare the set with views > 0"
        )
    caption = record["captions"][0]
    views = [features.decode_png(view) for view in record["views"]]
    images = pair.encode_images(np.stack([pair.prepare_image(view) for view in views]))
    text = pair.encode_texts(pair.tokenize([caption]))
    scores = np.asarray(images, np.float64) @ np.asarray(text, np.float64)[0]
    pictures = np.stack([towers.resize_rgb(view, _SIDE) for view in views])
    return Votes(caption, names[record["category"]], pictures, scores)


def sheet(votes: Sequence[Votes], shown: int = 3) -> Image.Image:
    """The picture: a row an object, its best views in green frames, its worst in red ones.

    Args:
        votes: one row each.
        shown: views of either kind.
    """
    pitch, height = _SIDE + _GAP, _SIDE + _LINE + _GAP
    middle = _TEXT + shown * pitch + 2 * _GAP
    picture = Image.new("RGB", (middle + shown * pitch, _LINE + height * len(votes)), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((_TEXT, 2), "highest S", fill=_FRAMES["best"])
    pen.text((middle, 2), "lowest S", fill=_FRAMES["worst"])
    for row, one in enumerate(votes):
        top = _LINE + row * height
        low, high = one.scores.min(), one.scores.max()
        lines = [*_wrapped(one.caption), f"kind: {one.category}"]
        lines += [f"S of {len(one.scores)} views:", f"{low:.3f} to {high:.3f}"]
        pen.multiline_text((6, top + 8), "\n".join(lines), fill="black")
        most = min(shown, len(one.scores))
        groups = (("best", _TEXT, one.order[:most]), ("worst", middle, one.order[::-1][:most]))
        for kind, left, numbers in groups:
            for column, number in enumerate(numbers):
                x = left + column * pitch
                picture.paste(Image.fromarray(one.views[number]), (x, top))
                pen.rectangle(
                    [x, top, x + _SIDE - 1, top + _SIDE - 1], outline=_FRAMES[kind], width=2
                )
                label = f"S = {one.scores[number]:.3f}  (view {number})"
                pen.text((x + 2, top + _SIDE + 2), label, fill="black")
    return picture


def _wrapped(text: str, width: int = 36) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True, help="folder of a prepared set")
    parser.add_argument("--towers", required=True, help="exported weight file, or KIND:PATH")
    parser.add_argument("--out", required=True, help="PNG file to write")
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    pair = towers.load(options.towers, weights.open_state_dict)
    votes = collect(options.dataset_dir, pair, options.objects, options.split)
    sheet(votes).save(options.out)
    for one in votes:
        print(f"{one.scores.min():.3f} .. {one.scores.max():.3f}  {one.caption}")
    print(options.out)


if __name__ == "__main__":
    main()
