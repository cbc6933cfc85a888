"""Figures over repeated trials: mean, standard deviation and an interval of the mean."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Trials:
    """One number a trial; ``+`` puts the trials of two states together.

    Attributes:
        values: [T] in trial order.
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Trials":
        return cls(tuple(float(value) for value in values))

    def __add__(self, other: "Trials") -> "Trials":
        return Trials(self.values + other.values)

    def compute(self, level: float = 0.95) -> dict[str, float]:
        """``mean``, ``std`` over the trials (ddof = 0, as few-shot tables print it), ``low, high``.

        ``low`` and ``high`` bound the mean by Student's t with the sample deviation (ddof = 1). They
        cover the draw of the trials; trials that share objects are not independent, so the interval
        says nothing about other objects. With one trial the interval is that value.

        Raises:
            ValueError: no trials.
        """
        if not self.values:
            raise ValueError("values: found no trials; expected at least one")
        values = np.asarray(self.values, np.float64)
        mean, half = float(values.mean()), 0.0
        if len(values) > 1:
            error = values.std(ddof=1) / np.sqrt(len(values))
            half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * error)
        return dict(mean=mean, std=float(values.std()), low=mean - half, high=mean + half)
