"""Bootstrap intervals of a mean IoU over scenes, of one run and of the difference of two.

The points of a scene are not independent, scenes are: they are resampled, whole, and the IoU of every
class is taken anew from the resample's points (Efron and Tibshirani 1993, chapter 13). Means over
objects are in ``bootstrap``.
"""

import numpy as np

from gsjax.metrics.bootstrap import Interval


def miou(
    confusions: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Interval of the mean IoU over the classes that occur, per cent.

    A resample may lack scenes of a rare class: its mean is then over the classes that it has.

    Args:
        confusions: int [S, C, C] of each scene, rows the true classes; or [R, S, C, C], rows of
            repetitions (training seeds) whose mIoU is averaged.
        level: coverage.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: no scenes, other shapes, or no labelled point.
    """
    counts = _checked(confusions, "confusions")
    stats = _resampled(counts, resamples, seed)
    return _interval(float(_mean_iou(counts.sum(1)).mean()), stats, level)


def miou_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of mIoU(first) - mIoU(second) on the same scenes, which are resampled together.

    Args:
        first, second: as in :func:`miou`, scenes in the same order; numbers of repetitions may
            differ.
        level, resamples, seed: as in :func:`miou`.

    Raises:
        ValueError: as :func:`miou`, other scenes, or other true classes of their points.
    """
    first, second = _checked(first, "first"), _checked(second, "second")
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"first, second: expected the same scenes and classes, found {list(first.shape[1:])} and "
            f"{list(second.shape[1:])}"
        )
    if (first[0].sum(-1) != second[0].sum(-1)).any():
        raise ValueError(
            "first, second: the numbers of points of the true classes differ; a paired difference needs "
            "the same scenes in the same order"
        )
    stats = _resampled(first, resamples, seed) - _resampled(second, resamples, seed)
    value = _mean_iou(first.sum(1)).mean() - _mean_iou(second.sum(1)).mean()
    return _interval(float(value), stats, level)


def _checked(confusions, name: str) -> np.ndarray:
    """[R, S, C, C] float64."""
    counts = np.asarray(confusions, np.float64)
    counts = counts[None] if counts.ndim == 3 else counts
    if counts.ndim != 4 or counts.shape[-1] != counts.shape[-2] or not counts.shape[1]:
        raise ValueError(
            f"{name}: expected [S, C, C] or [R, S, C, C] with one scene at least, found "
            f"{list(np.shape(confusions))}"
        )
    if not counts.sum((-3, -2, -1)).all():
        raise ValueError(f"{name}: no point has a label")
    return counts


def _resampled(counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[resamples] mean over repetitions of the mIoU of drawn scenes; NaN where none has a label."""
    rng, scenes = np.random.default_rng(seed), counts.shape[1]
    stats = np.empty(resamples)
    for r in range(resamples):
        times = np.bincount(rng.integers(0, scenes, scenes), minlength=scenes)
        stats[r] = _mean_iou(np.tensordot(times, counts, (0, 1))).mean()
    return stats


def _mean_iou(counts: np.ndarray) -> np.ndarray:
    """[...] per cent, of counts [..., C, C]; NaN without a labelled point."""
    both = np.diagonal(counts, axis1=-2, axis2=-1)
    true, said = counts.sum(-1), counts.sum(-2)
    each = np.where(true > 0, both / np.maximum(true + said - both, 1), 0.0)
    occur = (true > 0).sum(-1)
    return np.where(occur > 0, 100.0 * each.sum(-1) / np.maximum(occur, 1), np.nan)


def _interval(value: float, stats: np.ndarray, level: float) -> Interval:
    low, high = np.nanquantile(stats, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
