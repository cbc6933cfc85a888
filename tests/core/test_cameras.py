"""Camera poses: hand-computed views, degenerate directions, paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gsjax.core import cameras

_look_at = jax.jit(cameras.look_at)
_look_at_jacobian = jax.jit(jax.jacobian(cameras.look_at, argnums=(0, 1, 2)))
_orbit = jax.jit(lambda t, u: cameras.orbit_path(6, 2.0, elevation_degrees=30, target=t, up=u))
_UP = jnp.array([0.0, 1.0, 0.0])


def _rigid(viewmats):
    rotation = np.asarray(viewmats)[..., :3, :3]
    product = rotation @ np.swapaxes(rotation, -1, -2)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-5)


def test_look_at_by_hand():
    view = _look_at(jnp.array([0.0, 0, 3]), jnp.zeros(3), _UP)
    # Target 3 units ahead; world +y is up (camera -y); world +x is to the right.
    for point, expected in (
        ([0, 0, 0], [0, 0, 3]),
        ([0, 1, 0], [0, -1, 3]),
        ([1, 0, 0], [1, 0, 3]),
    ):
        found = view @ jnp.array([*point, 1.0])
        np.testing.assert_allclose(found, [*expected, 1], atol=1e-6)


def test_look_at_centres_the_target_for_any_pose():
    rng = np.random.default_rng(0)
    eye, target = rng.normal(size=(2, 4, 5, 3))
    views = _look_at(eye, target, _UP)
    _rigid(views)
    np.testing.assert_allclose(cameras.camera_centers(views), eye, atol=1e-5)
    seen = np.einsum("...ij,...j->...i", views[..., :3, :3], target) + views[..., :3, 3]
    np.testing.assert_allclose(seen[..., :2], 0, atol=1e-5)
    np.testing.assert_allclose(seen[..., 2], np.linalg.norm(eye - target, axis=-1), rtol=1e-5)


@pytest.mark.parametrize(
    "eye, target, up",
    [
        ([0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
        ([0.0, -2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]),
        ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ],
    ids=["down", "up", "eye_is_target", "no_up"],
)
def test_degenerate_poses_are_rigid_with_finite_gradients(eye, target, up):
    arrays = tuple(map(jnp.array, (eye, target, up)))
    _rigid(_look_at(*arrays))
    for gradient in _look_at_jacobian(*arrays):
        assert np.isfinite(gradient).all()


def test_float64_finite_differences():
    with jax.enable_x64(True):
        eye, target, up = jnp.array([[1.0, 2.0, 3.0], [0.3, -0.2, 0.5], [0.1, 1.0, 0.2]])
        check_grads(_look_at, (eye, target, up), 1, modes=["rev"], atol=1e-6, rtol=1e-6)
        assert _look_at(eye, target, up).dtype == jnp.float64


def test_invert_rigid_and_opengl_axes():
    view = _look_at(jnp.array([1.0, 2, 3]), jnp.array([0, 0.5, 0]), _UP)
    c2w = cameras.invert_rigid(view)
    np.testing.assert_allclose(c2w @ view, np.eye(4), atol=1e-5)
    opengl = np.asarray(c2w) @ np.diag([1, -1, -1, 1])
    np.testing.assert_allclose(cameras.opengl_to_opencv(opengl), c2w, atol=1e-6)


def test_centres_of_cameras_with_a_scale_or_a_shear():
    eye = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    views = np.array(_look_at(eye, jnp.zeros(3), _UP))
    views[:2, :3] *= np.float32([2.0, 0.01])[:, None, None]
    views[2, :3] = np.float32([[1, 0.5, 0], [0, 3, 0], [0, 0.2, 1]]) @ views[2, :3]
    views[3, :3] *= -1  # mirrored
    centers = jax.jit(cameras.camera_centers)(views)
    np.testing.assert_allclose(centers, eye, atol=1e-5)
    np.testing.assert_allclose(centers, np.linalg.inv(views)[:, :3, 3], atol=1e-5)


def test_centres_of_singular_matrices_are_finite():
    gradient = jax.jit(jax.grad(lambda x: cameras.camera_centers(x).sum()))
    assert np.isfinite(cameras.camera_centers(jnp.zeros((4, 4)))).all()
    assert np.isfinite(gradient(jnp.zeros((4, 4)))).all()


def test_intrinsics_put_the_field_of_view_on_the_border():
    K = cameras.intrinsics_from_fov(60.0, 640, 480)
    edge = K @ jnp.array([np.tan(np.deg2rad(30)), 0, 1])
    np.testing.assert_allclose(edge[:2], [640, 240], rtol=1e-5)
    assert K[0, 0] == K[1, 1]
    assert cameras.intrinsics_from_fov(jnp.array([40.0, 50.0]), 8, 8).shape == (2, 3, 3)


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)])
def test_orbit_keeps_radius_elevation_and_upright(up):
    target = np.array([0.5, -0.25, 1.0])
    views = _orbit(target, jnp.array(up))
    _rigid(views)
    offset = np.asarray(cameras.camera_centers(views)) - target
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), 2, rtol=1e-5)
    np.testing.assert_allclose(offset @ np.array(up), 1.0, atol=1e-5)
    # World up has no component along image x and points to smaller y.
    in_camera = np.asarray(views[:, :3, :3]) @ np.array(up)
    np.testing.assert_allclose(in_camera[:, 0], 0, atol=1e-5)
    assert (in_camera[:, 1] < 0).all()
    gaps = np.linalg.norm(np.roll(offset, -1, axis=0) - offset, axis=1)
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-4)


def test_orbit_starts_at_the_front_and_turns_counter_clockwise():
    centers = cameras.camera_centers(cameras.orbit_path(4, 1.0, elevation_degrees=0))
    np.testing.assert_allclose(centers, [[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]], atol=1e-6)


def test_spiral_runs_between_its_elevations():
    views = cameras.spiral_path(7, 3.0, elevations_degrees=(-90, 90))
    _rigid(views)
    heights = np.asarray(cameras.camera_centers(views))[:, 1] / 3
    np.testing.assert_allclose(heights, np.sin(np.deg2rad(np.linspace(-90, 90, 7))), atol=1e-5)
    assert np.isfinite(cameras.spiral_path(1, 1.0)).all()


def test_no_views_is_an_error():
    with pytest.raises(ValueError, match="num_views: expected at least 1, found 0"):
        cameras.orbit_path(0, 1.0)
