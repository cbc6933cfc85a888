"""Labelled points of scenes, without any picture: examples for tasks on points.

A scene here is whatever has a ``name`` and a ``cloud()``; those of ``scenes`` have both, and none of
their frames is read. Training sees crops drawn anew for every step; evaluation sees every (thinned)
point once: scenes larger than an example are covered by several crops, and each point is scored in
the one whose middle it is nearest to. Imports no JAX.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol

import grain
import numpy as np

from gsjax.data import clouds, features

CROPS = ("sphere", "box")


class CloudScene(Protocol):
    """What examples are drawn from."""

    name: str

    def cloud(self) -> clouds.Cloud:
        """The scene's points; world with z up, metres."""


@dataclasses.dataclass(frozen=True)
class CloudSpec:
    """What an example holds.

    Attributes:
        num_points: N.
        voxel: points are first thinned to one in each voxel of this edge (metres); None = not.
        crop: 'sphere' or 'box', see ``clouds.crop``; in training its middle is any point.
    """

    num_points: int
    voxel: float | None = None
    crop: str = "sphere"

    def __post_init__(self):
        if self.num_points < 1:
            raise ValueError(f"CloudSpec.num_points: expected 1 or more, found {self.num_points}")
        if self.voxel is not None and not self.voxel > 0:
            raise ValueError(f"CloudSpec.voxel: expected metres above 0, found {self.voxel}")
        if self.crop not in CROPS:
            raise ValueError(
                f"CloudSpec.crop: unknown {self.crop!r}; known: {', '.join(CROPS)}; others leave "
                "no crops that a scene could be covered by"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Cover:
    """Crops that hold all points of a cloud.

    Attributes:
        centers: float64 [K, 3], middles of the crops.
        owner: int32 [P], the crop that each point is scored in.
    """

    centers: np.ndarray
    owner: np.ndarray


def cover(xyz: np.ndarray, num_points: int, kind: str) -> Cover:
    """Few crops of ``num_points`` points that together hold every point; nothing is drawn.

    The next middle is the point, of those in no crop yet, that is farthest from all middles so far;
    the first is the point farthest from the mean. A point in several crops belongs to the one whose
    middle it is nearest to, in parts of the crop's reach: there it has most of its surroundings.

    Args:
        xyz: [P, 3].
        num_points: of a crop.
        kind: one of ``CROPS``.

    Raises:
        ValueError: no points, ``num_points`` below 1, or more points than that in one place.
    """
    if not len(xyz) or num_points < 1:
        raise ValueError(
            f"cover: expected points and num_points >= 1, found {len(xyz)} points and {num_points=}"
        )
    if len(xyz) <= num_points:
        return Cover(xyz.mean(0, dtype=np.float64)[None], np.zeros(len(xyz), np.int32))
    centers: list[np.ndarray] = []
    owner, nearest = np.full(len(xyz), -1, np.int32), np.full(len(xyz), np.inf)
    away = clouds.distance(xyz - xyz.mean(0), kind)
    while (left := owner < 0).any():
        center = np.asarray(xyz[np.argmax(np.where(left, away, -1.0))], np.float64)
        rows, region = clouds.crop(xyz, num_points, kind, center=center, rng=None)
        if not (owner[rows] < 0).any():
            raise ValueError(
                f"cover: more than {num_points} points lie at {center.tolist()}; thin the cloud "
                "(data.thin), or take larger crops (data.num_points)"
            )
        length = clouds.distance(xyz - center, kind)
        away = length if not centers else np.minimum(away, length)
        share = length[rows] / max(region.reach, 1e-12)
        better = rows[share < nearest[rows]]
        owner[better] = len(centers)
        nearest[rows] = np.minimum(nearest[rows], share)
        centers.append(center)
    return Cover(np.stack(centers), owner)


def train_examples(
    scenes: Sequence[CloudScene], spec: CloudSpec, *, seed: int, rows: Sequence[int] | None = None
) -> grain.MapDataset:
    """One crop a scene, drawn anew for every step; in the order of ``scenes`` or of ``rows``.

    Fields: ``index`` int32 [] (place in ``scenes``), ``valid`` bool [] (True), ``xyz`` f32 [N, 3]
    (the mean of the crop's points is the origin), ``rgb`` uint8 [N, 3], ``normal`` f32 [N, 3] (zeros
    unknown), ``label`` int32 [N] (-1 unknown), ``mask`` bool [N], ``scored`` bool [N] (``mask``).

    Args:
        scenes: random access to scenes.
        spec: what an example holds.
        seed: of the draws.
        rows: which scenes; None = all.
    """

    def make(row, rng):
        cloud = _thinned(scenes[row].cloud(), spec, rng)
        kept, _ = clouds.crop(cloud.xyz, spec.num_points, spec.crop, rng=rng)
        return _example(row, cloud, kept, np.ones(len(kept), bool), spec)

    return grain.MapDataset.source(_chosen(scenes, rows)).random_map(make, seed=seed)


def eval_examples(
    scenes: Sequence[CloudScene], spec: CloudSpec, *, seed: int, rows: Sequence[int] | None = None
) -> grain.MapDataset:
    """All crops of every scene, in order; fields and arguments as :func:`train_examples`.

    ``scored`` is True for the points that belong to the crop, so that over the crops of a scene (those
    of one ``index``) each thinned point is scored once. Which point of a voxel thinning keeps depends
    on ``seed`` and the scene's name alone.

    Every cloud is read once here, to count the crops.
    """

    @functools.lru_cache(maxsize=4)  # the crops of a scene follow one another
    def whole(row):
        scene = scenes[row]
        rng = np.random.default_rng(features.stable_seed("cloud", seed, scene.name))
        return _thinned(scene.cloud(), spec, rng)

    places, covers = [], {}
    for row in _chosen(scenes, rows):
        covers[row] = cover(whole(row).xyz, spec.num_points, spec.crop)
        places += [(row, k) for k in range(len(covers[row].centers))]

    def make(place):
        row, number = place
        cloud, found = whole(row), covers[row]
        kept, _ = clouds.crop(
            cloud.xyz, spec.num_points, spec.crop, center=found.centers[number], rng=None
        )
        return _example(row, cloud, kept, found.owner[kept] == number, spec)

    return grain.MapDataset.source(places).map(make)


def _chosen(scenes, rows) -> list[int]:
    return [int(row) for row in (range(len(scenes)) if rows is None else rows)]


def _thinned(cloud: clouds.Cloud, spec: CloudSpec, rng) -> clouds.Cloud:
    if spec.voxel is None:
        return cloud
    return cloud.take(clouds.grid_sample(cloud.xyz, spec.voxel, rng))


def _example(row: int, cloud: clouds.Cloud, kept, scored, spec: CloudSpec) -> dict[str, np.ndarray]:
    points, missing = cloud.take(kept), spec.num_points - len(kept)
    shift = points.xyz.mean(0, dtype=np.float64)

    def pad(values, value=0):
        return np.concatenate([values, np.full((missing, *values.shape[1:]), value, values.dtype)])

    return {
        "index": np.int32(row),
        "valid": np.bool_(True),
        "xyz": pad((points.xyz - shift).astype(np.float32)),
        "rgb": pad(points.rgb),
        "normal": pad(points.normal),
        "label": pad(points.label, clouds.NO_LABEL),
        "mask": np.arange(spec.num_points) < len(kept),
        "scored": pad(np.asarray(scored, bool)),
    }
