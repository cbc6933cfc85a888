"""Pictures of what runs learned: held-out target views with depths, errors and boundaries, and the clouds.

The examples are spread evenly over a split, the same ones for every run, so that pictures of a run with PM-Loss and
one without may be laid side by side, or be drawn at once.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

from gsjax.core import cameras, gaussians, rays, sh
from gsjax.core import image as image_lib
from gsjax.data import picture_sheet
from gsjax.io import formats, point_cloud
from gsjax.metrics import boundaries

VIEWS, CLOUDS = "novel_views.png", "clouds.png"
ENLARGED = 4  # how much smaller than the picture the enlarged part is, a side
_GAIN = 4  # of errors
_PANEL = 192  # pixels of a small picture in the sheet, about
_SIDE = 224  # of a cloud's
# Near, middle and far of a depth map; from matplotlib's viridis, reversed.
_COLOURS = np.array(
    [(253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84)], np.float64
)


class Run(NamedTuple):
    """What is drawn: the predict functions of a system and the variables of a run."""

    predict_fns: Mapping[str, Callable]
    variables: Mapping


def write(
    examples,
    runs: Mapping[str, Run],
    folder,
    *,
    rows: int = 4,
    targets: int = 1,
    opacity: float = 0.1,
    radius: int = boundaries.RADIUS,
    jump: float = boundaries.JUMP,
) -> None:
    """Writes ``novel_views.png``, ``clouds.png`` and the clouds as PLY files.

    Beside the context views stand a target, its rendering and PSNR, the rendered depth and the true one, the
    error four times enlarged, and the part with most depth jumps (without true depth, with most error) in the
    truth and as drawn. Clouds are seen from above and beside the first context camera. Files
    ``<example>_<run>_gaussians.ply`` open in splat viewers, ``<example>_<run>_points.ply`` and
    ``<example>_true_points.ply`` anywhere.

    Args:
        examples: of a split, random access; fields as of ``data.posed_examples``.
        runs: name -> run; one may be called ''.
        folder: where files go, local or remote.
        rows: examples at most.
        targets: of each example at most.
        opacity: Gaussians above it belong to the cloud.
        radius, jump: of boundaries, see ``metrics.boundaries``.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    programs = {
        name: {kind: jax.jit(fn) for kind, fn in run.predict_fns.items()}
        for name, run in runs.items()
    }
    lines, clouds = [], []
    for place in picture_sheet.spread(len(examples), rows):
        example = examples[int(place)]
        batch = {name: np.asarray(x)[None] for name, x in example.items()}

        def predicted(kind, batch=batch):
            return {
                name: _first(programs[name][kind](run.variables, batch))
                for name, run in runs.items()
            }

        drawn = predicted("render")
        for target in picture_sheet.spread(len(example["target_images"]), targets):
            for name, found in drawn.items():
                names = [name or "example", f"number {int(place)}"]
                lines.append((names, panels(example, found, int(target), radius, jump)))
        if all("gaussians" in run.predict_fns for run in runs.values()):
            found = {name: kept(x, opacity) for name, x in predicted("gaussians").items()}
            clouds.append(([f"number {int(place)}"], _clouds(example, found)))
            _save(folder, int(place), example, found)
    _png(folder / VIEWS, lines)
    if clouds:
        _png(folder / CLOUDS, clouds)
    logging.info("wrote %s, %d rows", folder / VIEWS, len(lines))


def _png(path, lines):
    with path.open("wb") as file:
        picture_sheet.sheet(lines, side=_PANEL).save(file, format="PNG")


def _first(found) -> dict[str, np.ndarray]:
    return {name: np.asarray(x)[0] for name, x in found.items()}


# Views ---------------------------------------------------------------------------------------------


