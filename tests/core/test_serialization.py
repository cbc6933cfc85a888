"""Reading orders: sweeps and curves visit neighbouring cells, cells are counted per cloud."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import serialization


def all_cells(bits: int) -> np.ndarray:
    """Every cell, in random order: uint32 [8^bits, 3]."""
    cells = np.array(list(itertools.product(range(1 << bits), repeat=3)), np.uint32)
    return np.random.default_rng(0).permutation(cells)


def visited(order: str, bits: int = 2) -> np.ndarray:
    cells = all_cells(bits)
    key = np.asarray(serialization.order_key(jnp.asarray(cells), order, bits))
    assert len(np.unique(key)) == len(key) and key.max() < 8**bits
    return cells[np.argsort(key)].astype(int)


@pytest.mark.parametrize("order", [*serialization.SNAKES, "hilbert", "hilbert-trans"])
def test_next_cell_is_a_neighbour(order):
    steps = np.abs(np.diff(visited(order), axis=0))
    assert (steps.sum(1) == 1).all()


@pytest.mark.parametrize("order", serialization.SNAKES)
def test_first_named_axis_runs_fastest(order):
    axes = ["xyz".index(name) for name in order]
    path = visited(order)[:, axes]
    assert path[:8].tolist() == [
        [0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [3, 1, 0], [2, 1, 0], [1, 1, 0], [0, 1, 0],
    ]  # fmt: skip
    assert (np.diff(path[:, 2]) >= 0).all()


def test_transposed_curves_exchange_x_and_y():
    for name in ("z", "hilbert"):
        np.testing.assert_array_equal(visited(f"{name}-trans"), visited(name)[:, [1, 0, 2]])


def test_z_order_interleaves_bits_x_first():
    assert visited("z", 1).tolist() == [list(c) for c in itertools.product((0, 1), repeat=3)]


def test_cells_are_counted_from_each_clouds_lowest():
    points = jnp.asarray(
        [[[0.05, -0.03, 0.0], [0.0, 0.0, 0.0]], [[5.0, 5.0, 5.0], [5.05, 9.0, 5.0]]]
    )
    cells = serialization.grid_cells(points, 0.02)
    # floor(-0.03 / 0.02) = -2; 9.0 lies 200 cells up.
    assert cells[0].tolist() == [[2, 0, 0], [0, 2, 0]]
    assert cells[1, 1].tolist() == [2, 200, 0]


def test_masked_points_come_last_and_count_nowhere():
    points = jnp.asarray([[[0.5, 0, 0], [jnp.nan, 0, 0], [0.1, 0, 0], [-9.0, -9, -9], [0.3, 0, 0]]])
    mask = jnp.asarray([[True, False, True, False, True]])
    rows = serialization.reading_order(points, "xyz", 0.02, mask=mask)
    assert rows[0].tolist() == [2, 4, 0, 1, 3]
    cells = serialization.grid_cells(points, 0.02, mask=mask)
    assert cells[0, :, 0].tolist() == [20, 0, 0, 0, 10]


def test_points_of_one_cell_keep_their_order():
    points = jnp.asarray([[[0.019, 0.0, 0.0], [0.001, 0.0, 0.0], [0.01, 0.0, 0.0]]])
    assert serialization.reading_order(points, "hilbert", 0.02)[0].tolist() == [0, 1, 2]


def test_points_beyond_the_grid_go_to_its_last_cells():
    points = jnp.asarray([[0.0, 0.0, 0.0], [1e6, 0.0, 0.0]])
    assert serialization.grid_cells(points, 0.02)[1].tolist() == [1023, 0, 0]


def test_wrong_arguments_are_refused():
    cells = jnp.zeros((4, 3), jnp.uint32)
    with pytest.raises(ValueError, match="order: unknown 'peano'; known: xyz, .*hilbert-trans"):
        serialization.order_key(cells, "peano")
    with pytest.raises(ValueError, match="order: unknown 'z'; known: xyz"):
        serialization.snake_key(cells, "z")
    with pytest.raises(ValueError, match="bits: expected 1 to 10, found 11"):
        serialization.snake_key(cells, "xyz", 11)
    with pytest.raises(ValueError, match="size: expected a positive edge, found 0"):
        serialization.grid_cells(jnp.zeros((4, 3)), 0)
    with pytest.raises(ValueError, match=r"mask: expected shape \[4\], found \[5\]"):
        serialization.grid_cells(jnp.zeros((4, 3)), 0.1, mask=jnp.ones(5, bool))
