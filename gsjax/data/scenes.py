"""Scenes with points and posed RGB-D views, and the examples that scene-level systems train on.

A scene is anything with ``Scene``'s members: a procedural room (``rooms.source``), a recording
(``hololens_room``, ``scannet``), a stored one (``scene_store``). ``scene_examples`` draws from scenes
what UniPre3D (arXiv 2506.09952) does: points, supervised views spread over the recording, and for each
a reference view close by, none of which is supervised. Worlds are right-handed, z up, in metres.
Imports no JAX.
"""

import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Protocol

import grain
import numpy as np
from absl import logging
from PIL import Image

from gsjax.data import clouds, features

CENTERS = ("mean", "floor", "none")


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One posed picture.

    Attributes:
        image: uint8 [H, W, 3].
        depth: float32 [H, W], metres along the optical axis, 0 where unknown.
        label: int [H, W], class of each pixel, ``clouds.NO_LABEL`` where unknown; None = no labels.
        viewmat: float64 [4, 4], world to camera, OpenCV axes.
        K: float64 [3, 3] in pixels of ``image``, pixel centres at +0.5.
    """

    image: np.ndarray
    depth: np.ndarray
    label: np.ndarray | None
    viewmat: np.ndarray
    K: np.ndarray

    def __post_init__(self):
        shape = self.image.shape[:2]
        for name in ("depth", "label"):
            found = getattr(self, name)
            if found is not None and found.shape != shape:
                raise ValueError(
                    f"View.{name}: expected the picture's {list(shape)}, found {list(found.shape)}"
                )


class Scene(Protocol):
    """What examples are drawn from."""

    name: str

    @property
    def num_frames(self) -> int:
        """F, frames with a usable pose, in the order of the recording."""

    @property
    def viewmats(self) -> np.ndarray:
        """[F, 4, 4] float64."""

    def view(self, frame: int) -> View:
        """Frame 0 .. F - 1."""

    def cloud(self) -> clouds.Cloud:
        """The scene's points, in the world of its cameras."""

    def neighbours(self, frame: int) -> np.ndarray | None:
        """Frames that see much of what this one sees, if that is known; else None."""


def resized(view: View, height: int, width: int) -> View:
    """A view at another size: area means of colours, nearest depth and labels, ``K`` scaled along.

    The principal point stays where it is in the picture, and the two axes may scale differently.
    """
    rows, columns = view.image.shape[:2]
    if (rows, columns) == (height, width):
        return view
    ratio = np.array([width / columns, height / rows, 1.0])
    down = height <= rows and width <= columns
    how = Image.Resampling.BOX if down else Image.Resampling.BILINEAR
    image = np.asarray(Image.fromarray(view.image).resize((width, height), how))
    # The source pixel that holds the centre of each new one.
    row = ((np.arange(height) + 0.5) * rows / height).astype(int)[:, None]
    column = ((np.arange(width) + 0.5) * columns / width).astype(int)
    label = None if view.label is None else view.label[row, column]
    return View(image, view.depth[row, column], label, view.viewmat, view.K * ratio[:, None])


def sized(scene: Scene, frame: int, height: int, width: int) -> View:
    """A frame at a size: :func:`resized`, unless the scene reads it at that size in a quicker way of its own.

    Such a way is a method ``sized_view(frame, height, width)``.
    """
    own = getattr(scene, "sized_view", None)
    return resized(scene.view(frame), height, width) if own is None else own(frame, height, width)


