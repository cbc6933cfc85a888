"""The baseline without learning: the label of the nearest training object by Chamfer distance."""

import jax.numpy as jnp
import numpy as np

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
    distances = chamfer.chamfer_matrix(
        jnp.asarray(unit_ball(test_points), jnp.float32),
        jnp.asarray(unit_ball(train_points), jnp.float32),
    )
    return np.asarray(train_labels)[np.asarray(distances).argmin(-1)]
