"""The baseline without learning: the label of the nearest labelled object by Chamfer distance."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from gsjax.evals import episodes
from gsjax.losses import chamfer


def unit_ball(points: np.ndarray) -> np.ndarray:
    """Point sets [M, P, 3] moved to mean zero and scaled to largest norm one."""
    points = points - points.mean(1, keepdims=True)
    radius = np.linalg.norm(points, axis=-1).max(-1)
    return points / np.maximum(radius, 1e-12)[:, None, None]


def nearest_labels(
    train_points: np.ndarray, train_labels: np.ndarray, test_points: np.ndarray
) -> np.ndarray:
    """Label of the training object with the smallest Chamfer distance, for each test object.

    Args:
        train_points: [M, P, 3], test_points: [Q, P, 3]; brought to the unit ball here.
        train_labels: [M] int.

    Returns:
        int [Q].

    Raises:
        ValueError: labels and training objects differ in number.
    """
    if len(train_points) != len(train_labels):
        raise ValueError(
            f"train_labels: found {len(train_labels)} for {len(train_points)} training objects"
        )
    return np.asarray(train_labels)[_distances(test_points, train_points).argmin(-1)]


def labels_of_points(points: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Label of the nearest point of another object, for every point of some objects.

    Args:
        points: [Q, P, 3], one object for each that is asked about; labels: int [Q, P].
        queries: [Q, N, 3]; both are brought to the unit ball here.

    Returns:
        int [Q, N].
    """
    found = []
    for known, label, asked in zip(unit_ball(points), labels, unit_ball(queries), strict=True):
        squared = np.square(asked[:, None] - known[None]).sum(-1)
        found.append(label[squared.argmin(-1)])
    return np.asarray(found)


def few_shot(
    trials: episodes.Episodes,
    points: Mapping[str, np.ndarray],
    ways: Sequence[int],
    shots: Sequence[int],
) -> dict[str, np.ndarray]:
    """Accuracy in per cent of each trial, by the nearest labelled object: {'nearest/5w1s': [T]}.

    Args:
        trials: the episodes.
        points: uid -> [P, 3], for every object of the episodes.
        ways, shots: settings.

    Raises:
        ValueError: objects of the episodes are missing.
    """
    absent = sorted(trials.uids - set(points))
    if absent:
        raise ValueError(
            f"points: {len(absent)} of {len(trials.uids)} objects of the episodes are missing, such "
            f"as {absent[0]!r}"
        )
    found: dict[str, list[float]] = {}
    for trial in trials.trials:
        support, _, query, _ = trial.episode(max(ways), max(shots))
        row, column = ({uid: i for i, uid in enumerate(uids)} for uids in (query, support))
        table = _distances(*(np.stack([points[uid] for uid in uids]) for uids in (query, support)))
        for way in ways:
            for shot in shots:
                known, labels, asked, truth = trial.episode(way, shot)
                cut = table[np.ix_([row[uid] for uid in asked], [column[uid] for uid in known])]
                hits = np.asarray(labels)[cut.argmin(-1)] == np.asarray(truth)
                found.setdefault(f"nearest/{way}w{shot}s", []).append(100.0 * float(hits.mean()))
    return {name: np.asarray(values) for name, values in found.items()}


def _distances(first, second) -> np.ndarray:
    """Chamfer distances [M, Q] of point sets [M, P, 3] and [Q, P, 3], each in its unit ball."""
    return np.asarray(
        chamfer.chamfer_matrix(
            *(jnp.asarray(unit_ball(points), jnp.float32) for points in (first, second))
        )
    )
