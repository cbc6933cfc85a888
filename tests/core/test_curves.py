"""Space-filling curves: bijections, step lengths, bit-by-bit references."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import curves


def _grid(bits):
    return np.array(list(itertools.product(range(1 << bits), repeat=3)), np.uint32)


def _steps(keys, grid):
    walk = grid[np.argsort(keys)].astype(int)
    return np.abs(np.diff(walk, axis=0)).sum(axis=1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_hilbert_visits_every_cell_once_in_unit_steps(bits):
    grid = _grid(bits)
    keys = np.asarray(curves.hilbert_key(jnp.asarray(grid), bits))
    assert sorted(keys) == list(range(len(grid)))
    assert (_steps(keys, grid) == 1).all()


def test_hilbert_at_ten_bits_steps_by_one_within_a_cube():
    # An aligned 8^3 cube is a contiguous stretch of the curve.
    grid = _grid(3) + np.array([[512, 256, 1016]], np.uint32)
    keys = np.asarray(curves.hilbert_key(jnp.asarray(grid))).astype(np.int64)
    assert keys.max() - keys.min() == 511 and keys.max() < 1 << 30
    assert (_steps(keys, grid) == 1).all()


@pytest.mark.parametrize("bits, mean_step", [(2, 1.857), (3, 1.959), (4, 1.989)])
def test_morton_is_a_bijection_of_known_roughness(bits, mean_step):
    grid = _grid(bits)
    keys = np.asarray(curves.morton_key(jnp.asarray(grid), bits))
    assert sorted(keys) == list(range(len(grid)))
    assert round(float(_steps(keys, grid).mean()), 3) == mean_step


def test_morton_interleaves_bits_with_x_first():
    q = np.random.default_rng(0).integers(0, 1024, (50, 3)).astype(np.uint32)
    expected = []
    for cell in q:
        x, y, z = (f"{v:010b}" for v in cell)
        expected.append(int("".join(a + b + c for a, b, c in zip(x, y, z)), 2))
    np.testing.assert_array_equal(curves.morton_key(jnp.asarray(q)), expected)


def test_axis_keys_sort_lexicographically():
    q = np.random.default_rng(0).integers(0, 4, (200, 3)).astype(np.uint32)
    for axis in range(3):
        keys = np.asarray(curves.axis_key(jnp.asarray(q), axis, 2))
        order = np.lexsort(tuple(q[:, (axis + i) % 3] for i in (2, 1, 0)))
        np.testing.assert_array_equal(q[np.argsort(keys, kind="stable")], q[order])


def test_quantize_covers_the_grid_and_survives_bad_values():
    coords = jnp.array([[-1.0, 0.0, 1.0], [0.49, 0.51, 9.0], [np.nan, np.inf, -np.inf]])
    found = curves.quantize(coords, 2, jnp.array(-1.0), jnp.array(1.0))
    assert found.dtype == jnp.uint32
    assert found.tolist() == [[0, 2, 3], [2, 3, 3], [0, 3, 0]]


def test_quantize_flat_axis_is_one_cell():
    found = curves.quantize(jnp.array([[0.3, 5.0, 0.9]]), 10, jnp.zeros(3), jnp.array([1.0, 0, 1]))
    assert found[0, 1] == 0 and (found[0, ::2] > 0).all()


def test_keys_do_not_depend_on_input_order():
    q = jnp.asarray(_grid(2))
    shuffle = np.random.default_rng(0).permutation(len(q))
    np.testing.assert_array_equal(
        curves.hilbert_key(q, 2)[shuffle], curves.hilbert_key(q[shuffle], 2)
    )


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="bits: expected 1 to 10"):
        curves.hilbert_key(jnp.zeros(3, jnp.uint32), 11)
    with pytest.raises(ValueError, match="q: expected uint32"):
        curves.morton_key(jnp.zeros(3), 10)
    with pytest.raises(ValueError, match="axis: expected 0, 1 or 2, found 3"):
        curves.axis_key(jnp.zeros(3, jnp.uint32), 3, 10)
