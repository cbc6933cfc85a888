"""Intersection over union of labelled points: per object, and per class over a whole set."""

import dataclasses
from collections.abc import Sequence

import numpy as np


def object_iou(
    predicted: np.ndarray, labels: np.ndarray, classes: Sequence[int] | None = None
) -> float:
    """Mean IoU of one object; NaN where no point has a label.

    Args:
        predicted: int [N].
        labels: int [N]; negative ones do not count.
        classes: that points of this object may have, such as the parts of its category. The mean is
            then over all of them, and one that is neither in the truth nor in the prediction counts
            as 1, as results on ShapeNetPart are published (PointNet, arXiv 1612.00593). A prediction
            outside of them is a point missed, and no class more. None = over the classes that occur
            in the truth or in the prediction.

    Raises:
        ValueError: a label that is none of ``classes``.
    """
    there = labels >= 0
    predicted, labels = predicted[there], labels[there]
    if not len(labels):
        return float("nan")
    if classes is None:
        classes = np.union1d(predicted, labels)
    elif len(outside := np.setdiff1d(labels, classes)):
        raise ValueError(f"labels: expected {list(classes)}, found {outside[:5].tolist()} too")
    both = np.asarray([np.sum((predicted == c) & (labels == c)) for c in classes])
    either = np.asarray([np.sum((predicted == c) | (labels == c)) for c in classes])
    return float(np.mean(np.where(either > 0, both / np.maximum(either, 1), 1.0)))


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of (true, predicted) pairs; ``+`` merges two.

    Attributes:
        counts: int [C, C], rows the true classes.
    """

    counts: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, labels: np.ndarray, classes: int) -> "Confusion":
        """Of any arrays of equal shape; negative labels do not count."""
        there = labels >= 0
        pairs = labels[there].astype(np.int64) * classes + predicted[there]
        return cls(np.bincount(pairs, minlength=classes * classes).reshape(classes, classes))

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.counts + other.counts)

    def iou(self) -> np.ndarray:
        """[C] IoU of each class; NaN for classes without a true point."""
        both = np.diag(self.counts).astype(np.float64)
        true, said = self.counts.sum(1), self.counts.sum(0)
        return np.where(true > 0, both / np.maximum(true + said - both, 1), np.nan)

    def compute(self) -> dict[str, float]:
        """``accuracy`` over points, ``macro_accuracy`` and ``miou`` over classes that occur; per cent."""
        true, both = self.counts.sum(1), np.diag(self.counts)
        if not true.sum():
            return dict(accuracy=float("nan"), macro_accuracy=float("nan"), miou=float("nan"))
        seen = true > 0
        return dict(
            accuracy=100.0 * float(both.sum() / true.sum()),
            macro_accuracy=100.0 * float((both[seen] / true[seen]).mean()),
            miou=100.0 * float(self.iou()[seen].mean()),
        )
