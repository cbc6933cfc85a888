"""Which labelled objects a run may learn from: a validation part held back, and nested fractions.

Both are drawn within every class, and by seeds of their own, never the model's. Imports no JAX.
"""

import numpy as np


def hold_back(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows to choose settings by, drawn within every class.

    A class of one object stays with the first.

    Args:
        labels: int [n].
        share: of each class that is held back, rounded down, but at least one of two or more.
        seed: of the draw.

    Returns:
        (kept, held back), ascending.

    Raises:
        ValueError: ``share`` is not within [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: expected at least 0 and below 1, found {share}")
    held: list[int] = []
    for rows in _shuffled(labels, seed, "validation"):
        if share > 0 and len(rows) > 1:
            held += rows[: max(1, int(share * len(rows)))].tolist()
    held_back = np.sort(np.asarray(held, np.int64))
    return np.setdiff1d(np.arange(len(labels)), held_back), held_back


def fraction(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows of a share of every class, at least one object each; smaller shares are nested in larger.

    Args:
        labels: int [n].
        share: in (0, 1]; a class gives ceil(share n_c) objects.
        seed: of the draw.

    Returns:
        Rows, ascending.

    Raises:
        ValueError: ``share`` is not within (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected above 0 and at most 1, found {share}")
    # 1e-9: 0.1 * 30 is a little more than 3.
    chosen = [
        rows[: int(np.ceil(share * len(rows) - 1e-9))]
        for rows in _shuffled(labels, seed, "fraction")
    ]
    return np.sort(np.concatenate(chosen))


def _shuffled(labels: np.ndarray, seed: int, what: str) -> list[np.ndarray]:
    """Rows of each class in an order that depends on the class and the seed alone."""
    labels = np.asarray(labels)
    purpose = sum(map(ord, what))
    return [
        np.random.default_rng([seed, purpose, int(label)]).permutation(
            np.flatnonzero(labels == label)
        )
        for label in np.unique(labels)
    ]
