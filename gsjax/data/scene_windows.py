"""Windows of a recording for feed-forward models: a few context views, and targets among them.

The sampler that MVSplat and DepthSplat (arXiv 2410.13862) call 'bounded': two context frames some
steps apart, further ones between them, targets in the same stretch. Here targets are never context
frames and never repeat while there are enough others. Scenes are those of ``scenes``. Imports no JAX.
"""

import dataclasses
import functools
from collections.abc import Sequence

import grain
import numpy as np

from gsjax.data import features
from gsjax.data.scenes import Scene, long_enough, resized


@dataclasses.dataclass(frozen=True)
class WindowSpec:
    """What an example holds.

    Attributes:
        contexts: C, context views, 2 or more.
        targets: T, views to be predicted.
        gap: least and greatest number of frames between the two outer context views; scenes shorter
            than that use what they have.
        height, width: pixels.
    """

    contexts: int = 2
    targets: int = 4
    gap: tuple[int, int] = (6, 16)
    height: int = 120
    width: int = 160

    def __post_init__(self):
        if self.contexts < 2 or self.targets < 1 or self.height < 1 or self.width < 1:
            raise ValueError(
                "WindowSpec: expected contexts >= 2, targets >= 1 and a positive size; found "
                f"{self.contexts=}, {self.targets=}, {self.height=}, {self.width=}"
            )
        if not self.contexts <= self.gap[0] <= self.gap[1]:
            raise ValueError(
                f"WindowSpec.gap: expected contexts <= least <= greatest, found {self.gap} for "
                f"{self.contexts} contexts"
            )

    @property
    def num_views(self) -> int:
        """V = C + T."""
        return self.contexts + self.targets


def draw_window(
    scene: Scene, spec: WindowSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Context and target frames of one example.

    Where the scene knows which frames see the same things (``neighbours``), the outer context frames
    are such a pair and the window is what either of them is paired with; else it is the stretch of
    frames between two that lie ``gap`` apart. Further context frames are those whose cameras are
    farthest from the ones already taken.

    Args:
        scene: at least ``contexts + 1`` frames.
        spec: numbers of views.
        rng: of the draws.

    Returns:
        Ascending context [C] and targets [T], int64, with no frame in both; targets repeat only
        where the window has fewer than T others.

    Raises:
        ValueError: the scene is too short.
    """
    if scene.num_frames <= spec.contexts:
        raise ValueError(
            f"{scene.name}: {scene.num_frames} frames are too few for {spec.contexts} context views "
            "and a target"
        )
    pair, window = _paired(scene, spec, rng) or _stretch(scene.num_frames, spec, rng)
    context = _spread(scene.viewmats, pair, window, spec.contexts)
    others = np.setdiff1d(window, context)
    targets = rng.choice(others, spec.targets, replace=len(others) < spec.targets)
    return np.sort(context), np.sort(targets)


def _stretch(num_frames: int, spec: WindowSpec, rng):
    """((first, last), frames between them)."""
    most = min(spec.gap[1], num_frames - 1)
    gap = int(rng.integers(min(spec.gap[0], most), most + 1))
    left = int(rng.integers(num_frames - gap))
    return (left, left + gap), np.arange(left, left + gap + 1)


def _paired(scene: Scene, spec: WindowSpec, rng):
    """As ``_stretch`` from the scene's own pairs; None where it knows too few."""
    for frame in rng.permutation(scene.num_frames):
        near = scene.neighbours(int(frame))
        if near is None:
            return None
        if len(near):
            other = int(rng.choice(near))
            window = np.unique([*near, *scene.neighbours(other), frame, other]).astype(np.int64)
            if len(window) > spec.contexts:
                return (int(frame), other), window
    return None


def _spread(viewmats: np.ndarray, pair, window: np.ndarray, count: int) -> np.ndarray:
    """``pair`` and further frames of the window, farthest cameras first: int64 [count]."""
    eyes = -np.einsum("fji,fj->fi", viewmats[:, :3, :3], viewmats[:, :3, 3])
    taken = list(pair)
    while len(taken) < count:
        rest = np.setdiff1d(window, taken)
        away = np.linalg.norm(eyes[rest][:, None] - eyes[taken], axis=-1).min(1)
        taken.append(int(rest[np.argmax(away)]))
    return np.array(taken, np.int64)


def window_examples(
    scenes: Sequence[Scene], spec: WindowSpec, *, seed: int, train: bool
) -> grain.MapDataset:
    """Examples of one window each, in the order of ``scenes``; scenes too short are left out.

    Fields: ``index`` int32 [] (place in ``scenes``), ``valid`` bool [] (True), the views, context first
    and each kind in time order, ``images`` uint8 [V, H, W, 3], ``depths`` f32 [V, H, W] (metres, 0
    unknown), ``viewmats`` f32 [V, 4, 4], ``Ks`` f32 [V, 3, 3], ``frames`` int32 [V], ``context`` bool
    [V]; and ``near`` and ``far`` f32 [], 0.9 and 1.1 times the least and greatest depth known in the
    context views (0.1 and 10 where none is).

    In training the window is drawn anew for every step; in evaluation it depends on ``seed`` and the
    scene's name alone.

    Raises:
        ValueError: no scene is long enough.
    """
    rows = long_enough(scenes, spec.contexts + 1)
    make = functools.partial(_example, scenes, spec)
    if train:
        return grain.MapDataset.source(rows).random_map(make, seed=seed)
    return grain.MapDataset.source(rows).map(functools.partial(_fixed, make, scenes, seed))


def _fixed(make, scenes, seed: int, index: int) -> dict:
    stable = features.stable_seed("window", seed, scenes[index].name)
    return make(index, np.random.default_rng(stable))


def _example(scenes, spec: WindowSpec, index: int, rng: np.random.Generator) -> dict:
    scene = scenes[index]
    context, targets = draw_window(scene, spec, rng)
    frames = np.concatenate([context, targets])
    views = [resized(scene.view(int(f)), spec.height, spec.width) for f in frames]
    depths = np.stack([view.depth for view in views]).astype(np.float32)
    known = depths[: spec.contexts][depths[: spec.contexts] > 0]
    near, far = (0.9 * known.min(), 1.1 * known.max()) if known.size else (0.1, 10.0)
    return {
        "index": np.int32(index),
        "valid": np.bool_(True),
        "images": np.stack([view.image for view in views]),
        "depths": depths,
        "viewmats": np.stack([view.viewmat for view in views]).astype(np.float32),
        "Ks": np.stack([view.K for view in views]).astype(np.float32),
        "frames": frames.astype(np.int32),
        "context": np.arange(len(frames)) < spec.contexts,
        "near": np.float32(near),
        "far": np.float32(far),
    }