def panels(
    example, found, target: int, radius: int = boundaries.RADIUS, jump: float = boundaries.JUMP
) -> list[tuple[list[str], np.ndarray]]:
    """[(lines below, uint8 [H, W, 3])] of one target, from left to right.

    Args:
        example: as of ``data.posed_examples``.
        found: of ``predict_fns['render']``, without the batch axis.
        target: which one.
        radius, jump: see ``metrics.boundaries``.
    """
    truth = example["target_images"][target]
    image = np.clip(found["images"][target], 0.0, 1.0)
    error = np.abs(image - truth / 255.0)
    score = float(image_lib.psnr(image, truth / 255.0))
    context, frames = example["context_images"], example["context_frames"]
    # The first and the last of many.
    shown = [0, len(context) - 1] if len(context) > 1 else [0]
    result = [([f"frame {frames[i]}", "context"], context[i]) for i in shown]
    result.append(([f"frame {example['target_frames'][target]}", "truth"], truth))
    result.append((["drawn", f"{score:.1f} dB"], _pixels(image)))
    depths = example.get("target_depths")
    true = None if depths is None else depths[target]
    depth = np.where(found["alphas"][target] > 0.5, found["depths"][target], 0.0)
    bounds = depth_range(depth if true is None or not (true > 0).any() else true)
    result.append((["depth", f"{bounds[0]:.2g} to {bounds[1]:.2g}"], coloured(depth, *bounds)))
    if true is not None:
        result.append((["depth", "truth"], coloured(true, *bounds)))
    result.append(([f"error x {_GAIN}", ""], _pixels(_GAIN * error)))
    weight = error.mean(-1)
    if true is not None:
        near = np.asarray(boundaries.band(true, radius=radius, relative=jump), np.float64)
        weight = near if near.any() else weight
    part = busiest(weight)
    result.append((["enlarged", "truth"], enlarged(truth, part)))
    result.append((["enlarged", "drawn"], enlarged(_pixels(image), part)))
    return result


def _pixels(image: np.ndarray) -> np.ndarray:
    return np.uint8(np.round(255 * np.clip(image, 0.0, 1.0)))


def depth_range(depth: np.ndarray) -> tuple[float, float]:
    """2nd and 98th percentile of the known depths; (1, 2) without any."""
    known = depth[depth > 0]
    if not known.size:
        return 1.0, 2.0
    low, high = np.percentile(known, [2, 98])
    return float(low), float(max(high, low * 1.01))


def coloured(depth: np.ndarray, low: float, high: float) -> np.ndarray:
    """Depths [H, W] as colours uint8 [H, W, 3], yellow near, dark far, even in 1 / depth; black where 0."""
    known = depth > 0
    inverse = 1 / np.where(known, depth, 1.0)
    place = np.clip((1 / low - inverse) / (1 / low - 1 / high), 0.0, 1.0)
    stops = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(place, stops, channel) for channel in _COLOURS.T], -1)
    return np.uint8(np.round(np.where(known[..., None], colours, 0.0)))


