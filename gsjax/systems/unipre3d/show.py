"""A picture of what a run learned: held-out objects or scenes, true views beside rendered ones."""

from collections.abc import Callable

import jax
import numpy as np
from absl import logging
from etils import epath

from gsjax.core import image as image_lib
from gsjax.data import picture_sheet
from gsjax.metrics import rendering

NAME = "novel_views.png"


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
    places = picture_sheet.spread(len(dataset), rows)
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
        picture_sheet.sheet(lines).save(file, format="PNG")
    logging.info("wrote %s: %d of %d held-out examples", path, len(places), len(dataset))


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
    for number in picture_sheet.spread(len(truth) - references, targets):
        view = references + number
        score = scores[view] if np.isfinite(scores[view]) else whole[view]
        panels.append(([f"view {number + 1}", "truth"], _pixels(truth[view])))
        panels.append(([f"view {number + 1}", f"drawn, {score:.1f} dB"], _pixels(drawn[view])))
    return panels


def _pixels(image: np.ndarray) -> np.ndarray:
    return np.uint8(np.round(255 * np.clip(image, 0.0, 1.0)))
