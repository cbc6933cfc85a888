"""The Gaussians pytrees: activation, similarity transforms, normalisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gsjax.core import gaussians, rotations, sh


def _raw(n=6, degree=2, leading=(), seed=0):
    rng = np.random.default_rng(seed)
    shape = (*leading, n)
    return gaussians.RawGaussians(
        means=jnp.asarray(rng.normal(size=(*shape, 3))),
        quats=jnp.asarray(rng.normal(size=(*shape, 4))),
        log_scales=jnp.asarray(rng.normal(size=(*shape, 3)) - 3),
        logit_opacities=jnp.asarray(rng.normal(size=shape)),
        sh=jnp.asarray(rng.normal(size=(*shape, sh.num_coeffs(degree), 3))),
    )


_activate = jax.jit(lambda raw: raw.activate())
_to_matrix = jax.jit(rotations.quat_to_rotmat)
_transform = jax.jit(gaussians.transform)
_normalize = jax.jit(gaussians.normalize_unit_ball, static_argnames="radius_quantile")


def _covariances(g):
    m = np.asarray(_to_matrix(g.quats)) * np.asarray(g.scales)[..., None, :]
    return m @ np.swapaxes(m, -1, -2)


def test_activation_is_exp_sigmoid_and_unit_quaternions():
    raw = _raw()
    g = _activate(raw)
    np.testing.assert_allclose(g.scales, np.exp(raw.log_scales), rtol=1e-5)
    np.testing.assert_allclose(g.opacities, 1 / (1 + np.exp(-raw.logit_opacities)), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(g.quats, axis=-1), 1, rtol=1e-5)
    assert (g.num, g.sh_degree) == (6, 2)


def test_deactivation_inverts_activation():
    raw = _raw()
    again = _activate(raw).deactivate()
    for name in ("means", "log_scales", "logit_opacities", "sh"):
        np.testing.assert_allclose(getattr(again, name), getattr(raw, name), atol=1e-5)


def test_degenerate_parameters_have_finite_logarithms_and_gradients():
    raw = _raw(2)
    zero = jnp.zeros_like
    g = dataclasses.replace(
        _activate(raw),
        scales=zero(raw.means),
        opacities=jnp.array([0.0, 1.0]),
        quats=zero(raw.quats),
    )

    def total(g):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(g.deactivate().activate()))

    for leaf in jax.tree.leaves((g.deactivate(), jax.jit(jax.grad(total))(g))):
        assert np.isfinite(leaf).all()
    np.testing.assert_allclose(g.deactivate().activate().opacities, [0, 1], atol=1e-6)


def test_pytrees_pass_through_jit_vmap_and_grad():
    raw = _raw(leading=(3,))
    activated = jax.jit(jax.vmap(lambda r: r.activate()))(raw)
    assert isinstance(activated, gaussians.Gaussians) and activated.means.shape == (3, 6, 3)
    assert isinstance(jax.grad(lambda r: jnp.sum(r.activate().scales))(raw), type(raw))


@pytest.mark.parametrize("activated", [False, True])
def test_transform_moves_means_covariances_and_colours_together(activated):
    raw = _raw(degree=3)
    rotation = _to_matrix(jnp.array([0.3, -0.5, 0.7, 0.2]))
    translation = jnp.array([1.0, -2.0, 0.5])
    before = _activate(raw)
    after = _transform(before if activated else raw, 2.5, rotation, translation)
    after = after if activated else after.activate()
    turn = np.asarray(rotation)
    expected = 2.5 * np.asarray(before.means) @ turn.T + np.asarray(translation)
    np.testing.assert_allclose(after.means, expected, atol=1e-5)
    expected = 2.5**2 * turn @ _covariances(before) @ turn.T
    np.testing.assert_allclose(_covariances(after), expected, atol=1e-6)
    dirs = jnp.broadcast_to(jnp.array([0.2, 0.9, -0.4]), before.means.shape)
    np.testing.assert_allclose(
        sh.eval_sh(3, dirs @ rotation.T, after.sh), sh.eval_sh(3, dirs, before.sh), atol=1e-5
    )


def test_transform_turns_zero_quaternions_too():
    raw = dataclasses.replace(_raw(), quats=jnp.zeros((6, 4)))
    rotation = _to_matrix(jnp.array([0.3, -0.5, 0.7, 0.2]))
    after = _transform(raw, 1.0, rotation, jnp.zeros(3))
    np.testing.assert_allclose(_to_matrix(after.quats)[0], rotation, atol=1e-6)


def test_transform_takes_one_similarity_per_scene():
    raw = _raw(leading=(2,))
    rotation = _to_matrix(np.random.default_rng(0).normal(size=(2, 4)))
    scale, translation = jnp.array([0.5, 3.0]), jnp.array([[1.0, 0, 0], [0, 2.0, 0]])
    both = _transform(raw, scale, rotation, translation)
    one = _transform(jax.tree.map(lambda x: x[1], raw), scale[1], rotation[1], translation[1])
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(one)):
        np.testing.assert_allclose(a[1], b, atol=1e-5)


def test_unit_ball_by_the_definition():
    raw = _raw(leading=(2,))
    out = _normalize(raw)
    centered = np.asarray(raw.means) - np.asarray(raw.means).mean(axis=1, keepdims=True)
    radius = np.linalg.norm(centered, axis=-1).max(axis=1)
    np.testing.assert_allclose(out.means, centered / radius[:, None, None], atol=1e-5)
    np.testing.assert_allclose(
        out.log_scales, np.asarray(raw.log_scales) - np.log(radius)[:, None, None], atol=1e-5
    )


def test_unit_ball_ignores_padding():
    raw = _raw(5)
    padded = jax.tree.map(lambda x: jnp.concatenate((x, 100 * jnp.ones_like(x[:2]))), raw)
    mask = jnp.arange(7) < 5
    out = _normalize(padded, mask=mask)
    expected = _normalize(raw)
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a[:5], b, atol=1e-5)


def test_radius_quantile_ignores_floaters():
    means = jnp.concatenate((_raw(99).means, jnp.array([[1e3, 0, 0]])))
    raw = dataclasses.replace(_raw(100), means=means)
    out = _normalize(raw, radius_quantile=0.95)
    norms = np.linalg.norm(out.means, axis=-1)
    np.testing.assert_allclose(np.sort(norms)[-6:], 1, rtol=1e-5)
    assert np.median(norms) > 0.2
    with pytest.raises(ValueError, match="radius_quantile"):
        _normalize(raw, radius_quantile=0.0)


def test_a_scene_of_one_place_becomes_zero_with_finite_gradients():
    raw = dataclasses.replace(_raw(), means=jnp.full((6, 3), 2.0))
    out = _normalize(raw)
    np.testing.assert_array_equal(out.means, 0)
    np.testing.assert_array_equal(out.log_scales, raw.log_scales)

    def total(raw):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(_normalize(raw)))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(raw)):
        assert np.isfinite(leaf).all()


def test_float64_finite_differences():
    with jax.enable_x64(True):
        raw = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), _raw(4, degree=1))
        rotation = _to_matrix(jnp.array([0.3, -0.5, 0.7, 0.2]))

        def fn(raw):
            moved = _transform(raw, 2.0, rotation, jnp.ones(3))
            return _normalize(moved).activate()

        check_grads(jax.jit(fn), (raw,), 1, modes=["rev"], atol=1e-5, rtol=1e-5)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(jax.eval_shape(fn, raw)))


def test_check_names_the_wrong_field():
    raw = _raw()
    assert raw.check() is raw
    with pytest.raises(ValueError, match=r"quats: expected shape \[6, 4\]"):
        dataclasses.replace(raw, quats=raw.means).check()
    with pytest.raises(ValueError, match="expected 1, 4, 9, 16 or 25 SH coefficients, found 8"):
        dataclasses.replace(raw, sh=raw.sh[:, :8]).check()
