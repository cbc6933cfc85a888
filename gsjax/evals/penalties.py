"""The penalty of a logistic regression, chosen by cross-validation inside the labelled examples.

Nothing that is scored afterwards is looked at: folds are parts of the training set, and features are
standardised anew within each. NumPy and SciPy, as ``heads``.
"""

import dataclasses

import numpy as np

from gsjax.evals import heads

GRID = tuple(10.0**power for power in range(-5, 3))  # inverse penalties, a wide grid


@dataclasses.dataclass(frozen=True)
class Choice:
    """What cross-validation found.

    Attributes:
        inverse_penalty: the chosen one.
        accuracy: {inverse penalty: share of held-out examples that were right}.
        cross_entropy: {inverse penalty: mean over held-out examples, nats}.
    """

    inverse_penalty: float
    accuracy: dict[float, float]
    cross_entropy: dict[float, float]

    @property
    def at_edge(self) -> bool:
        """Whether the chosen one is the least or largest tried: a wider grid might do better."""
        return self.inverse_penalty in (min(self.accuracy), max(self.accuracy))


def choose(
    features: np.ndarray,
    labels: np.ndarray,
    penalties,
    *,
    folds: int = 5,
    seed=(0,),
    standard: str = "columns",
) -> Choice:
    """The inverse penalty whose held-out accuracy over all folds is best.

    Of equal ones the one of lower held-out cross-entropy, then the stronger penalty. Examples of a
    class that only their own fold holds are left out of the scores: no penalty could tell.

    Args:
        features: [n, D].
        labels: [n] int.
        penalties: inverse penalties to try, see ``heads.Logistic``.
        folds: parts, each with its share of every class; at least 2.
        seed: integers; of the folds.
        standard: of ``heads.Logistic``.

    Raises:
        ValueError: no penalties, fewer than two folds, or no class with two examples.
    """
    penalties = sorted(set(map(float, penalties)))
    if not penalties or penalties[0] <= 0:
        raise ValueError(f"penalties: expected numbers above 0, found {penalties}")
    features, labels = np.asarray(features), np.asarray(labels)
    place = split(labels, folds, np.random.default_rng(seed))
    right, entropy, count = np.zeros(len(penalties)), np.zeros(len(penalties)), 0
    for fold in range(folds):
        inside, outside = place != fold, place == fold
        classes, known = np.unique(labels[inside], return_inverse=True)
        outside &= np.isin(labels, classes)
        if not outside.any() or len(classes) < 2:
            continue
        truth = np.searchsorted(classes, labels[outside])
        count += len(truth)
        head = None
        for i, penalty in enumerate(penalties):  # from the strongest: each is near the one before
            head = heads.Logistic.fit(
                features[inside], known, len(classes),
                inverse_penalty=penalty, standard=standard, start=head,
            )  # fmt: skip
            scores = head.scores(features[outside])
            right[i] += heads.hits(scores, truth).sum()
            entropy[i] += _cross_entropy(scores, truth)
    if not count:
        raise ValueError(
            "labels: cross-validation needs two classes with two examples each; give one fixed "
            "inverse_penalty instead"
        )
    best = min(range(len(penalties)), key=lambda i: (-right[i], entropy[i], i))
    return Choice(
        penalties[best],
        dict(zip(penalties, (right / count).tolist(), strict=True)),
        dict(zip(penalties, (entropy / count).tolist(), strict=True)),
    )


def split(labels: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold [n] of every example; each class is dealt out evenly, and so are all together.

    Raises:
        ValueError: fewer than two folds.
    """
    if folds < 2:
        raise ValueError(f"folds: found {folds}, expected 2 or more")
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    place = np.empty(len(labels), int)
    place[order] = np.arange(len(labels)) % folds  # a class begins where the last one ended
    return place


def _cross_entropy(scores: np.ndarray, truth: np.ndarray) -> float:
    """Sum over examples, nats."""
    scores = scores - scores.max(1, keepdims=True)
    true = np.take_along_axis(scores, truth[:, None], 1)[:, 0]
    return float(np.sum(np.log(np.exp(scores).sum(1)) - true))
