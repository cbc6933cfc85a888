"""Labelled clouds of a prepared set: a part to learn from, one to choose by, one to be measured on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gsjax.data import label_splits, point_examples, prepare, store

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
    """

    train: Callable[[], Any]
    evaluate: Callable[[str], Any]
    class_names: tuple[str, ...]
    categories: tuple[str, ...]
    num_fit: int


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
    return {name: jax.ShapeDtypeStruct(*item) for name, item in spec.items()}


def load(config) -> Source:
    """The labelled part of a prepared set, which is made if absent.

    Raises:
        ValueError: an unknown task, a set without part labels, an unknown category to leave out.
    """
    d = config.data
    if config.task not in TASKS:
        raise ValueError(f"config.task: unknown {config.task!r}; known: {', '.join(TASKS)}")
    folder = prepare.ensure(d)
    categories, parts = store.category_names(folder), store.part_names(folder)
    names = categories if config.task == "classify" else parts
    if config.task == "parts" and len(parts) < 3:
        raise ValueError(
            f"config.task='parts': the set {d.name!r} has no part labels; the set 'procedural' has"
        )
    unknown = sorted(set(d.exclude_labels) - set(categories))
    if unknown:
        raise ValueError(f"data.exclude_labels: unknown {unknown}; known: {', '.join(categories)}")

    @functools.cache
    def records(split):
        return store.open_split(folder, split, fields=point_examples.FIELDS)

    @functools.cache
    def labels(split):
        source = store.open_split(folder, split, fields=("category",))
        return np.asarray([source[i]["category"] for i in range(len(source))])

    def known(split):
        outside = [categories.index(name) for name in d.exclude_labels]
        return np.flatnonzero(~np.isin(labels(split), outside))

    rows = known("train")
    learned, held = label_splits.hold_back(labels("train")[rows], d.validation, _SPLIT_SEED)
    some = label_splits.fraction(labels("train")[rows][learned], d.fraction, d.fraction_seed)
    sides = dict(fit=("train", rows[learned][some]), val=("train", rows[held]))
    sides["test"] = ("test", known("test"))

    def dataset(side, train):
        if side not in sides:
            raise ValueError(f"split: unknown {side!r}; known: {', '.join(sides)}")
        split, chosen = sides[side]
        return point_examples.point_examples(
            records(split), num_points=d.num_points, seed=config.seed if train else 0, train=train,
            rows=chosen,
        )  # fmt: skip

    return Source(
        train=lambda: dataset("fit", True),
        evaluate=lambda side: dataset(side, False),
        class_names=tuple(names),
        categories=tuple(categories),
        num_fit=len(some),
    )
