"""Centres and interpolation against hand-computed cases, NumPy loops and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import point_groups

_OPTIONS = {"xla_backend_optimization_level": 0}  # compiles in half the time
sample = jax.jit(point_groups.sample_centers, static_argnums=1, compiler_options=_OPTIONS)
interpolate = jax.jit(point_groups.interpolate, compiler_options=_OPTIONS)


def _loop_fps(xyz, k, first):
    """Farthest point sampling from its definition."""
    chosen = [first]
    while len(chosen) < k:
        gaps = np.min(np.sum((xyz[:, None] - xyz[chosen]) ** 2, -1), 1)
        chosen.append(int(np.argmax(gaps)))
    return chosen


def test_centers_are_farthest_points_and_surplus_ones_are_invalid():
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(2, 20, 3)).astype(np.float32)
    mask = np.ones((2, 20), bool)
    mask[1] = False
    mask[1, [3, 7, 11]] = True
    idx, valid = sample(jnp.asarray(xyz), 5, mask=jnp.asarray(mask))
    assert idx[0].tolist() == _loop_fps(xyz[0], 5, 0) and valid[0].all()
    assert valid[1].tolist() == [True] * 3 + [False] * 2
    assert sorted(idx[1, :3].tolist()) == [3, 7, 11]


def test_a_draw_decides_which_valid_point_comes_first_whatever_the_padding():
    rng = np.random.default_rng(1)
    xyz = rng.normal(size=(4, 8, 3)).astype(np.float32)
    mask = np.zeros((4, 8), bool)
    members = [1, 2, 4, 7]
    mask[:, members] = True
    # The last draw times 4 rounds to 4.0 in float32.
    start = jnp.asarray([0.0, 0.26, 0.6, np.nextafter(np.float32(1), np.float32(0))])
    idx, valid = sample(jnp.asarray(xyz), 4, mask=jnp.asarray(mask), start=start)
    assert valid.all() and idx[:, 0].tolist() == members
    for i in range(4):
        wanted = _loop_fps(xyz[i][members], 4, i)
        assert [members[j] for j in wanted] == idx[i].tolist()


def test_a_cloud_without_points_has_no_centers():
    xyz = jnp.full((1, 6, 3), jnp.nan)
    for start in (None, jnp.asarray([0.5])):
        idx, valid = sample(xyz, 3, start=start)
        assert not valid.any() and (idx >= 0).all() and (idx < 6).all()


def test_interpolation_weighs_by_inverse_squared_distance():
    points = jnp.asarray([[[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [9, 9, 9]]])
    values = jnp.asarray([[[1.0], [10.0], [100.0], [1e6]]])
    query = jnp.asarray([[[0.5, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    # d^2 = 1/4, 1/4, 17/4: weights 4, 4, 4/17.
    wanted = (4 * 1 + 4 * 10 + 4 / 17 * 100) / (8 + 4 / 17)
    found = interpolate(query, points, values)
    np.testing.assert_allclose(found[0, :, 0], [wanted, 10.0], rtol=1e-6)


def test_masked_points_lend_nothing_and_few_points_are_all_used():
    points = jnp.asarray([[[0.0, 0, 0], [1, 0, 0], [0.4, 0, 0]]] * 2)
    values = jnp.asarray([[[1.0], [3.0], [jnp.nan]]] * 2)
    mask = jnp.asarray([[True, True, False], [False] * 3])
    query = jnp.asarray([[[0.5, 0.0, 0.0]]] * 2)

    @functools.partial(jax.jit, compiler_options=_OPTIONS)
    def value_and_slopes(points, values):
        def total(points, values):
            found = point_groups.interpolate(query, points, values, mask=mask)
            return jnp.sum(found), found

        slopes, found = jax.grad(total, (0, 1), has_aux=True)(points, values)
        return found, slopes

    found, grads = value_and_slopes(points, values)
    np.testing.assert_allclose(found[:, 0, 0], [2.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(grads[1][..., 0], [[0.5, 0.5, 0.0], [0.0] * 3], rtol=1e-6)
    assert np.isfinite(grads[0]).all()


def test_gradients_of_interpolation_are_those_of_finite_differences():
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        args = [
            jnp.asarray(rng.normal(size=(1, n, c)), jnp.float64)
            for n, c in ((3, 3), (6, 3), (6, 2))
        ]
        weights = jnp.asarray(rng.normal(size=(1, 3, 2)))

        def loss(args):
            return jnp.sum(weights * point_groups.interpolate(*args))

        both = jax.jit(jax.value_and_grad(loss), compiler_options=_OPTIONS)
        grads = both(args)[1]
        step = 1e-6
        for i, grad in enumerate(grads):
            for j in range(0, args[i].size, 2):
                values = []
                for sign in (1, -1):
                    moved = [np.array(x) for x in args]
                    moved[i].ravel()[j] += sign * step
                    values.append(float(both(moved)[0]))
                slope = (values[0] - values[1]) / (2 * step)
                np.testing.assert_allclose(grad.ravel()[j], slope, rtol=1e-5, atol=1e-7)


def test_a_point_upon_another_takes_its_value_with_finite_gradients():
    points = jnp.asarray([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    values = jnp.asarray([[[1.0], [2.0], [5.0]]])

    def total(queries):
        return jnp.sum(point_groups.interpolate(queries, points, values))

    both = jax.jit(jax.value_and_grad(total), compiler_options=_OPTIONS)
    value, slope = both(points)
    assert float(value) == pytest.approx(8.0, rel=1e-6) and np.isfinite(slope).all()
    assert np.isfinite(both(points + 1e-5)[1]).all()


def test_other_shapes_are_refused():
    xyz = jnp.zeros((2, 4, 3))
    with pytest.raises(ValueError, match=r"points: expected shape \[B, N, 3\]"):
        point_groups.sample_centers(xyz[..., :2], 2)
    with pytest.raises(ValueError, match=r"start: expected shape \[2\], found \[3\]"):
        point_groups.sample_centers(xyz, 2, start=jnp.zeros(3))
    with pytest.raises(
        ValueError, match=r"values: expected shape \[2, 4, 'C'\], found \[2, 5, 1\]"
    ):
        point_groups.interpolate(xyz, xyz, jnp.zeros((2, 5, 1)))
