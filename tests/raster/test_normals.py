"""Normals: which axis, which side, gradients by rotations, and a picture of them."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import cameras
from gsjax.raster import api, normals

_normals = jax.jit(normals.smallest_axis_normals)


def _gaussians(num=9, dtype=np.float32):
    rng = np.random.default_rng(0)
    means, quats = rng.normal(size=(num, 3)), rng.normal(size=(num, 4))
    return means.astype(dtype), quats.astype(dtype), rng.uniform(0.1, 1, (num, 3)).astype(dtype)


def _viewmats():
    eyes = np.float32([[0, 0, -4], [3, 2, 1]])
    return jax.jit(cameras.look_at)(eyes, np.zeros(3, np.float32), np.float32([0, 1, 0]))


def test_is_the_shortest_axis_and_faces_every_camera():
    means, quats, scales = _gaussians()
    viewmats = _viewmats()
    found = np.asarray(_normals(quats, scales, means, viewmats))
    assert found.shape == (2, 9, 3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-6)
    for i, (quat, scale) in enumerate(zip(quats, scales, strict=True)):
        w, x, y, z = quat / np.linalg.norm(quat)
        columns = [
            [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
            [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
            [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
        ]
        axis = np.array(columns[np.argmin(scale)])
        np.testing.assert_allclose(np.abs(found[:, i] @ axis), 1, rtol=1e-5)
    centers = np.asarray(cameras.camera_centers(viewmats))
    assert np.all(np.sum(found * (centers[:, None] - means), -1) >= 0)


def test_gradients_by_rotations_equal_finite_differences():
    with jax.enable_x64(True):
        means, quats, scales = _gaussians(dtype=np.float64)
        viewmats = np.float64(_viewmats())
        weights = np.random.default_rng(1).normal(size=(2, 9, 3))

        @jax.jit
        def loss(quats):
            found = _normals(quats, scales, means, viewmats)
            return jnp.sum(weights * found)

        grad = jax.jit(jax.grad(loss))(quats)
        step = 1e-6 * np.random.default_rng(2).normal(size=quats.shape)
        difference = (loss(quats + step) - loss(quats - step)) / 2
        np.testing.assert_allclose(difference, np.sum(grad * step), rtol=1e-7)


def test_a_disc_renders_its_normal():
    # A flat disc in the plane z = 0, tilted by 30 degrees about x, seen from the front.
    angle = np.deg2rad(30)
    quats = np.float32([[np.cos(angle / 2), np.sin(angle / 2), 0, 0]])
    means, scales = np.zeros((1, 3), np.float32), np.float32([[0.5, 0.5, 0.01]])
    viewmats = np.float32([np.eye(4)])
    viewmats[0, 2, 3] = 3  # the camera is at z = -3 and looks along +z
    Ks = np.float32([[[30, 0, 16], [0, 30, 12], [0, 0, 1]]])
    colors = _normals(quats, scales, means, viewmats)
    image, alpha, _ = api.rasterize(
        means, quats, scales, np.float32([0.9]), colors, viewmats, Ks, 32, 24
    )
    # The axis (0, 0, 1) turns to (0, -sin, cos); its other side faces the camera.
    expected = [0, np.sin(angle), -np.cos(angle)]
    inside = np.asarray(alpha[0, ..., 0]) > 0.1
    assert inside.sum() > 50
    np.testing.assert_allclose((image / np.maximum(alpha, 1e-9))[0][inside], np.tile(expected,
                               (inside.sum(), 1)), atol=1e-5)  # fmt: skip
