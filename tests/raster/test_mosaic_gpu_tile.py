"""Pixel order, table and gradients that the Mosaic GPU kernels share."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.raster.blend import kernel_passes, tiles
from gsjax.raster.blend.gpu import tile as tile_math


def test_each_warp_owns_a_block_and_each_pixel_has_one_place():
    column, line = tile_math.pixel_offsets(np.arange(tile_math.PIXELS))
    assert len(set(zip(column.tolist(), line.tolist()))) == tile_math.PIXELS
    for warp in range(4):
        own = slice(64 * warp, 64 * warp + 64)
        assert set(column[own] // 8) == {warp % 2} and set(line[own] // 8) == {warp // 2}
    np.testing.assert_array_equal(column[::2], column[1::2])  # two pixels of one column a thread


def test_images_are_put_together_from_tiles():
    grid = tiles.Grid(37, 20, tile_math.SIZE)
    column, line = tile_math.pixel_offsets(np.arange(tile_math.PIXELS))
    tile = np.arange(2 * grid.count)
    image, inside = tile // grid.count, tile % grid.count
    x = inside[:, None] % grid.columns * 16 + column
    y = inside[:, None] // grid.columns * 16 + line
    values = np.stack([x, y, np.broadcast_to(image[:, None], x.shape)], 1)
    found = np.asarray(tile_math.to_image(jnp.asarray(values), grid))
    assert found.shape == (2, 20, 37, 3)
    np.testing.assert_array_equal(found[..., 0], np.broadcast_to(np.arange(37), (2, 20, 37)))
    np.testing.assert_array_equal(
        found[..., 1], np.broadcast_to(np.arange(20)[:, None], (2, 20, 37))
    )
    np.testing.assert_array_equal(found[..., 2], np.arange(2)[:, None, None] + 0 * found[..., 2])


def _alpha(rows, x, y):
    """Unclamped response of Gaussians at a pixel, from its definition."""
    dx, dy = rows[:, 0] - x, rows[:, 1] - y
    sigma = 0.5 * (rows[:, 2] * dx**2 + rows[:, 4] * dy**2) + rows[:, 3] * dx * dy
    return rows[:, 5] * jnp.exp(-sigma)


def _rows():
    rng = np.random.default_rng(3)
    rows = rng.uniform(0.2, 1.0, (5, 9))
    rows[:, :2] *= 16
    rows[:, 3] *= 0.1
    return jnp.asarray(rows, jnp.float32)


def test_table_holds_the_response_in_base_two_and_an_invisible_row():
    rows, x, y = _rows(), 3.5, 7.5
    table = tile_math.table(rows)
    assert table.shape == (6, 12)
    dx, dy = table[:, 0] - x, table[:, 1] - y
    exponent = table[:, 5] + table[:, 2] * dx**2 + table[:, 3] * dx * dy + table[:, 4] * dy**2
    np.testing.assert_allclose(jnp.exp2(exponent[:5]), _alpha(rows, x, y), rtol=1e-5)
    assert exponent[5] < tile_math.NEVER / 2
    np.testing.assert_array_equal(table[:5, 6:9], rows[:, 6:])


def test_gradients_of_moments_are_those_of_the_response():
    rows = _rows()
    x, y = (v.reshape(-1, 1) for v in np.meshgrid(np.arange(16) + 0.5, np.arange(16) + 0.5))
    weights = np.random.default_rng(4).normal(size=x.shape)
    expected = jax.grad(lambda rows: jnp.sum(weights * _alpha(rows, x, y)))(rows)[:, :6]
    dx, dy = rows[:, 0] - x, rows[:, 1] - y
    q = weights * _alpha(rows, x, y)
    moments = jnp.stack([jnp.sum(q * b, 0) for b in (dx, dy, dx * dx, dx * dy, dy * dy, 1.0)], 1)
    found = kernel_passes.geometry_gradients(moments, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
