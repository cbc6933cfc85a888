"""Objects as ready-made point clouds with a category, and maybe normals and part labels.

What the readers of published sets (``scanobjectnn``, ``modelnet``, ``shapenetpart``) share: the type
of an object, the checks of arrays, text files of points, and the records that ``point_examples``
draws from. Which set is which is in ``cloud_sets``; sets of Gaussians are in ``store``.
Imports no JAX.
"""

import dataclasses
import functools
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledCloud:
    """One object.

    Attributes:
        name: unique within its set.
        category: place in the set's ``categories``.
        xyz: float32 [P, 3] as stored, +y up.
        normal: float32 [P, 3]; None = the set has none.
        parts: int32 [P], places in the set's ``parts``; None = the set has none.
    """

    name: str
    category: int
    xyz: np.ndarray
    normal: np.ndarray | None = None
    parts: np.ndarray | None = None

    def take(self, rows) -> "LabelledCloud":
        """The points of these rows (any index of numpy)."""
        pick = lambda x: None if x is None else x[rows]  # noqa: E731
        return LabelledCloud(
            self.name, self.category, self.xyz[rows], pick(self.normal), pick(self.parts)
        )


class LabelledClouds(Protocol):
    """Random access to the objects of one split.

    Attributes:
        categories: names in label order, as words.
        parts: names of the part labels of all categories; empty where there are none.
        category_parts: for each category the labels that its objects' parts may have; or empty.
        labels: int32 [n], the category of every object.
        has_normals: whether objects have normals.
    """

    categories: tuple[str, ...]
    parts: tuple[str, ...]
    category_parts: tuple[tuple[int, ...], ...]
    labels: np.ndarray
    has_normals: bool

    def __len__(self) -> int:
        """n."""

    def __getitem__(self, index: int) -> LabelledCloud:
        """Reads an object."""


def points_array(values: np.ndarray, source: str) -> np.ndarray:
    """Positions or normals of several objects as float32 [n, P, 3].

    Raises:
        ValueError: another shape, no points, or values that are not finite; names ``source``.
    """
    values = np.asarray(values)
    if values.ndim != 3 or values.shape[-1] != 3 or not values.size:
        raise ValueError(f"{source}: expected shape [n, P, 3], found {list(values.shape)}")
    values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
        raise ValueError(f"{source}: NaN or infinite values in {len(bad)} rows, the first {bad[0]}")
    return values


def label_array(values: np.ndarray, count: int, classes: int, source: str) -> np.ndarray:
    """Labels [n] or [n, 1] of ``count`` objects or points as int32 [n].

    Raises:
        ValueError: another shape, no whole numbers, or labels outside 0 .. ``classes`` - 1; names
            ``source``.
    """
    values = np.asarray(values)
    if values.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"{source}: expected {[count]} or {[count, 1]}, found {list(values.shape)}"
        )
    values = values.reshape(-1)
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise ValueError(f"{source}: expected whole numbers, found {values[values % 1 != 0][0]}")
    values = values.astype(np.int64)
    outside = np.unique(values[(values < 0) | (values >= classes)])
    if len(outside):
        raise ValueError(
            f"{source}: expected labels 0 to {classes - 1}, found {outside[:5].tolist()}; is this "
            "the set that it is read as?"
        )
    return values.astype(np.int32)


def read_rows(path: Path, columns: int, *, delimiter: str | None = None) -> np.ndarray:
    """A text file of one point a line as float32 [P, columns].

    Args:
        path: the file.
        columns: numbers in a line.
        delimiter: between them; None = blanks.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no points, lines of another length, or something else than finite numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file; said below
            values = np.loadtxt(path, np.float32, delimiter=delimiter, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected {columns} numbers in each line ({error})") from error
    if values.ndim != 2 or values.shape[1] != columns or not len(values):
        raise ValueError(
            f"{path}: expected {columns} numbers in each line, found shape {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: NaN or infinite values")
    return values


class Joined:
    """Several splits of one set, one after the other."""

    def __init__(self, sets: Sequence[LabelledClouds]):
        self._sets = list(sets)
        first = self._sets[0]
        self.categories, self.parts = first.categories, first.parts
        self.category_parts = first.category_parts
        self.has_normals = all(found.has_normals for found in self._sets)
        self._starts = np.cumsum([0, *map(len, self._sets)])

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [n]."""
        return np.concatenate([found.labels for found in self._sets])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> LabelledCloud:
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        which = int(np.searchsorted(self._starts, index, "right")) - 1
        return self._sets[which][index - int(self._starts[which])]


class Records:
    """Clouds as the records that ``point_examples`` reads; kept in memory once read.

    A record has ``index`` (unique over the set's splits if ``first`` is chosen so), ``uid``,
    ``category``, ``means`` f32 [P, 3], ``sh0`` f32 [P, 3] (zeros, a middle grey: these sets have no
    colours), ``parts`` uint8 [P] (label + 1; 0 = no label) and, where the set has them, ``normals``
    f32 [P, 3].

    Args:
        clouds: the objects.
        first: index of the first one.
        max_points: of an object that are kept, at even steps; 0 = all.

    Raises:
        ValueError: more part labels than a record can hold, or ``max_points`` below 0.
    """

    def __init__(self, clouds: LabelledClouds, *, first: int = 0, max_points: int = 0):
        if len(clouds.parts) > 254:
            raise ValueError(f"parts: expected at most 254 labels, found {len(clouds.parts)}")
        if max_points < 0:
            raise ValueError(f"max_points: expected 0 (all) or more, found {max_points}")
        self._clouds, self._first, self._max = clouds, first, max_points
        self._kept: dict[int, LabelledCloud] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._clouds)

    def __getitem__(self, index: int) -> dict:
        cloud = self._kept.get(index)
        if cloud is None:
            cloud = self._clouds[index]
            count = len(cloud.xyz)
            if self._max and count > self._max:
                cloud = cloud.take(np.arange(self._max) * count // self._max)
            with self._lock:
                self._kept[index] = cloud
        count = len(cloud.xyz)
        parts = np.zeros(count, np.uint8) if cloud.parts is None else cloud.parts + 1
        normals = {} if cloud.normal is None else dict(normals=cloud.normal)
        return dict(
            index=self._first + index,
            uid=cloud.name,
            category=cloud.category,
            means=cloud.xyz,
            sh0=np.zeros((count, 3), np.float32),
            parts=parts.astype(np.uint8),
            **normals,
        )

    def __getstate__(self):
        return {**self.__dict__, "_kept": {}, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())
