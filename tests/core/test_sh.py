"""Spherical harmonics against associated Legendre polynomials, and their rotation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gsjax.core import rotations, sh

_eval_sh = jax.jit(sh.eval_sh, static_argnums=0)
_rotate_sh = jax.jit(sh.rotate_sh)


def _legendre(level, order, x):
    """P_l^m(x) with the Condon-Shortley phase, by the standard recurrence."""
    value = np.ones_like(x)
    for i in range(order):
        value = value * -(2 * i + 1) * np.sqrt(1 - x * x)
    if level == order:
        return value
    before, value = value, x * (2 * order + 1) * value
    for n in range(order + 2, level + 1):
        before, value = value, ((2 * n - 1) * x * value - (n + order - 1) * before) / (n - order)
    return value


def _reference_basis(degree, dirs):
    """Real SH from the definition, in the order and with the signs of 3D Gaussian splatting."""
    x, y, z = dirs.T
    phi = np.arctan2(y, x)
    values = []
    for level in range(degree + 1):
        for order in range(-level, level + 1):
            m = abs(order)
            ratio = math.factorial(level - m) / math.factorial(level + m)
            norm = math.sqrt((2 * level + 1) / (4 * math.pi) * ratio)
            angular = np.sin(m * phi) if order < 0 else np.cos(m * phi)
            scale = math.sqrt(2) if m else 1.0
            values.append(scale * norm * _legendre(level, m, z) * angular)
    return np.stack(values, axis=-1)


def _dirs(n, seed=0):
    d = np.random.default_rng(seed).normal(size=(n, 3))
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def _rotations(n, seed=0):
    quats = np.random.default_rng(seed).normal(size=(n, 4))
    return rotations.quat_to_rotmat(quats)


@pytest.mark.parametrize("degree", range(5))
def test_basis_is_the_definition(degree):
    dirs = _dirs(50)
    with jax.enable_x64(True):
        found = sh.basis(degree, jnp.asarray(2.5 * dirs))
    np.testing.assert_allclose(found, _reference_basis(degree, dirs), atol=1e-12)


def test_evaluation_is_the_weighted_sum_at_each_degree():
    dirs = _dirs(10)
    coeffs = np.random.default_rng(1).normal(size=(10, 25, 3))
    basis = _reference_basis(4, dirs)
    for degree in range(5):
        count = sh.num_coeffs(degree)
        expected = np.einsum("nk,nkd->nd", basis[:, :count], coeffs[:, :count])
        found = _eval_sh(degree, jnp.asarray(dirs), jnp.asarray(coeffs))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_leading_axes_broadcast():
    dirs, coeffs = jnp.ones((2, 1, 5, 3)), jnp.ones((4, 5, 9, 3))
    for degree in range(3):
        out = jax.eval_shape(functools.partial(sh.eval_sh, degree), dirs, coeffs)
        assert out.shape == (2, 4, 5, 3)


@pytest.mark.parametrize("degree", range(5))
def test_rotated_coefficients_see_the_turned_object(degree):
    rotmats, dirs = _rotations(6), jnp.asarray(_dirs(6, seed=2), jnp.float32)
    coeffs = jnp.asarray(np.random.default_rng(3).normal(size=(6, sh.num_coeffs(degree), 3)))
    turned = jnp.einsum("nij,nj->ni", rotmats, dirs)
    found = _eval_sh(degree, turned, _rotate_sh(coeffs, rotmats))
    np.testing.assert_allclose(found, _eval_sh(degree, dirs, coeffs), atol=2e-5)


def test_rotations_of_coefficients_compose_and_keep_energy():
    a, b = _rotations(2)
    coeffs = jnp.asarray(np.random.default_rng(3).normal(size=(25, 3)))
    once = _rotate_sh(coeffs, a @ b)
    np.testing.assert_allclose(_rotate_sh(_rotate_sh(coeffs, b), a), once, atol=2e-5)
    np.testing.assert_allclose(jnp.sum(once**2), jnp.sum(coeffs**2), rtol=1e-5)
    np.testing.assert_allclose(_rotate_sh(coeffs, jnp.eye(3)), coeffs, atol=1e-5)


def test_float64_finite_differences():
    with jax.enable_x64(True):
        dirs = jnp.asarray(1.7 * _dirs(4))
        coeffs = jnp.asarray(np.random.default_rng(1).normal(size=(4, 25, 2)))
        fn = lambda d, c: _eval_sh(4, d, c)  # noqa: E731
        check_grads(fn, (dirs, coeffs), 1, modes=["rev"], atol=1e-6, rtol=1e-6)
        assert fn(dirs, coeffs).dtype == jnp.float64


def test_zero_direction_has_finite_value_and_gradient():
    coeffs = jnp.ones((25, 3))
    assert np.isfinite(_eval_sh(4, jnp.zeros(3), coeffs)).all()
    assert np.isfinite(jax.jit(jax.jacobian(lambda d: _eval_sh(4, d, coeffs)))(jnp.zeros(3))).all()


def test_colours_round_trip():
    rgb = jnp.array([[0.0, 0.25, 1.0]])
    np.testing.assert_allclose(sh.sh0_to_rgb(sh.rgb_to_sh0(rgb)), rgb, atol=1e-6)
    np.testing.assert_allclose(
        _eval_sh(0, jnp.ones((1, 3)), sh.rgb_to_sh0(rgb)[:, None]) + 0.5, rgb, atol=1e-6
    )


def test_wrong_degrees_are_errors():
    with pytest.raises(ValueError, match="degree: expected 0 to 4, found 5"):
        sh.num_coeffs(5)
    for degree in (1.0, "1", None, np.float32(2)):
        with pytest.raises(ValueError, match="degree: expected an integer, 0 to 4, found"):
            sh.num_coeffs(degree)
    assert sh.num_coeffs(np.int64(2)) == 9
    with pytest.raises(ValueError, match="expected 1, 4, 9, 16 or 25 SH coefficients, found 8"):
        sh.degree_of(8)
    with pytest.raises(ValueError, match=r"degree 2 needs \[\.\.\., K >= 9, D\], found \[4, 3\]"):
        _eval_sh(2, jnp.ones(3), jnp.ones((4, 3)))