def shifted(viewmats: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """viewmats [..., 4, 4] for a world whose points p became p - shift [3]."""
    result = np.array(viewmats, np.float64)
    result[..., :3, 3] += result[..., :3, :3] @ np.asarray(shift, np.float64)
    return result


def draw_frames(
    num_frames: int,
    rng: np.random.Generator,
    *,
    runs: int = 8,
    distance: int = 5,
    neighbours=None,
) -> tuple[np.ndarray, np.ndarray]:
    """Supervised frames and a reference frame near each (arXiv 2506.09952, its ScanNet set-up).

    The recording is cut into ``runs`` runs of (nearly) equal length; one frame of each is supervised,
    and each of these gets one frame at most ``distance`` away as reference. No frame is in both
    lists. Released code lets a reference be the supervised frame of a neighbouring run.

    Args:
        num_frames: F, at least 2 x runs.
        rng: of the draws.
        runs: S.
        distance: in frames.
        neighbours: frame -> frames to draw its reference from instead, or None for those within
            ``distance``; used where some are left after leaving out supervised ones.

    Returns:
        (references [S], supervised [S]) int64; references are distinct where that is possible, which
        it always is without ``neighbours``.

    Raises:
        ValueError: too few frames, or an option below 1.
    """
    if runs < 1 or distance < 1:
        raise ValueError(f"expected runs >= 1 and distance >= 1, found {runs=}, {distance=}")
    if num_frames < 2 * runs:
        raise ValueError(
            f"num_frames: {num_frames} frames are too few for {runs} supervised and {runs} reference "
            f"frames; leave the scene out (scenes.long_enough) or lower runs"
        )
    edges = np.array([len(run) for run in np.array_split(np.arange(num_frames), runs)]).cumsum()
    starts = np.r_[0, edges[:-1]]
    supervised = np.array([int(rng.integers(a, b)) for a, b in zip(starts, edges)])
    choices = []
    for frame in supervised:
        near = np.arange(max(frame - distance, 0), min(frame + distance + 1, num_frames))
        own = None if neighbours is None else neighbours(int(frame))
        known = np.setdiff1d(near if own is None else own, supervised)
        known = known if len(known) else np.setdiff1d(near, supervised)
        if not len(known):  # every frame near by is supervised: possible only with short runs
            known = np.setdiff1d(np.arange(num_frames), supervised)
        choices.append(rng.permutation(known))
    return _distinct(choices), supervised


def _distinct(choices: list[np.ndarray]) -> np.ndarray:
    """One of each list, all different where possible; earlier entries are preferred.

    Augmenting paths (Kuhn): a later list may push an earlier one on to its next choice.
    """
    owner: dict[int, int] = {}

    def settle(place: int, tried: set) -> bool:
        for frame in choices[place]:
            if frame not in tried:
                tried.add(frame)
                if frame not in owner or settle(owner[frame], tried):
                    owner[frame] = place
                    return True
        return False

    alone = [place for place in range(len(choices)) if not settle(place, set())]
    result = np.zeros(len(choices), np.int64)
    for frame, place in owner.items():
        result[place] = frame
    for place in alone:
        result[place] = choices[place][0]
    return result


def long_enough(scenes: Sequence[Scene], num_frames: int) -> list[int]:
    """Positions of the scenes with at least ``num_frames`` frames; says how many are left out.

    Raises:
        ValueError: none has.
    """
    counts = [scenes[i].num_frames for i in range(len(scenes))]
    kept = [i for i, count in enumerate(counts) if count >= num_frames]
    if not kept:
        raise ValueError(
            f"scenes: none of {len(counts)} has {num_frames} frames (the longest has "
            f"{max(counts, default=0)}); lower runs, or the stride that frames are read with"
        )
    if len(kept) < len(counts):
        logging.info(
            "%d of %d scenes left out: fewer than %d frames", len(counts) - len(kept), len(counts),
            num_frames,
        )  # fmt: skip
    return kept


@dataclasses.dataclass(frozen=True)
class SceneSpec:
    """What an example holds.

    Attributes:
        num_points: N.
        height, width: of the views, pixels.
        runs: S, supervised views, and as many references.
        distance: frames between a supervised view and its reference at most.
        references: whether there are reference views; without them V = S.
        voxel: points are first thinned to one in each voxel of this edge (metres); None = not.
        crop: 'random', 'sphere' or 'box', see ``clouds.crop``; the middle of a sphere or box is a
            point that a supervised view sees.
        center: what becomes the origin: 'mean' of the points kept, 'floor' (mean x and y, lowest z)
            or 'none'. Points and cameras move together.
    """

    num_points: int
    height: int = 120
    width: int = 160
    runs: int = 8
    distance: int = 5
    references: bool = True
    voxel: float | None = None
    crop: str = "sphere"
    center: str = "mean"

    def __post_init__(self):
        for name in ("num_points", "height", "width", "runs", "distance"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"SceneSpec.{name}: expected 1 or more, found {getattr(self, name)}"
                )
        if self.crop not in clouds.CROPS:
            raise ValueError(
                f"SceneSpec.crop: unknown {self.crop!r}; known: {', '.join(clouds.CROPS)}"
            )
        if self.center not in CENTERS:
            raise ValueError(
                f"SceneSpec.center: unknown {self.center!r}; known: {', '.join(CENTERS)}"
            )

    @property
    def num_views(self) -> int:
        """V, reference and supervised views."""
        return self.runs * (2 if self.references else 1)


def scene_examples(
    scenes: Sequence[Scene], spec: SceneSpec, *, seed: int, train: bool
) -> grain.MapDataset:
    """Examples of one scene each, in the order of ``scenes``; short scenes are left out.

    Fields: ``index`` int32 [] (place in ``scenes``), ``valid`` bool [] (True); the points ``xyz`` f32
    [N, 3], ``rgb`` uint8 [N, 3], ``normal`` f32 [N, 3] (zeros unknown), ``label`` int32 [N] (-1
    unknown), ``mask`` bool [N]; the views, references first, ``images`` uint8 [V, H, W, 3],
    ``depths`` f32 [V, H, W] (0 unknown), ``semantic`` int16 [V, H, W] (-1 unknown), ``pixel_mask``
    bool [V, H, W] (depth is known and the point lies in the crop), ``viewmats`` f32 [V, 4, 4], ``Ks``
    f32 [V, 3, 3], ``frames`` int32 [V], ``reference`` bool [V]; and ``shift`` f32 [3], what was
    taken from the scene's coordinates.

    In training everything is drawn anew for every step, with the generator of the example's place
    in the sequence; in evaluation the draws depend on ``seed`` and the scene's name alone.

    Args:
        scenes: random access to scenes.
        spec: what an example holds.
        seed: of the draws.
        train: draw anew, or once and for all.

    Raises:
        ValueError: no scene is long enough.
    """
    rows = long_enough(scenes, 2 * spec.runs)
    source = grain.MapDataset.source(_Numbered(scenes, rows))
    make = functools.partial(_example, spec=spec)
    if train:
        return source.random_map(make, seed=seed)
    return source.map(_Fixed(make, seed))


class _Numbered:
    """(place, scene) of the places given."""

    def __init__(self, scenes, rows: list[int]):
        self._scenes, self._rows = scenes, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int):
        return self._rows[index], self._scenes[self._rows[index]]


