"""Bootstrap intervals over objects, single and paired (Efron and Tibshirani 1993, chapter 13)."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """A statistic of the sample and the percentile interval of its bootstrap distribution."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def mean_interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of a mean over objects, or of the mean of group means.

    Args:
        values: [n] or [S, n], one number an object (a hit, a rank, ...); rows are repetitions (for
            example training seeds) of the same objects and are averaged first.
        groups: [n] int classes; given, the statistic is the mean over classes of class means.
        level: coverage.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: no objects, or ``groups`` of another length.
    """
    values = np.atleast_2d(np.asarray(values, np.float64)).mean(0)
    if not len(values):
        raise ValueError("values: found no objects; expected at least one")
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"groups: found {len(groups)} entries for {len(values)} values")
    rng = np.random.default_rng(seed)
    stats = np.empty(resamples)
    for r in range(resamples):
        draw = rng.integers(0, len(values), len(values))
        stats[r] = _statistic(values[draw], None if groups is None else np.asarray(groups)[draw])
    low, high = np.quantile(stats, [(1 - level) / 2, (1 + level) / 2])
    return Interval(_statistic(values, groups), float(low), float(high))


def paired_difference(
    first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None, **options
) -> Interval:
    """Interval of the difference ``first - second`` measured on the same objects.

    Both are resampled together, so what makes an object easy for both cancels.

    Args:
        first, second: [n] or [S, n], as in :func:`mean_interval`; S may differ.
        groups, **options: as in :func:`mean_interval`.

    Raises:
        ValueError: different numbers of objects.
    """
    first, second = (np.atleast_2d(np.asarray(x, np.float64)).mean(0) for x in (first, second))
    if len(first) != len(second):
        raise ValueError(
            f"first, second: found {len(first)} and {len(second)} objects; a paired difference "
            "needs the same objects in the same order"
        )
    return mean_interval(first - second, groups, **options)


def nested_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean difference ``first - second`` when both runs and objects are samples.

    Each resample draws runs, pairs of rows, and within each of them objects, the same for both sides:
    the paired bootstrap over objects nested in training seeds.

    Args:
        first, second: [S, n], rows are runs that share a seed, columns objects.
        level, resamples, seed: as in :func:`mean_interval`.

    Raises:
        ValueError: shapes that differ or are empty.
    """
    first, second = (np.atleast_2d(np.asarray(x, np.float64)) for x in (first, second))
    if first.shape != second.shape or not first.size:
        raise ValueError(
            f"first, second: found shapes {first.shape} and {second.shape}; expected the same runs "
            "and objects, at least one of each"
        )
    difference = first - second
    runs, objects = difference.shape
    rng = np.random.default_rng(seed)
    stats = np.empty(resamples)
    for r in range(resamples):
        drawn = difference[rng.integers(0, runs, runs)]
        columns = rng.integers(0, objects, (runs, objects))
        stats[r] = np.take_along_axis(drawn, columns, 1).mean()
    low, high = np.quantile(stats, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference.mean()), float(low), float(high))


def _statistic(values, groups):
    if groups is None:
        return float(values.mean())
    counts = np.bincount(groups)
    sums = np.bincount(groups, values)
    return float((sums[counts > 0] / counts[counts > 0]).mean())
