"""Tile lists: exactness by brute force, two ways to sort, passes, saturation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import arg_specs
from gsjax.raster import project as projection
from gsjax.raster.blend import reference, tiles
from tests.raster import suite

WIDTH, HEIGHT, SIZE, NUM = 70, 50, 8, 80
GRID = tiles.Grid(WIDTH, HEIGHT, SIZE)
CAPACITY = 4000


def _splats(seed, scale=0.08):
    arrays = suite.splats_of(arg_specs.random_scene(seed, NUM, WIDTH, HEIGHT, scale=scale),
                             WIDTH, HEIGHT)  # fmt: skip
    return projection.Splats(*(jnp.asarray(arrays[k][0]) for k in projection.Splats._fields))


def _needles(seed):
    scene = arg_specs.random_scene(seed, NUM, WIDTH, HEIGHT)
    scene["scales"][:] = 0.8, 0.001, 0.001
    arrays = suite.splats_of(scene, WIDTH, HEIGHT)
    return projection.Splats(*(jnp.asarray(arrays[k][0]) for k in projection.Splats._fields))


@jax.jit
def _exact(splats):
    return tiles.tile_lists(splats, WIDTH, HEIGHT, tile_size=SIZE, capacity=CAPACITY)


@jax.jit
def _boxed(splats):
    return tiles.tile_lists(splats, WIDTH, HEIGHT, tile_size=SIZE, capacity=CAPACITY, exact=False)


def _as_lists(gaussian, bounds):
    return [list(np.asarray(gaussian[a:b])) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _best_alpha(splats):
    """[tiles, N] largest alpha at any pixel centre of each tile, float64."""
    means, conics, opacities = (np.float64(x) for x in splats[:3])
    x, y = np.arange(GRID.columns * SIZE) + 0.5, np.arange(GRID.rows * SIZE) + 0.5
    dx, dy = means[:, 0, None, None] - x, means[:, 1, None, None] - y[:, None]
    a, b, c = (conics[:, k, None, None] for k in range(3))
    alpha = opacities[:, None, None] * np.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)
    alpha = np.where(np.asarray(splats.radii)[:, 0, None, None] > 0, alpha, 0)
    blocks = alpha.reshape(-1, GRID.rows, SIZE, GRID.columns, SIZE)
    return blocks.max((2, 4)).reshape(-1, GRID.count).T


@pytest.mark.parametrize("make", [lambda: _splats(0), lambda: _splats(1, 0.3), lambda: _needles(2)])
def test_exact_lists_hold_every_visible_pair_in_depth_order(make):
    splats = make()
    exact, boxed = _as_lists(*_exact(splats)[:2]), _as_lists(*_boxed(splats)[:2])
    best, position = _best_alpha(splats), np.argsort(reference.depth_order(splats))
    assert _boxed(splats)[2] <= CAPACITY
    for tile in range(GRID.count):
        assert set(exact[tile]) <= set(boxed[tile])
        assert set(np.flatnonzero(best[tile] >= 1.0001 / 255)) <= set(exact[tile])
        for entries in (exact[tile], boxed[tile]):
            assert np.all(np.diff(position[entries]) > 0)
    assert sum(map(len, exact)) < sum(map(len, boxed))


def test_exact_lists_hold_little_else():
    splats = _needles(3)
    listed = sum(map(len, _as_lists(*_exact(splats)[:2])))
    boxed = sum(map(len, _as_lists(*_boxed(splats)[:2])))
    assert listed < 0.7 * boxed and np.sum(_best_alpha(splats) >= 1 / 255) > 0.6 * listed


def test_both_sort_keys_give_the_same_lists():
    splats = _splats(4)

    @jax.jit
    def unpacked(splats):
        return tiles.tile_lists(
            splats, WIDTH, HEIGHT, tile_size=SIZE, capacity=CAPACITY, packed=False
        )

    (gaussian, bounds, wanted), expected = unpacked(splats), _exact(splats)
    used = int(bounds[-1])
    np.testing.assert_array_equal(bounds, expected[1])
    np.testing.assert_array_equal(gaussian[:used], expected[0][:used])
    assert int(wanted) == int(expected[2])


def test_keys_too_large_for_32_bits_are_not_packed():
    # 2^22 tiles x 2^11 Gaussians: tile * N + rank would wrap.
    grid = tiles.Grid(2**15, 2**15, 16)
    num = 2**11
    low = jnp.tile(jnp.array([[2047, 2047]], jnp.int32), (num, 1))
    ones = jnp.ones((num,), jnp.int32)
    boxes = tiles.Boxes(jnp.arange(num, dtype=jnp.int32), low, ones, ones)
    with pytest.raises(ValueError, match="packed"):
        tiles.take(boxes, None, tiles.start_cursor(boxes), None, grid, num, packed=True)
    lists, _ = tiles.take(boxes, None, tiles.start_cursor(boxes), None, grid, num)
    np.testing.assert_array_equal(lists.tile, 2047 * 2048 + 2047)
    np.testing.assert_array_equal(lists.rank, np.arange(num))


@pytest.mark.parametrize("capacity", [1, 13, 100])
def test_passes_concatenate_to_the_whole_and_slots_invert_the_sort(capacity):
    splats = _splats(5, 0.05)
    boxes = tiles.depth_sorted_boxes(splats, GRID)
    geometry = splats.means2d, splats.conics, tiles.level(splats.opacities)
    geometry = tuple(g[boxes.order] for g in geometry)

    @jax.jit
    def step(cursor):
        lists, after = tiles.take(boxes, geometry, cursor, None, GRID, capacity)
        slots = tiles.slots_of(lists, boxes, cursor, GRID)
        return lists, after, slots, tiles.has_more(boxes, after)

    cursor, more, found, passes = (
        tiles.start_cursor(boxes),
        True,
        [[] for _ in range(GRID.count)],
        0,
    )
    while more:
        lists, cursor, slots, more = step(cursor)
        used = int(lists.bounds[-1])
        for entries, new in zip(
            found, _as_lists(boxes.order[lists.rank], lists.bounds), strict=True
        ):
            entries.extend(new)
        starts, taken = np.asarray(lists.starts), np.asarray(lists.taken)
        slots, rank = np.asarray(slots), np.asarray(lists.rank)
        assert len(set(slots[:used])) == used and np.all(slots[used:] == capacity)
        assert np.all(slots[:used] >= starts[rank[:used]])
        assert np.all(slots[:used] < (starts + taken)[rank[:used]])
        passes += 1
    assert passes == -(-int(jnp.sum(boxes.count)) // capacity)
    assert found == _as_lists(*_exact(splats)[:2])


def test_closed_tiles_receive_nothing():
    splats = _splats(6)
    boxes = tiles.depth_sorted_boxes(splats, GRID)
    is_open = np.arange(GRID.count) % 3 > 0
    lists, _ = tiles.take(
        boxes, None, tiles.start_cursor(boxes), jnp.asarray(is_open), GRID, CAPACITY
    )
    length = np.diff(lists.bounds)
    assert np.all(length[~is_open] == 0) and np.any(length[is_open] > 0)


def test_counts_saturate_and_never_wrap():
    x = jnp.array([2**30, 2**30 + 5, 2**31 - 1, 7], jnp.int32)
    np.testing.assert_array_equal(tiles.saturating_cumsum(x), [2**30] + [2**31 - 1] * 3)
    assert int(tiles.saturating_sum(x)) == 2**31 - 1
    many = jnp.full((100_000,), 2**20, jnp.int32)  # 2^20 * 10^5 = 1e11
    sums = np.asarray(tiles.saturating_cumsum(many))
    assert np.all(np.diff(sums) >= 0) and sums[1000] == 1001 * 2**20 and sums[-1] == 2**31 - 1
    assert int(tiles.saturating_sum(jnp.array([3, 4], jnp.int32))) == 7


def test_depth_keys_sort_like_floats():
    depths = np.float32([-np.inf, -3, -1e-30, -0.0, 0.0, 1e-30, 0.01, 0.1, 2.0, 3e38, np.inf])
    keys = np.asarray(tiles.depth_keys(jnp.asarray(depths)), np.int64)
    assert np.all(np.diff(keys) >= 0) and keys[3] == keys[4]