class _Fixed:
    """Draws with a generator that depends on the scene alone."""

    def __init__(self, make, seed: int):
        self._make, self._seed = make, seed

    def __call__(self, item):
        rng = np.random.default_rng(features.stable_seed("scene", self._seed, item[1].name))
        return self._make(item, rng)


def _example(item: tuple[int, Scene], rng: np.random.Generator, *, spec: SceneSpec) -> dict:
    index, scene = item
    references, supervised = draw_frames(
        scene.num_frames, rng, runs=spec.runs, distance=spec.distance, neighbours=scene.neighbours
    )
    frames = np.concatenate([references, supervised]) if spec.references else supervised
    views = [sized(scene, int(f), spec.height, spec.width) for f in frames]
    points, region = _points(scene.cloud(), views[-spec.runs :], rng, spec)
    shift = _shift(points.xyz, spec.center)
    pixel_mask = [
        (v.depth > 0) & region.holds(clouds.back_project(v.depth, v.viewmat, v.K)) for v in views
    ]
    unknown = np.full((spec.height, spec.width), clouds.NO_LABEL, np.int16)
    return {
        "index": np.int32(index),
        "valid": np.bool_(True),
        **_padded(points, shift, spec.num_points),
        "images": np.stack([v.image for v in views]),
        "depths": np.stack([v.depth for v in views]).astype(np.float32),
        "semantic": np.stack([unknown if v.label is None else v.label for v in views]).astype(
            np.int16
        ),
        "pixel_mask": np.stack(pixel_mask),
        "viewmats": shifted(np.stack([v.viewmat for v in views]), shift).astype(np.float32),
        "Ks": np.stack([v.K for v in views]).astype(np.float32),
        "frames": frames.astype(np.int32),
        "reference": np.arange(len(frames)) < len(frames) - spec.runs,
        "shift": shift.astype(np.float32),
    }


