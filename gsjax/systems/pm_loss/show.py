"""A picture of what a run learned: held-out scenes, given views, true and rendered ones, depths."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from absl import logging
from etils import epath
from PIL import Image, ImageDraw

NAME = "novel_views.png"
_SIDE = 128  # pixels of a picture's longer side, about
_GAP, _LINE = 4, 14


def write(
    source, predict: Mapping[str, Callable], split: str, variables, folder, *, rows: int = 6
) -> None:
    """Writes ``novel_views.png``: one row a scene, spread evenly over the split.

    From left to right: the first two context views, a target, its rendering (with its PSNR), the depth
    rendered there and, where context depth is known, true and predicted depth of the first context view.
    Depths are drawn on one scale a row: near bright, far dark, in inverse depth.

    Args:
        source: ``data.Source``.
        predict: ``predict_fns``: 'render' and 'depths'.
        split: whose scenes; '' writes nothing.
        variables: of the run.
        folder: where the picture goes; local or remote.
        rows: scenes at most.
    """
    if not split:
        return
    dataset = source.evaluate(split)
    places = np.round(np.linspace(0, len(dataset) - 1, min(len(dataset), rows))).astype(int)

    @jax.jit
    def run(variables, batch):
        return predict["render"](variables, batch), predict["depths"](variables, batch)

    lines = []
    for place in dict.fromkeys(places.tolist()):
        example = dataset[place]
        drawn, depths = run(variables, {name: np.asarray(x)[None] for name, x in example.items()})
        lines.append(_panels(example, drawn, np.asarray(depths["depths"])[0]))
    path = epath.Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        sheet(lines).save(file, format="PNG")
    logging.info("wrote %s: %d of %d held-out examples", path, len(lines), len(dataset))


def _panels(example, drawn, depths) -> list[tuple[str, np.ndarray]]:
    """[(line below, picture uint8 [H, W, 3])] of one row."""
    middle = len(example["target_images"]) // 2
    image = np.asarray(drawn["images"])[0, middle]
    truth = example["target_images"][middle]
    psnr = -10 * np.log10(max(float(np.mean((image - truth / 255.0) ** 2)), 1e-10))
    near, far = float(example["near"]), float(example["far"])
    shade = lambda depth: _shades(depth, near, far)  # noqa: E731
    panels = [("given", view) for view in example["context_images"][:2]]
    panels += [("truth", truth), (f"drawn, {psnr:.1f} dB", np.uint8(np.round(255 * image)))]
    panels += [("depth there", shade(np.asarray(drawn["depths"])[0, middle]))]
    if "context_depths" in example and (example["context_depths"][0] > 0).any():
        panels += [("true depth, given", shade(example["context_depths"][0]))]
    return panels + [("depth, given", shade(depths[0]))]


def _shades(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """uint8 [H, W, 3]: 255 at near, 0 at far and where nothing is."""
    inverse = 1 / np.maximum(depth, 1e-6)
    share = (inverse - 1 / far) / (1 / near - 1 / far)
    share = np.where(depth > 0, np.clip(share, 0, 1) ** 0.5, 0)
    return np.repeat(np.uint8(np.round(255 * share))[..., None], 3, -1)


def sheet(lines: list[list[tuple[str, np.ndarray]]]) -> Image.Image:
    """The grid of pictures of one size, a text under each."""
    height, width = lines[0][0][1].shape[:2]
    factor = max(1, _SIDE // max(height, width))  # whole pixels stay sharp
    wide, high = width * factor, height * factor
    step, down = max(wide, 100) + _GAP, high + _LINE + 2 * _GAP
    columns = max(len(panels) for panels in lines)
    result = Image.new("RGB", (_GAP + columns * step, len(lines) * down + _GAP), "white")
    pen = ImageDraw.Draw(result)
    for row, panels in enumerate(lines):
        for column, (text, picture) in enumerate(panels):
            left, top = _GAP + column * step, _GAP + row * down
            shown = Image.fromarray(np.ascontiguousarray(picture))
            result.paste(shown.resize((wide, high), Image.Resampling.NEAREST), (left, top))
            pen.text((left, top + high + 1), text, fill=(60, 60, 60))
    return result
