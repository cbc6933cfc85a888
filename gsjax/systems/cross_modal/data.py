"""Objects as Gaussians and pictures: the sides of a prepared set, and the batch they come in."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gsjax.data import examples, label_splits, paired, paired_build, paired_examples, store

NEGATIVES = ("batch", "dataset")
_SPLIT = re.compile(r"(?P<side>\w+)(/(?P<pictures>\w+))?(#(?P<draw>\d+))?")


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples and the facts about them; see ``base.System`` for the first two.

    Attributes:
        train: ``() -> grain.MapDataset``.
        evaluate: 'test', 'train': two pictures an object; 'test/views' all of them, 'test/memory' those of
            its Gaussians, 'test/between' those from sides in between; 'test#3' the sample of Gaussians
            of that number.
        class_names: in label order.
        uids: side -> names of its objects.
    """

    train: Callable[[], Any]
    evaluate: Callable[[str], Any]
    class_names: tuple[str, ...]
    uids: Callable[[str], list[str]]


def channels(config) -> int:
    """Columns of a point beside its position."""
    return paired.num_channels(config.data.features, config.data.sh_columns)


def num_pictures(config) -> int:
    """Pictures of a training example."""
    if config.task == "self_supervised":
        return 3 if config.loss.negatives == "dataset" else 2
    return config.data.supervised_views if config.task == "classify_views" else 1


def batch_spec(config) -> dict[str, jax.ShapeDtypeStruct]:
    """One training example: ``{field: ShapeDtypeStruct}``."""
    d = config.data
    pictures = num_pictures(config)
    spec = dict(
        index=((), np.int32),
        valid=((), np.bool_),
        category=((), np.int32),
        points=((d.num_points, 3 + channels(config)), np.float32),
        images=((pictures, d.view_size, d.view_size, 3), np.uint8),
    )
    return {name: jax.ShapeDtypeStruct(*item) for name, item in spec.items()}


def load(config) -> Source:
    """The set that ``config.data`` describes, made first if absent.

    Raises:
        ValueError: settings that are unknown or do not go together.
    """
    d = config.data
    if config.loss.negatives not in NEGATIVES:
        raise ValueError(
            f"loss.negatives: unknown {config.loss.negatives!r}; known: {', '.join(NEGATIVES)}"
        )
    if d.name == "shapes":  # for programs that only compile
        return Source(examples.absent, examples.absent, (), examples.absent)
    columns = functools.partial(
        paired.columns,
        feature_set=d.features,
        sh_columns=d.sh_columns,
        activate=d.activate_features,
    )
    points = paired_examples.Points(d.num_points, d.sampling, d.uniform_replace, columns)
    folder = paired_build.ensure(d)

    @functools.cache
    def records(side):
        return paired_examples.open_records(folder, side)

    def train():
        strangers = config.task == "self_supervised" and config.loss.negatives == "dataset"
        rows = None
        if d.fraction != 1.0:  # of the labels: what uses none learns from all
            labels = np.asarray([record["category"] for record in records("train")])
            rows = label_splits.fraction(labels, d.fraction, d.fraction_seed)
        return paired_examples.training(
            records("train"),
            points,
            seed=config.seed,
            count=num_pictures(config) - strangers,
            strangers=strangers,
            rows=rows,
        )

    def evaluate(split: str):
        found = _SPLIT.fullmatch(split)
        if not found:
            raise ValueError(f"split: expected 'test', 'test/views' or 'test#1', found {split!r}")
        pictures, draw = found["pictures"], int(found["draw"] or 0)
        return paired_examples.evaluation(
            records(found["side"]),
            points,
            pictures=pictures or "views",
            count=0 if pictures else min(num_pictures(config), 2),
            draw=draw,
        )

    return Source(
        train=train,
        evaluate=evaluate,
        class_names=tuple(store.category_names(folder)),
        uids=functools.partial(store.read_uids, folder),
    )
