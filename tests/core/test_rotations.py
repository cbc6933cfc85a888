"""Quaternions against a plain NumPy sandwich product, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gsjax.core import rotations

# Compiled once for the whole file: many small programs cost more than one.
_to_matrix = jax.jit(rotations.quat_to_rotmat)
_to_quat = jax.jit(rotations.rotmat_to_quat)
_multiply = jax.jit(rotations.quat_multiply)
_from_vector = jax.jit(rotations.rotvec_to_quat)
_from_axis = jax.jit(rotations.axis_angle_to_quat)


def _sandwich(q, v):
    """Rotates v by q (w, x, y, z) through q v q*, written from the definition."""
    w, u = q[0], q[1:]
    t = -u @ v, w * v + np.cross(u, v)
    return w * t[1] - t[0] * u + np.cross(t[1], -u)


def _random_quats(n, seed=0):
    q = np.random.default_rng(seed).normal(size=(n, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_matrix_rotates_like_the_quaternion():
    quats = _random_quats(20)
    mats = np.asarray(_to_matrix(3.7 * quats))
    v = np.array([0.3, -1.2, 0.5])
    expected = np.stack([_sandwich(q, v) for q in quats])
    np.testing.assert_allclose(mats @ v, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(mats), 1, atol=1e-5)


def test_matrix_to_quaternion_inverts_at_every_angle():
    special = np.eye(4)  # identity and the three half turns
    tilted = special + 1e-4 * _random_quats(4, seed=1)
    quats = np.concatenate((special, tilted, _random_quats(50)))
    mats = _to_matrix(quats)
    back = np.asarray(_to_quat(mats))
    assert (back[:, 0] >= 0).all()
    np.testing.assert_allclose(_to_matrix(back), mats, atol=2e-6)


def test_product_composes():
    a, b = _random_quats(10, 2), _random_quats(10, 3)
    both = _to_matrix(_multiply(a, b))
    expected = np.asarray(_to_matrix(a)) @ np.asarray(_to_matrix(b))
    np.testing.assert_allclose(both, expected, atol=1e-5)
    identity = _multiply(a, rotations.quat_conjugate(a))
    np.testing.assert_allclose(identity, np.tile([1, 0, 0, 0], (10, 1)), atol=1e-6)


def test_axis_angle_is_right_handed_and_agrees_with_rotation_vectors():
    quarter = _from_axis(jnp.array([0.0, 0.0, 2.0]), np.pi / 2)
    np.testing.assert_allclose(_to_matrix(quarter) @ jnp.array([1.0, 0, 0]), [0, 1, 0], atol=1e-6)
    vectors = np.random.default_rng(0).normal(size=(8, 3)) * np.logspace(-6, 0, 8)[:, None]
    by_vector = _from_vector(vectors)
    by_axis = _from_axis(vectors, np.linalg.norm(vectors, axis=1))
    np.testing.assert_allclose(by_vector, by_axis, atol=1e-6)
    np.testing.assert_allclose(_from_axis(jnp.zeros(3), 1.0), [1, 0, 0, 0])


def test_lengths_near_the_limits_of_float32_normalise():
    quats = jnp.array([[1e37, 0, 1e37, 0], [1e-18, 0, 0, -1e-18]], jnp.float32)
    expected = np.array([[1, 0, 1, 0], [1, 0, 0, -1]]) / np.sqrt(2)
    np.testing.assert_allclose(rotations.quat_normalize(quats), expected, atol=1e-6)


def test_zero_inputs_give_the_identity_and_finite_gradients():
    zero = jnp.zeros(4)
    np.testing.assert_array_equal(_to_matrix(zero), np.eye(3))
    # Identity and half turns: the points where square-root formulas divide by zero.
    mats = _to_matrix(np.eye(4, dtype=np.float32))
    for gradient in (
        jax.jit(jax.jacobian(_to_matrix))(zero),
        jax.jit(jax.jacobian(_from_vector))(jnp.zeros(3)),
        jax.jit(jax.jacobian(lambda v: _from_axis(v, 1.0)))(jnp.zeros(3)),
        jax.jit(jax.vmap(jax.jacobian(_to_quat)))(mats),
    ):
        assert np.isfinite(gradient).all()
    np.testing.assert_allclose(
        jax.jit(jax.jacobian(_from_vector))(jnp.zeros(3))[1:], np.eye(3) / 2, atol=1e-7
    )


def test_float64_finite_differences():
    with jax.enable_x64(True):
        q = jnp.asarray(_random_quats(3) * [[1.0], [0.2], [4.0]])
        check_grads(_to_matrix, (q,), 1, modes=["rev"], atol=1e-6, rtol=1e-6)
        check_grads(_from_vector, (q[:, :3],), 1, modes=["rev"], atol=1e-6, rtol=1e-6)
        assert _to_matrix(q).dtype == jnp.float64


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"quats: expected shape \[\.\.\., 4\], found \[2, 3\]"):
        rotations.quat_normalize(jnp.zeros((2, 3)))
