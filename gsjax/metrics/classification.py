"""Classification by nearest class vector: top-k hits, averaged over samples and over classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gsjax.metrics import retrieval


def class_ranks(
    features: np.ndarray, class_embeds: np.ndarray, labels: np.ndarray, *, block: int = 4096
) -> np.ndarray:
    """Rank of the true class for each sample, 1 being best; ties count against it.

    Args:
        features: [Q, D] unit vectors.
        class_embeds: [C, D] unit vectors.
        labels: [Q] int, the true class.
        block: samples scored at a time.

    Returns:
        int [Q].

    Raises:
        ValueError: widths that differ, a label outside the classes, or values that are not finite.
    """
    features, class_embeds = np.asarray(features, np.float32), np.asarray(class_embeds, np.float32)
    labels = np.asarray(labels)
    if features.ndim != 2 or features.shape[1:] != class_embeds.shape[1:]:
        raise ValueError(
            f"features, class_embeds: found shapes {features.shape} and {class_embeds.shape}; "
            "expected [Q, D] and [C, D]"
        )
    retrieval.check_finite(features=features, class_embeds=class_embeds)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_embeds):
        raise ValueError(
            f"labels: found {labels.min()} to {labels.max()}; expected 0 to "
            f"{len(class_embeds) - 1}, one of the {len(class_embeds)} class vectors"
        )
    result = np.empty(len(features), np.int64)
    for start in range(0, len(features), block):
        part = slice(start, start + block)
        scores = features[part] @ class_embeds.T
        true = np.take_along_axis(scores, labels[part, None], 1)
        result[part] = np.sum(scores >= true - retrieval.TIE, 1)
    return result


@dataclasses.dataclass(frozen=True)
class TopK:
    """Hits per class at each k; ``+`` merges two states.

    Attributes:
        ks: the k of Top-k.
        hits: [len(ks), C] samples of each class whose rank is at most k.
        totals: [C] samples of each class.
    """

    ks: tuple[int, ...]
    hits: np.ndarray
    totals: np.ndarray

    @classmethod
    def from_ranks(
        cls, ranks: np.ndarray, labels: np.ndarray, num_classes: int, ks: Sequence[int] = (1, 3, 5)
    ) -> "TopK":
        hits = [np.bincount(labels, ranks <= k, num_classes).astype(np.int64) for k in ks]
        return cls(tuple(ks), np.stack(hits), np.bincount(labels, minlength=num_classes))

    def __add__(self, other: "TopK") -> "TopK":
        if self.ks != other.ks or self.totals.shape != other.totals.shape:
            raise ValueError(
                f"TopK: cannot merge k = {self.ks}, {len(self.totals)} classes with "
                f"k = {other.ks}, {len(other.totals)} classes"
            )
        return TopK(self.ks, self.hits + other.hits, self.totals + other.totals)

    def compute(self) -> dict[str, float]:
        """{'top{k}': mean over samples, 'top{k}_macro': mean over classes that occur}, per cent."""
        seen = self.totals > 0
        result = {}
        for k, hits in zip(self.ks, self.hits, strict=True):
            result[f"top{k}"] = 100.0 * float(hits.sum() / max(self.totals.sum(), 1))
            rates = hits[seen] / self.totals[seen]
            result[f"top{k}_macro"] = 100.0 * float(rates.mean()) if seen.any() else 0.0
        return result
