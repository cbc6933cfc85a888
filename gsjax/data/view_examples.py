"""Examples of an object as points and several posed pictures, for training by rendering.

An object is brought to a sphere of radius 1/2 around the origin (its diagonal is 1 unit), and its
cameras with it by the same transform, so that points and pictures stay registered. Reference views
come first; by default none of them is among the supervised ones (UniPre3D, arXiv 2506.09952, keeps the
two apart; its released code does not). Imports no JAX.
"""

from collections.abc import Mapping

import grain
import numpy as np

from gsjax.data import features, pictures, point_examples, store

FIELDS = (*pictures.FIELDS, "means", "sh0", "parts", "viewmats", "Ks")


def open_records(dataset_dir, split: str, memory: int = pictures.MEMORY) -> pictures.DecodedRecords:
    """A split of a prepared set with decoded pictures [V, H, W, C]; see ``pictures``."""
    records = store.open_split(dataset_dir, split, fields=FIELDS)
    return pictures.DecodedRecords(records, np.asarray, memory)


def view_examples(
    records,
    *,
    num_points: int,
    references: int,
    targets: int,
    seed: int,
    train: bool,
    overlap: bool = False,
    subset: str = "random",
    strangers: int | None = None,
) -> grain.MapDataset:
    """Examples of N points and R + T views, in the order of ``records``.

    Fields: ``index`` int32 [], ``valid`` bool [] (True), ``category`` int32 [], ``xyz`` f32 [N, 3],
    ``rgb`` f32 [N, 3] (colour of each point in [0, 1]), ``parts`` int32 [N] (0 = no label), ``mask``
    bool [N], ``images`` uint8 [R + T, H, W, C], ``viewmats`` f32 [R + T, 4, 4] and ``Ks`` f32
    [R + T, 3, 3]: R reference views, then T to be rendered.

    In training, views and points are drawn anew for every step. In evaluation the points depend on the
    object alone, references are the first views, and the T rendered ones are spread over the others.

    Args:
        records: of :func:`open_records`.
        num_points: N; objects with fewer are padded.
        references: R, may be 0.
        targets: T.
        seed: of the draws.
        train: draw at random, or once and for all.
        overlap: let references be among the supervised views (R + T may then exceed V).
        subset: 'random', or 'prefix': the first N stored points, a farthest-point subset.
        strangers: seed; every object is shown the pictures of another one instead of its own, the same
            other one always (a control: the same work without the information). None = its own.

    Raises:
        ValueError: numbers out of range, or an object with too few views.
    """
    if num_points < 1 or references < 0 or targets < 1:
        raise ValueError(
            f"expected num_points and targets from 1 on and references from 0 on; found {num_points=}, "
            f"{targets=}, {references=}"
        )
    if subset not in ("random", "prefix"):
        raise ValueError(f"subset: expected 'random' or 'prefix', found {subset!r}")

    def make(record, rng, first):
        record, shown = record if strangers is not None else (record, record)
        count = len(shown["views"])
        chosen = _views(count, references, targets, None if first else rng, overlap)
        return _example(record, shown, chosen, num_points, rng if subset == "random" else None)

    source = records if strangers is None else _Strangers(records, strangers)
    dataset = grain.MapDataset.source(source)
    if train:
        return dataset.random_map(_Train(make), seed=seed)
    return dataset.map(_Eval(make, seed))


class _Train:
    """Draws with the generator of the example's place in the sequence."""

    def __init__(self, make):
        self._make = make

    def __call__(self, record, rng):
        return self._make(record, rng, False)


class _Eval:
    """Draws with a generator that depends on the object alone."""

    def __init__(self, make, seed: int):
        self._make, self._seed = make, seed

    def __call__(self, record):
        uid = (record[0] if isinstance(record, tuple) else record)["uid"]
        rng = np.random.default_rng(features.stable_seed("points", self._seed, uid))
        return self._make(record, rng, True)


class _Strangers:
    """(record, record of another object): a random cycle through all objects."""

    def __init__(self, records, seed: int):
        order = np.random.default_rng(seed).permutation(len(records))
        self._records, self._other = records, np.empty(len(records), np.int64)
        self._other[order] = np.roll(order, 1)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, position: int):
        return self._records[position], self._records[int(self._other[position])]


def _views(count: int, references: int, targets: int, rng, overlap: bool) -> np.ndarray:
    """Numbers [R + T] of the views; ``rng`` None = the first ones, then evenly spread."""
    needed = max(references, targets) if overlap else references + targets
    if needed > count:
        raise ValueError(
            f"data.views: {needed} different views are needed ({references} reference, {targets} "
            f"supervised), the set has {count} an object; prepare more, or use fewer"
        )
    if rng is not None:
        order = rng.permutation(count)
        start = 0 if overlap else references
        return np.concatenate([order[:references], order[start : start + targets]])
    start = 0 if overlap else references
    spread = start + np.arange(targets) * (count - start) // targets
    return np.concatenate([np.arange(references), spread])


def move_cameras(viewmats: np.ndarray, centre: np.ndarray, scale: float) -> np.ndarray:
    """Cameras that see (x - centre) * scale as the given ones see x; depths grow by ``scale``.

    Args:
        viewmats: [V, 4, 4] world to camera.
        centre: [3].
        scale: > 0.
    """
    moved = viewmats.astype(np.float64)
    moved[:, :3, 3] = scale * (moved[:, :3, 3] + moved[:, :3, :3] @ centre)
    return moved.astype(np.float32)


def _example(record: Mapping, shown: Mapping, views: np.ndarray, num_points: int, rng) -> dict:
    """Points of ``record`` and pictures of ``shown``, each brought to the unit sphere."""
    centre, radius = point_examples.unit_sphere(shown["means"])
    scale = point_examples.RADIUS / radius
    return dict(
        index=np.int32(record["index"]),
        valid=np.bool_(True),
        category=np.int32(record["category"]),
        **point_examples.points_of(record, num_points, rng),
        images=shown["views"][views],
        viewmats=move_cameras(shown["viewmats"][views], centre, scale),
        Ks=shown["Ks"][views],
    )
