"""Labelled clouds: a part to learn from, one to choose settings by, one to be measured on.

They come from a prepared set of objects, or as they are published (``data.cloud_sets``).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gsjax.data import (
    cloud_sets,
    label_splits,
    labelled_clouds,
    point_examples,
    prepare,
    store,
)

TASKS = ("classify", "parts")
_SPLIT_SEED = 20_26  # of the validation part; the same in every run, whatever the model's seed


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples and the facts about them.

    Attributes:
        train: ``() -> grain.MapDataset`` of the fraction that is learned from.
        evaluate: ``split -> grain.MapDataset``: 'fit' (what is learned from), 'val', 'test'.
        class_names: in label order.
        categories: names of the objects' categories.
        num_fit: objects that are learned from.
        category_classes: for each category the classes that points of its objects may have; empty
            where any object may have any.
    """

    train: Callable[[], Any]
    evaluate: Callable[[str], Any]
    class_names: tuple[str, ...]
    categories: tuple[str, ...]
    num_fit: int
    category_classes: tuple[tuple[int, ...], ...] = ()

    @property
    def answers(self) -> np.ndarray | None:
        """bool [categories, classes] of ``category_classes``; None where any object may have any."""
        if not self.category_classes:
            return None
        table = np.zeros((len(self.categories), len(self.class_names)), bool)
        for row, classes in zip(table, self.category_classes):
            row[list(classes)] = True
        return table


@dataclasses.dataclass(frozen=True)
class _Objects:
    """What a set holds.

    Attributes:
        categories: in label order.
        parts: names of part labels, the first for 'no label'; fewer than three where there are none.
        records: side -> records of ``point_examples``, for 'train', 'test' and maybe 'val'.
        labels: side -> category of each, int [n].
        own_val: the set has a 'val' side.
        category_classes: see ``Source``.
    """

    categories: tuple[str, ...]
    parts: tuple[str, ...]
    records: Callable[[str], Any]
    labels: Callable[[str], np.ndarray]
    own_val: bool = False
    category_classes: tuple[tuple[int, ...], ...] = ()


def batch_spec(config) -> dict[str, jax.ShapeDtypeStruct]:
    """One example: ``{field: ShapeDtypeStruct}``."""
    num = config.data.num_points
    spec = dict(
        index=((), np.int32),
        valid=((), np.bool_),
        category=((), np.int32),
        xyz=((num, 3), np.float32),
        rgb=((num, 3), np.float32),
        parts=((num,), np.int32),
        mask=((num,), np.bool_),
    )
    if "normal" in config.model.features:
        spec["normal"] = ((num, 3), np.float32)
    return {name: jax.ShapeDtypeStruct(*item) for name, item in spec.items()}


def load(config) -> Source:
    """The labelled objects that ``data.name`` names: as published, or prepared (made first if absent).

    'val' is the set's own validation side where it has one, else a share ``data.validation`` of the
    training objects. With ``data.validation = 0`` nothing is held back: the set's own validation side
    is learned from too, as published results of ShapeNetPart do.

    Raises:
        FileNotFoundError: a published set lacks files.
        ImportError: they are HDF5, and h5py is absent.
        ValueError: an unknown task or set, a set without part labels or normals, an unknown category to
            leave out, or what the sets' own modules say.
    """
    d = config.data
    if config.task not in TASKS:
        raise ValueError(f"config.task: unknown {config.task!r}; known: {', '.join(TASKS)}")
    known = (*prepare.NAMES, *cloud_sets.NAMES)
    if d.name not in known:
        raise ValueError(f"data.name: unknown set {d.name!r}; known: {', '.join(known)}")
    published = d.name in cloud_sets.NAMES
    objects = _published(config) if published else _prepared(config)
    if config.task == "parts" and len(objects.parts) < 3:
        raise ValueError(
            f"config.task='parts': the set {d.name!r} has no part labels; the sets 'procedural' and "
            "'shapenetpart' have"
        )
    unknown = sorted(set(d.exclude_labels) - set(objects.categories))
    if unknown:
        raise ValueError(
            f"data.exclude_labels: unknown {unknown}; known: {', '.join(objects.categories)}"
        )
    sides = _sides(objects, d)

    def dataset(side, train):
        if side not in sides:
            raise ValueError(f"split: unknown {side!r}; known: {', '.join(sides)}")
        split, chosen = sides[side]
        return point_examples.point_examples(
            objects.records(split), num_points=d.num_points, seed=config.seed if train else 0,
            train=train, rows=chosen, normals="normal" in config.model.features,
        )  # fmt: skip

    return Source(
        train=lambda: dataset("fit", True),
        evaluate=lambda side: dataset(side, False),
        class_names=objects.categories if config.task == "classify" else objects.parts,
        categories=objects.categories,
        num_fit=len(sides["fit"][1]),
        category_classes=objects.category_classes if config.task == "parts" else (),
    )


