"""Posed cameras for the tests of this folder; NumPy, so that nothing is compiled for them."""

import numpy as np


def rotation(axis_angle) -> np.ndarray:
    """[3, 3] by Rodrigues' formula."""
    angle = np.linalg.norm(axis_angle)
    x, y, z = np.asarray(axis_angle) / max(angle, 1e-12)
    cross = np.asarray([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def poses(rotvecs, centers) -> np.ndarray:
    """c2ws [V, 4, 4] float64."""
    c2ws = np.tile(np.eye(4), (len(centers), 1, 1))
    c2ws[:, :3, :3] = [rotation(v) for v in rotvecs]
    c2ws[:, :3, 3] = centers
    return c2ws


def views(batch: int, count: int, seed: int = 0, spread: float = 0.2):
    """(Ks [B, V, 3, 3] normalised and all different, c2ws [B, V, 4, 4]) of cameras that look along +z."""
    rng = np.random.default_rng(seed)
    Ks = np.tile(np.eye(3), (batch, count, 1, 1))
    Ks[..., 0, 0] = rng.uniform(0.8, 1.2, (batch, count))
    Ks[..., 1, 1] = rng.uniform(0.8, 1.2, (batch, count))
    Ks[..., :2, 2] = rng.uniform(0.45, 0.55, (batch, count, 2))
    c2ws = np.stack(
        [
            poses(rng.normal(0, 0.3 * spread, (count, 3)), rng.normal(0, spread, (count, 3)))
            for _ in range(batch)
        ]
    )
    return Ks, c2ws