def _points(
    cloud: clouds.Cloud, views: Sequence[View], rng: np.random.Generator, spec: SceneSpec
) -> tuple[clouds.Cloud, clouds.Region]:
    """The points of an example and the region they fill."""
    if spec.voxel is not None:
        cloud = cloud.take(clouds.grid_sample(cloud.xyz, spec.voxel, rng))
    center = None
    if spec.crop != "random":
        view = views[int(rng.integers(len(views)))]
        seen = np.flatnonzero(view.depth > 0)
        if len(seen):
            pixel = seen[int(rng.integers(len(seen)))]
            points = clouds.back_project(view.depth, view.viewmat, view.K)
            center = points.reshape(-1, 3)[pixel]
    rows, region = clouds.crop(cloud.xyz, spec.num_points, spec.crop, center=center, rng=rng)
    return cloud.take(rows), region


def _shift(xyz: np.ndarray, center: str) -> np.ndarray:
    if center == "none":
        return np.zeros(3)
    shift = xyz.mean(0, dtype=np.float64)
    if center == "floor":
        shift[2] = xyz[:, 2].min()
    return shift


def _padded(points: clouds.Cloud, shift: np.ndarray, num_points: int) -> dict[str, np.ndarray]:
    missing = num_points - len(points)

    def pad(values, value=0):
        return np.concatenate([values, np.full((missing, *values.shape[1:]), value, values.dtype)])

    return {
        "xyz": pad((points.xyz - shift).astype(np.float32)),
        "rgb": pad(points.rgb),
        "normal": pad(points.normal),
        "label": pad(points.label, clouds.NO_LABEL),
        "mask": np.arange(num_points) < len(points),
    }


class Kept:
    """Scenes whose views and clouds stay in memory once made, up to a bound.

    Rendering or decoding a view costs far more than reading it from memory, and small sets are gone
    through hundreds of times.

    Args:
        scenes: random access to scenes.
        memory: bytes that may be kept.
    """

    def __init__(self, scenes: Sequence[Scene], memory: int = 1 << 30):
        self._scenes, self._memory = scenes, memory
        self._store: dict[tuple, object] = {}
        self._used = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> "Scene":
        return _KeptScene(
            self, index, self.get((index, "scene"), lambda: self._scenes[index], 4096)
        )

    def get(self, key: tuple, make, size=None):
        """What is kept under a key, or else what ``make()`` gives, kept if there is room."""
        found = self._store.get(key)
        if found is None:
            found = make()
            size = _bytes(found) if size is None else size
            with self._lock:
                if key not in self._store and self._used + size <= self._memory:
                    self._store[key] = found
                    self._used += size
        return found


def _bytes(record) -> int:
    return sum(getattr(value, "nbytes", 0) for value in vars(record).values())


class _KeptScene:
    """A scene that asks ``Kept`` first."""

    def __init__(self, kept: Kept, index: int, scene: Scene):
        self._kept, self._index, self._scene = kept, index, scene
        self.name, self.neighbours = scene.name, scene.neighbours

    @property
    def num_frames(self) -> int:
        return self._scene.num_frames

    @property
    def viewmats(self) -> np.ndarray:
        return self._scene.viewmats

    def view(self, frame: int) -> View:
        return self._kept.get((self._index, frame), lambda: self._scene.view(frame))

    def sized_view(self, frame: int, height: int, width: int) -> View:
        """What is kept is of the size that examples show."""
        key = (self._index, frame, height, width)
        return self._kept.get(key, lambda: sized(self._scene, frame, height, width))

    def cloud(self) -> clouds.Cloud:
        return self._kept.get((self._index, "cloud"), self._scene.cloud)
