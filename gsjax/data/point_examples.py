"""Objects as normalised point clouds with labels, for tasks on points. Imports no JAX.

An object is brought to a sphere of radius 1/2 around the origin: its diagonal is 1 unit.
"""

from collections.abc import Mapping, Sequence

import grain
import numpy as np

from gsjax.data import features, transforms

RADIUS = 0.5  # of the sphere around an object
FIELDS = ("index", "uid", "category", "means", "sh0", "parts")


def unit_sphere(means: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre [3] of the bounding box, and distance of the farthest of ``means`` [M, 3] from it."""
    means = means.astype(np.float64)
    centre = (means.min(0) + means.max(0)) / 2
    return centre, max(float(np.linalg.norm(means - centre, axis=-1).max()), 1e-9)


def points_of(
    record: Mapping, num_points: int, rng, *, normals: bool = False
) -> dict[str, np.ndarray]:
    """``xyz`` f32 [N, 3] normalised, ``rgb`` f32 [N, 3] in [0, 1], ``parts`` int32 [N] and ``mask``.

    Args:
        record: with ``means``, ``sh0`` and ``parts``.
        num_points: N; objects with fewer are padded with zeros.
        rng: of the choice of points; None takes the first ones, a farthest-point subset.
        normals: give ``normal`` f32 [N, 3] too, from ``normals`` of the record.
    """
    centre, radius = unit_sphere(record["means"])
    rows, mask = transforms.choose(len(record["means"]), num_points, rng=rng, short="pad")
    points = dict(
        xyz=((record["means"] - centre) * (RADIUS / radius)).astype(np.float32)[rows],
        rgb=np.clip(record["sh0"].astype(np.float32) * features.SH_C0 + 0.5, 0, 1)[rows],
        parts=record["parts"].astype(np.int32)[rows],
        **(dict(normal=record["normals"].astype(np.float32)[rows]) if normals else {}),
    )
    for value in points.values():
        value[~mask] = 0
    return {**points, "mask": mask}


def point_examples(
    records,
    *,
    num_points: int,
    seed: int,
    train: bool,
    rows: Sequence[int] | None = None,
    normals: bool = False,
) -> grain.MapDataset:
    """Labelled clouds, in the order of ``records`` or of ``rows``.

    Fields: ``index`` int32 [], ``valid`` bool [] (True), ``category`` int32 [], and those of
    :func:`points_of`. In training the points are drawn anew for every step; in evaluation they depend
    on the object alone.

    Args:
        records: random access to records with ``FIELDS``, of a prepared set (``store``) or of clouds
            (``labelled_clouds.Records``).
        num_points: N.
        seed: of the draws.
        train: draw at random, or once and for all.
        rows: which records; None = all.
        normals: whether examples have ``normal``; records then need ``normals``.
    """

    def make(record, rng):
        return dict(
            index=np.int32(record["index"]),
            valid=np.bool_(True),
            category=np.int32(record["category"]),
            **points_of(record, num_points, rng, normals=normals),
        )

    def fixed(record):
        seeds = features.stable_seed("points", seed, record["uid"])
        return make(record, np.random.default_rng(seeds))

    source = records if rows is None else Rows(records, rows)
    dataset = grain.MapDataset.source(source)
    return dataset.random_map(make, seed=seed) if train else dataset.map(fixed)


class Rows:
    """Some records of a source, in a given order; read once and kept."""

    def __init__(self, records, rows: Sequence[int]):
        self._records, self._rows = records, [int(row) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int):
        return self._records[self._rows[position]]
