"""Features of EfficientNet-Lite0, trained on ImageNet, at the end of a stage or of several.

    efficientnet?stage=3
    efficientnet?stage=2,3,5

The weights come with an installed package (``models.packaged``; Apache-2.0). Of several stages the
coarser ones are enlarged to the grid of the finest and all are joined along the channels. The
network's own normalisation of pixels is part of ``apply``.

    stage      1   2   3   4    5    6    7
    pixels     2   4   8   16   16   32   32      a cell's side
    channels   16  24  40  80   112  192  320

Where a cell looks: TensorFlow's 'SAME' pads an even picture behind it alone, so at a cell's side s the
field of view of cell i has its middle at s i + s - 1/2 pixels, not at s i + s / 2: nearly half a cell
aside. So many pixels are put in front of the picture here that the finest grid is right but for half a
pixel; coarser ones are moved as they are enlarged.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import efficientnet, packaged
from gsjax.models.image_features import base

OPTIONS = dict(stage="3")


class Stages(efficientnet.EfficientNetLite):
    """The same network, read inside."""

    def outputs(self, pixels: jax.Array, wanted: Sequence[int]) -> list[jax.Array]:
        """Maps [B, H / s, W / s, C] at the end of the stages numbered ``wanted`` (from 1, rising) of
        normalised pixels [B, H, W, 3]."""
        x = nn.relu6(self.stem_norm(self.stem(pixels)))
        found, last = [], last_blocks(self.stages)
        for number, block in enumerate(self.block):
            x = block(x)
            if number in [last[stage - 1] for stage in wanted]:
                found.append(x)
            if len(found) == len(wanted):
                break
        return found


def last_blocks(stages: Sequence[efficientnet.Stage]) -> list[int]:
    """Number of each stage's last block."""
    return [sum(s.repeats for s in stages[: k + 1]) - 1 for k in range(len(stages))]


def sides(stages: Sequence[efficientnet.Stage]) -> list[int]:
    """Side of a cell of each stage in pixels."""
    result = []
    for stage in stages:
        result.append((result[-1] if result else 2) * stage.stride)
    return result


def build(path, options, open_state_dict) -> base.ImageEncoder:
    """``stage``: one number or several, joined by commas. See ``base.load``."""
    base.no_path("efficientnet", path)
    wanted = _wanted(options["stage"], len(efficientnet.LITE0))
    if open_state_dict is None:
        raise ValueError(
            "image encoder 'efficientnet': pass open_state_dict=gsjax.io.weights.open_state_dict"
        )
    file = packaged.verified(packaged.EFFICIENTNET_LITE0)
    return of_variables(efficientnet.convert(open_state_dict(file)), wanted)


def of_variables(
    variables: dict, wanted: tuple[int, ...], stages: tuple[efficientnet.Stage, ...] | None = None
) -> base.ImageEncoder:
    """The encoder of given weights.

    Args:
        variables: of ``efficientnet.EfficientNetLite``; what lies behind the last wanted stage is
            left out.
        wanted: numbers of stages, from 1, rising.
        stages: of the network; None = Lite0's.
    """
    stages = efficientnet.LITE0 if stages is None else stages
    blocks = last_blocks(stages)[wanted[-1] - 1] + 1
    kept = {"stem", "stem_norm", *(f"block_{i}" for i in range(blocks))}
    arrays = {
        collection: {name: value for name, value in tree.items() if name in kept}
        for collection, tree in variables.items()
    }
    channels = [stages[stage - 1].features for stage in wanted]
    joined = " and ".join(map(str, wanted))
    return base.ImageEncoder(
        name="efficientnet",
        channels=sum(channels),
        digest=base.digest("efficientnet", dict(stages=list(wanted)), arrays),
        licence=packaged.EFFICIENTNET_LITE0.licence,
        description=(
            f"EfficientNet-Lite0 (ImageNet-1k), end of stage {joined}; of (255 x - 127) / 128, "
            f"RGB x in [0, 1]; {sides(stages)[wanted[0] - 1]} pixels a cell"
        ),
        arrays=base.on_device(arrays),
        apply=functools.partial(features, stages, wanted),
    )


def _wanted(text: str, most: int) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 1 <= int(part) <= most for part in parts):
        raise ValueError(
            f"image encoder 'efficientnet': stage={text!r}; expected numbers from 1 to {most}, "
            "joined by commas"
        )
    return tuple(sorted({int(part) for part in parts}))


def features(
    stages: tuple[efficientnet.Stage, ...],
    wanted: tuple[int, ...],
    arrays: base.Arrays,
    images: jax.Array,
) -> jax.Array:
    """[B, ceil(H / s), ceil(W / s), C], s the side of a cell of the finest wanted stage."""
    base.check_images(images)
    steps = [sides(stages)[stage - 1] for stage in wanted]
    finest, coarsest = steps[0], steps[-1]
    front = coarsest - finest // 2  # so that the coarsest grid, too, begins before the picture does
    x = efficientnet.normalize(255.0 * images.astype(jnp.float32))
    x = base.pad(
        jnp.pad(x, ((0, 0), (front, front), (front, front), (0, 0)), mode="edge"), coarsest
    )
    maps = Stages(stages).apply(arrays, x, wanted, method="outputs")
    placed, before = [], (coarsest - finest) // finest
    for one, step in zip(maps, steps, strict=True):
        one, first = (
            (one[:, before:, before:], step / 2) if step == finest else (one, step - 0.5 - front)
        )
        placed.append(place(one, step, first, images.shape[1:3], finest))
    return jnp.concatenate(placed, -1)


def place(one: jax.Array, step: int, first: float, size: tuple[int, int], target: int) -> jax.Array:
    """A map on the grid that divides a picture evenly.

    Args:
        one: [B, h, w, C], cell i in the middle of pixel position ``step i + first``.
        step: pixels from cell to cell.
        first: middle of the first cell, in pixels from the picture's edge.
        size: (H, W) of the picture.
        target: pixels a cell of the result, where they divide the size; else a little less.

    Returns:
        [B, ceil(H / target), ceil(W / target), C], linear between the cells of ``one``.
    """
    counts = [-(-side // target) for side in size]
    scales = [step * count / side for count, side in zip(counts, size, strict=True)]
    if scales == [1.0, 1.0] and first == step / 2:
        return one[:, : counts[0], : counts[1]]
    # Cell i is at i + 1/2 in the coordinates of scale_and_translate, and is to come to lie at
    # (step i + first) count / side = scale (i + 1/2) + (first - step / 2) count / side.
    moves = [(first - step / 2) * count / side for count, side in zip(counts, size, strict=True)]
    shape = (one.shape[0], *counts, one.shape[-1])
    return jax.image.scale_and_translate(
        one, shape, (1, 2), jnp.array(scales), jnp.array(moves), "linear", antialias=False
    )
