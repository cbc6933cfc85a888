"""Examples of an object as Gaussians and pictures of it; see ``paired``. Imports no JAX.

In training every step draws one of the stored samples of Gaussians and two different pictures anew;
only these are decoded. In evaluation an example depends on the object and on a number, ``draw``, alone.
"""

from collections.abc import Callable, Mapping

import grain
import numpy as np

from gsjax.data import features, paired, store

SAMPLINGS = ("fps", "uniform")


def open_records(folder, split: str) -> store.Records:
    """Records of one side of a set, all fields.

    Raises:
        ValueError: no such set or side.
    """
    known = store.split_sizes(folder)
    if split not in known:
        raise ValueError(f"split: unknown split {split!r} of {folder}; known: {sorted(known)}")
    return store.Records(folder, split, paired.FIELDS)


class Points:
    """Chooses rows of a record and reads their columns.

    Attributes:
        num: P.
        sampling: 'fps', a prefix of one of the stored farthest-point samples, or 'uniform'.
        replace: whether uniform rows may repeat, as in the reference; they do where there are fewer than
            P.
        columns: (record, rows) -> f32 [P, 3 + C].
    """

    def __init__(
        self,
        num: int,
        sampling: str,
        replace: bool,
        columns: Callable[[Mapping, np.ndarray], np.ndarray],
    ):
        if sampling not in SAMPLINGS:
            raise ValueError(f"data.sampling: unknown {sampling!r}; known: {', '.join(SAMPLINGS)}")
        if num < 1:
            raise ValueError(f"data.num_points: expected at least 1, found {num}")
        self.num, self.sampling, self.replace, self.columns = num, sampling, replace, columns

    def rows(self, record: Mapping, rng: np.random.Generator | None, draw: int = 0) -> np.ndarray:
        """int [P]; ``rng`` None = the sample of that number, or rows drawn by it and the object's name.

        Raises:
            ValueError: the stored samples are shorter than P.
        """
        if self.sampling == "fps":
            samples = record["samples"]
            if self.num > samples.shape[1]:
                raise ValueError(
                    f"data.num_points: found {self.num}, stored samples have {samples.shape[1]}; raise "
                    "data.sample_points, or use fewer"
                )
            number = draw if rng is None else int(rng.integers(len(samples)))
            return samples[number % len(samples), : self.num]
        if rng is None:
            rng = np.random.default_rng(features.stable_seed("uniform", record["uid"], draw))
        count = len(record["xyz"])
        return rng.choice(count, self.num, replace=self.replace or count < self.num)


def training(
    records,
    points: Points,
    *,
    seed: int,
    count: int = 2,
    strangers: bool = False,
    rows: np.ndarray | None = None,
) -> grain.MapDataset:
    """Examples with ``points`` f32 [P, 3 + C] and ``images`` uint8 [V, S, S, 3].

    Beside these ``index`` int32 [], ``valid`` bool [] (True) and ``category`` int32 [].

    Args:
        records: of :func:`open_records`.
        points: how Gaussians are chosen.
        seed: of the draws.
        count: different pictures of an object.
        strangers: with one more picture, of another object of the set, drawn anew like all else.
        rows: objects to use; None = all.

    Raises:
        ValueError: an object has fewer pictures.
    """

    draw = _Draw(records, points, count, strangers)
    return grain.MapDataset.source(_Numbered(records, rows)).random_map(draw, seed=seed)


def evaluation(
    records, points: Points, *, pictures: str = "views", count: int = 0, draw: int = 0
) -> grain.MapDataset:
    """The same fields in the records' order, ``images`` [V, S, S, 3].

    Args:
        records: of :func:`open_records`.
        points: how Gaussians are chosen.
        pictures: of ``paired.PICTURES``.
        count: V, the first ones; 0 = all.
        draw: number of the sample of Gaussians.

    Raises:
        ValueError: an object has no such pictures.
    """
    if pictures not in paired.PICTURES:
        raise ValueError(f"pictures: unknown {pictures!r}; known: {', '.join(paired.PICTURES)}")

    def make(record):
        shown = record[pictures]
        if not shown or count > len(shown):
            raise ValueError(
                f"{record['uid']}: expected {count or 'some'} {pictures!r} pictures, found {len(shown)}; "
                "only test objects whose pictures are of meshes have those of their Gaussians"
            )
        rows = points.rows(record, None, draw)
        return _example(record, points.columns(record, rows), shown[:count] if count else shown)

    return grain.MapDataset.source(records).map(make)


class _Draw:
    """A training example, with the generator of its place in the sequence."""

    def __init__(self, records, points: Points, count: int, strangers: bool):
        self._records, self._points = records, points
        self._count, self._strangers = count, strangers

    def __call__(self, record, rng):
        views = record["views"]
        if len(views) < self._count:
            raise ValueError(
                f"{record['uid']}: expected at least {self._count} views, found {len(views)}; raise "
                "data.views"
            )
        chosen = [views[i] for i in rng.choice(len(views), self._count, replace=False)]
        if self._strangers:
            step = int(rng.integers(1, len(self._records)))
            shown = self._records[(record["position"] + step) % len(self._records)]["views"]
            chosen.append(shown[int(rng.integers(len(shown)))])
        rows = self._points.rows(record, rng)
        return _example(record, self._points.columns(record, rows), chosen)


class _Numbered:
    """Some records, with their ``position`` among all."""

    def __init__(self, records, rows):
        self._records = records
        self._rows = np.arange(len(records)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict:
        position = int(self._rows[place])
        return {**self._records[position], "position": position}


def _example(record, columns, files) -> dict:
    return dict(
        index=np.int32(record["index"]),
        valid=np.bool_(True),
        category=np.int32(record["category"]),
        points=columns,
        images=np.stack([features.decode_png(data) for data in files]),
    )