def _sides(objects: _Objects, d) -> dict[str, tuple[str, np.ndarray]]:
    """{side: (side of the set, its rows)}."""

    def known(split):
        outside = [objects.categories.index(name) for name in d.exclude_labels]
        return np.flatnonzero(~np.isin(objects.labels(split), outside))

    rows = known("train")
    labels = objects.labels("train")[rows]
    learned, held = label_splits.hold_back(
        labels, 0 if objects.own_val else d.validation, _SPLIT_SEED
    )
    some = label_splits.fraction(labels[learned], d.fraction, d.fraction_seed)
    sides = dict(fit=("train", rows[learned][some]))
    if objects.own_val:
        sides["val"] = ("val", known("val"))
    elif len(held):
        sides["val"] = ("train", rows[held])
    sides["test"] = ("test", known("test"))
    return sides


def _prepared(config) -> _Objects:
    """A set of ``prepare``."""
    d = config.data
    if "normal" in config.model.features:
        raise ValueError(
            f"model.features: prepared sets such as {d.name!r} have no normals; leave 'normal' out, or "
            "take modelnet40 or shapenetpart"
        )
    folder = prepare.ensure(d)

    @functools.cache
    def records(split):
        return store.open_split(folder, split, fields=point_examples.FIELDS)

    @functools.cache
    def labels(split):
        source = store.open_split(folder, split, fields=("category",))
        return np.asarray([source[i]["category"] for i in range(len(source))])

    categories, parts = store.category_names(folder), store.part_names(folder)
    return _Objects(tuple(categories), tuple(parts), records, labels)


def _published(config) -> _Objects:
    """A set of ``cloud_sets``; records of its sides are numbered on from one side to the next.

    Objects stay in memory once read, with at most ``data.stored_gaussians`` points where that is set.
    """
    d = config.data
    found = cloud_sets.load(d.name, d.source, d.variant)
    sides = dict(train=found.train, test=found.test)
    if found.val is not None and d.validation == 0:
        sides["train"] = labelled_clouds.Joined([found.train, found.val])
    elif found.val is not None:
        sides["val"] = found.val
    if "normal" in config.model.features and not all(side.has_normals for side in sides.values()):
        raise ValueError(
            f"model.features: the files of {d.name!r} have no normals; leave 'normal' out"
        )
    starts = dict(zip(sides, np.cumsum([0, *(len(side) for side in sides.values())]).tolist()))
    records = {
        name: labelled_clouds.Records(side, first=starts[name], max_points=d.stored_gaussians)
        for name, side in sides.items()
    }
    return _Objects(
        categories=found.train.categories,
        parts=("", *found.train.parts),
        records=records.__getitem__,
        labels=lambda side: sides[side].labels,
        own_val="val" in sides,
        # Labels of examples count from 1; 0 is 'no label'.
        category_classes=tuple(
            tuple(part + 1 for part in parts) for parts in found.train.category_parts
        ),
    )
