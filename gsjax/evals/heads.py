"""Classifiers on frozen features: nearest class mean, and multinomial logistic regression.

NumPy and SciPy in float64, so that a head adds no noise of its own. Fitting sees the labelled
examples alone; nothing is chosen on what is scored afterwards.
"""

import dataclasses

import numpy as np
from scipy import optimize

from gsjax.metrics import retrieval


def unit(x: np.ndarray) -> np.ndarray:
    """Rows [..., D] to length one in float64; zero rows stay zero."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _check(features, labels, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features, labels: found shapes {features.shape} and {labels.shape}; expected [n, D] "
            "and [n]"
        )
    if not np.isfinite(features).all():
        raise ValueError("features: found numbers that are not finite; the encoder diverged")
    absent = sorted(set(range(num_classes)) ^ set(labels.tolist()))
    if absent:
        raise ValueError(
            f"labels: expected every class of 0 to {num_classes - 1} and no other; "
            f"{absent} are missing or outside"
        )
    return features, labels


@dataclasses.dataclass(frozen=True)
class Prototypes:
    """Class means: a sample belongs to the mean of largest cosine.

    Attributes:
        means: [C, D] unit vectors.
    """

    means: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray, num_classes: int) -> "Prototypes":
        """Means of the unit features of each class, themselves brought to length one.

        Args:
            features: [n, D]; brought to length one here.
            labels: [n] int, every class at least once.
            num_classes: C.

        Raises:
            ValueError: shapes that differ, a class without samples, or features not finite.
        """
        features, labels = _check(features, labels, num_classes)
        sums = np.zeros((num_classes, features.shape[1]))
        np.add.at(sums, labels, unit(features))
        return cls(unit(sums))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Cosines [Q, C] of features [Q, D]."""
        return unit(features) @ self.means.T


STANDARDS = ("whole", "columns")


@dataclasses.dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression on standardised features.

    With the standard 'whole', a feature u brought to length one enters as (u - center) / scale, where
    center is the mean of the labelled samples and scale the root mean square of all entries of
    u - center: one number, since a deviation for each column means little with a few samples. With
    'columns' features enter as they are, each column with its own deviation: for whole training sets.

    Attributes:
        center: [D].
        scale: [], or [D] of 'columns'.
        weights: [D, C].
        bias: [C].
        standard: one of ``STANDARDS``.
    """

    center: np.ndarray
    scale: float | np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    standard: str = "whole"

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        *,
        inverse_penalty: float = 0.1,
        max_iterations: int = 1000,
        standard: str = "whole",
        start: "Logistic | None" = None,
    ) -> "Logistic":
        """Minimises ``inverse_penalty * sum of cross-entropies + |weights|^2 / 2`` by L-BFGS.

        Args:
            features: [n, D]; standardised here.
            labels: [n] int, every class at least once.
            num_classes: C.
            inverse_penalty: called C in scikit-learn, whose objective this is; the bias is free.
            max_iterations: of L-BFGS.
            standard: one of ``STANDARDS``.
            start: a fit of the same samples at another penalty, to start from; the minimum is one.

        Raises:
            ValueError: as for prototypes, ``inverse_penalty`` not above 0, or an unknown standard.
        """
        features, labels = _check(features, labels, num_classes)
        if not inverse_penalty > 0:
            raise ValueError(f"inverse_penalty: found {inverse_penalty}, expected above 0")
        if standard not in STANDARDS:
            raise ValueError(f"standard: unknown {standard!r}; known: {', '.join(STANDARDS)}")
        if standard == "whole":
            features = unit(features)
        center = features.mean(0)
        scale = _scale(features, center, standard)
        x = (features - center) / scale
        first = np.zeros((x.shape[1] + 1) * num_classes)
        if start is not None:
            first = np.concatenate([start.weights.ravel(), start.bias])
        found = optimize.minimize(
            logistic_objective,
            first,
            args=(x, labels, num_classes, inverse_penalty),
            jac=True,
            method="L-BFGS-B",
            # maxls, ftol: a separable set must not end before its gradient is small
            options=dict(maxiter=max_iterations, gtol=1e-7, ftol=1e-14, maxls=50),
        )
        table = found.x.reshape(-1, num_classes)
        return cls(center, scale, table[:-1], table[-1], standard)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits [Q, C] of features [Q, D]."""
        features = unit(features) if self.standard == "whole" else np.asarray(features, np.float64)
        return (features - self.center) / self.scale @ self.weights + self.bias


def _scale(features, center, standard: str) -> float | np.ndarray:
    if standard == "whole":
        return max(float(np.sqrt(np.mean(np.square(features - center)))), 1e-12)
    deviation = features.std(0)
    # a column that is constant but for rounding carries nothing, and must not be blown up
    constant = deviation <= 1e-6 * np.sqrt(np.mean(np.square(features), 0))
    return np.where(constant, 1.0, deviation)


def logistic_objective(
    flat: np.ndarray, x: np.ndarray, labels: np.ndarray, num_classes: int, inverse_penalty: float
) -> tuple[float, np.ndarray]:
    """Value and gradient of the mean objective, (C sum CE + |W|^2 / 2) / (C n).

    Args:
        flat: weights [D, C] and then bias [C], flattened.
        x: [n, D].
        labels: [n].
        num_classes: C.
        inverse_penalty: see :meth:`Logistic.fit`.
    """
    table = flat.reshape(-1, num_classes)
    logits = x @ table[:-1] + table[-1]
    logits -= logits.max(1, keepdims=True)
    lse = np.log(np.exp(logits).sum(1))
    rows = np.arange(len(x))
    weight = 1 / (inverse_penalty * len(x))
    value = np.mean(lse - logits[rows, labels]) + weight / 2 * np.sum(table[:-1] ** 2)
    error = np.exp(logits - lse[:, None])
    error[rows, labels] -= 1
    error /= len(x)
    slope = np.concatenate([x.T @ error + weight * table[:-1], error.sum(0, keepdims=True)])
    return float(value), slope.ravel()


def hits(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [Q]: whether the true class scores above every other; ties count against it.

    Args:
        scores: [Q, C].
        labels: [Q] int.
    """
    true = np.take_along_axis(scores, np.asarray(labels)[:, None], 1)
    return np.sum(scores >= true - retrieval.TIE, 1) == 1
