"""Random parameters whose rows can be told apart after they were moved: sh0 holds a serial number."""

import numpy as np

from gsjax.systems.scene_fit import rows


def make(seed, num, coeffs=4, opacities=None):
    """Fields of ``num`` rows with SH of ``coeffs`` coefficients; row i has sh0 = i."""
    rng = np.random.default_rng(seed)
    if opacities is None:
        opacities = rng.uniform(0.02, 0.98, num)
    opacities = np.asarray(opacities, float)
    params = {
        "means": rng.normal(size=(num, 3)),
        "log_scales": rng.uniform(-4, -2, (num, 3)),
        "quats": rng.normal(size=(num, 4)),
        "logit_opacities": np.log(opacities) - np.log1p(-opacities),
        "sh0": np.broadcast_to(np.arange(num)[:, None, None], (num, 1, 3)),
        "shN": rng.normal(size=(num, coeffs - 1, 3)),
    }
    return {k: np.asarray(v, np.float32) for k, v in params.items()}


def serial(params):
    """int [N]: the row that each row was copied from."""
    return np.asarray(params["sh0"])[:, 0, 0].astype(int)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def rotmat(quat):
    """Rotation matrix of one quaternion w x y z, from the definition v -> q v q*."""
    w, *v = np.asarray(quat, np.float64) / np.linalg.norm(quat)
    v = np.array(v)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return (w * w - v @ v) * np.eye(3) + 2 * np.outer(v, v) + 2 * w * cross


def drawable(params, alive):
    """Arguments of `gsjax.rasterize`; a colour for each serial number."""
    opacities = np.where(alive, sigmoid(params["logit_opacities"]), 0)
    return dict(
        means=params["means"],
        quats=params["quats"],
        scales=np.exp(params["log_scales"]),
        opacities=opacities.astype(np.float32),
        colors=np.random.default_rng(0).random((1000, 3), np.float32)[serial(params)],
    )


def finite(tree):
    return all(np.isfinite(np.asarray(x)).all() for x in tree.values())


def assert_same(a, b):
    assert set(a) == set(b) == set(rows.FIELDS)
    for name in a:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)