def busiest(weight: np.ndarray) -> tuple[int, int]:
    """(top, left) of the window, a quarter of the picture a side, with the largest sum of weights [H, W]."""
    height, width = _window(weight.shape)
    sums = np.pad(weight.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    total = (
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
        + sums[:-height, :-width]
    )  # fmt: skip
    top, left = np.unravel_index(np.argmax(total), total.shape)
    return int(top), int(left)


def _window(shape) -> tuple[int, int]:
    return max(shape[0] // ENLARGED, 1), max(shape[1] // ENLARGED, 1)


def enlarged(picture: np.ndarray, part: tuple[int, int]) -> np.ndarray:
    """A part of a picture [H, W, 3] in the size of the whole; every pixel stays one flat square."""
    height, width = _window(picture.shape)
    rows = part[0] + np.arange(picture.shape[0]) * height // picture.shape[0]
    columns = part[1] + np.arange(picture.shape[1]) * width // picture.shape[1]
    return picture[rows[:, None], columns]


# Clouds --------------------------------------------------------------------------------------------


def kept(found, opacity: float) -> dict[str, np.ndarray]:
    """The Gaussians above an opacity whose numbers are all finite; fields of ``core.gaussians.Gaussians``."""
    fields = ("means", "quats", "scales", "opacities", "sh")
    rows = found["opacities"] > opacity
    for name in fields:
        values = found[name].reshape(len(rows), -1)
        rows = rows & np.isfinite(values).all(1)
    return {name: found[name][rows] for name in fields}


def _colours(found) -> np.ndarray:
    return _pixels(np.asarray(sh.sh0_to_rgb(found["sh"][:, 0])))


def _truth(example) -> tuple[np.ndarray, np.ndarray] | None:
    """Points [M, 3] and colours [M, 3] of the context views with known depth; None without any."""
    depths = example.get("context_depths")
    if depths is None or not (depths > 0).any():
        return None
    centers = rays.pixel_centers(*depths.shape[-2:]).reshape(-1, 2)
    flat = depths.reshape(len(depths), -1)
    points = rays.unproject(centers, flat, example["context_Ks"], example["context_c2ws"])
    known = flat.reshape(-1) > 0
    points = np.asarray(points).reshape(-1, 3)
    return points[known], example["context_images"].reshape(-1, 3)[known]


def _clouds(example, found) -> list[tuple[list[str], np.ndarray]]:
    """The true cloud and those of runs, from one place."""
    clouds = {name or "drawn": (x["means"], _colours(x)) for name, x in found.items()}
    true = _truth(example)
    clouds = clouds if true is None else {"truth": true, **clouds}
    view = aside(next(iter(clouds.values()))[0], example["context_viewmats"][0])
    return [([name, f"{len(x[0])} points"], dots(*x, view)) for name, x in clouds.items()]


def aside(points: np.ndarray, viewmat: np.ndarray) -> np.ndarray:
    """The view matrix [4, 4] of a camera above and to the right of another, with the middle of a cloud before it."""
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    middle = np.median(local, 0) if len(local) else np.array([0.0, 0.0, 1.0])
    far = max(float(middle[2]), 1e-6)
    eye = far * np.array([0.8, -0.6, -0.1])
    turned = np.asarray(cameras.look_at(eye, middle, np.array([0.0, -1.0, 0.0])))
    return turned @ viewmat


def dots(
    points: np.ndarray, colours: np.ndarray, viewmat: np.ndarray, side: int = _SIDE
) -> np.ndarray:
    """A cloud as squares of 2 pixels, the near ones before the far ones, on white: uint8 [side, side, 3].

    Args:
        points: [M, 3].
        colours: uint8 [M, 3].
        viewmat: [4, 4]; the angle of view is 60 degrees.
        side: pixels.
    """
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    order = np.argsort(-local[:, 2])  # the last one written stays
    local, colours = local[order], colours[order]
    ahead = local[:, 2] > 1e-6
    local, colours = local[ahead], colours[ahead]
    focal = side / (2 * np.tan(np.pi / 6))
    places = focal * local[:, :2] / local[:, 2:] + side / 2
    # The bound keeps the integers small.
    cells = np.int64(np.floor(np.clip(places, -4, side + 4)))
    result = np.full((side, side, 3), 255, np.uint8)
    corners = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    cells = (cells[:, None] + corners).reshape(-1, 2)
    inside = ((cells >= 0) & (cells < side)).all(1)
    result[cells[inside, 1], cells[inside, 0]] = np.repeat(colours, 4, 0)[inside]
    return result


def _save(folder, place: int, example, found):
    true = _truth(example)
    if true is not None:
        point_cloud.write(folder / f"{place}_true_points.ply", *true)
    for name, x in found.items():
        stem = f"{place}_{name}" if name else str(place)
        if not len(x["means"]):
            logging.warning("%s: no Gaussian is opaque enough for a cloud", stem)
            continue
        point_cloud.write(folder / f"{stem}_points.ply", x["means"], _colours(x))
        raw = gaussians.Gaussians(**x).deactivate()
        formats.save_gaussians(folder / f"{stem}_gaussians.ply", jax.tree.map(np.asarray, raw))
