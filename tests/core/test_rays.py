"""Rays of pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import rays
from tests.models.feedforward import case


@jax.jit
def _round_trip(xy, depths, Ks, c2ws):
    return rays.project(rays.unproject(xy, depths, Ks, c2ws), Ks, c2ws)


def test_projection_inverts_unprojection_to_a_ten_thousandth_of_a_pixel():
    rng = np.random.default_rng(0)
    Ks, c2ws = (a[0] for a in case.views(1, 3, spread=1.0))
    Ks[:, 0, 1] = 0.02
    xy = rng.uniform(size=(54, 2))
    depths = rng.uniform(0.5, 100.0, (3, 54))
    narrow = _round_trip(*(jnp.asarray(a, jnp.float32) for a in (xy, depths, Ks, c2ws)))
    with jax.enable_x64(True):
        wide = _round_trip(*(jnp.asarray(a) for a in (xy, depths, Ks, c2ws)))
    assert np.abs(wide[0] - xy).max() * 448 < 1e-4
    assert np.abs(narrow[0] - xy).max() * 448 < 1e-2  # float32 world coordinates of 100 units
    np.testing.assert_allclose(narrow[1], depths, rtol=1e-5)


def test_directions_are_those_of_the_inverse_matrix():
    K = np.asarray([[0.9, 0.02, 0.47], [0, 1.1, 0.55], [0, 0, 1]])
    xy = np.asarray([[0, 0], [2, 1], [5, 7]])
    expected = (np.linalg.inv(K) @ np.concatenate((xy, np.ones((3, 1))), -1).T).T
    found = jax.jit(rays.camera_directions)(K.astype(np.float32), xy.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pixel_positions():
    np.testing.assert_allclose(rays.pixel_centers(2, 4)[1, 0], (0.125, 0.75))
    np.testing.assert_allclose(rays.pixel_indices(2, 4)[1, 3], (3, 1))
    K = np.asarray([[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]], np.float32)
    found = rays.pixel_intrinsics(K, 20, 10)
    np.testing.assert_allclose(found, [[9, 0, 5], [0, 24, 10], [0, 0, 1]], rtol=1e-6)
