"""Turning points and cameras together leaves every projection as it is."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import cameras, turns


def _project(xyz, viewmats, K):
    """Pixels and depths [B, V, N]."""
    camera = jnp.einsum("bvij,bnj->bvni", viewmats[..., :3, :3], xyz) + viewmats[..., None, :3, 3]
    pixels = jnp.einsum("ij,bvnj->bvni", K, camera)
    return pixels[..., :2] / pixels[..., 2:], camera[..., 2]


def test_cameras_see_turned_points_where_they_saw_them():
    rng = np.random.default_rng(0)
    xyz = jnp.asarray(rng.uniform(-0.4, 0.4, (3, 20, 3)), jnp.float32)
    viewmats = jnp.broadcast_to(cameras.orbit_path(2, 1.5), (3, 2, 4, 4))
    rotmats = turns.draw_rotations(jax.random.split(jax.random.key(0), 3))
    turned, moved = turns.rotate(rotmats, xyz, viewmats)
    assert float(jnp.abs(turned - xyz).max()) > 0.1
    K = cameras.intrinsics_from_fov(50.0, 32, 32)
    before, z = _project(xyz, viewmats, K)
    after, z_after = _project(turned, moved, K)
    np.testing.assert_allclose(before, after, atol=2e-4)
    np.testing.assert_allclose(z, z_after, atol=1e-5)


def test_turns_are_proper_and_keep_objects_standing():
    rotmats = turns.draw_rotations(jax.random.split(jax.random.key(1), 200))
    np.testing.assert_allclose(jnp.linalg.det(rotmats), 1.0, atol=1e-5)
    up = rotmats[:, 1, 1]  # cosine of the tilt
    assert up.min() > np.cos(0.03 * np.pi)
    azimuth = jnp.arctan2(rotmats[:, 0, 2], rotmats[:, 2, 2])
    counts, _ = np.histogram(azimuth, 4, (-np.pi, np.pi))
    assert counts.min() > 25
