"""Depth order and tile lists against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import constants
from gsjax.raster import project as projection
from gsjax.raster.blend import xla_loop
from gsjax.raster.blend import xla_loop_bin as binning

WIDTH, HEIGHT, NUM = 70, 45, 120


def _splats(seed, major, ratio, opacity_low=0.004):
    """Ellipses with standard deviations major and major / ratio pixels, in every direction."""
    rng = np.random.default_rng(seed)
    angle, major = rng.uniform(0, np.pi, NUM), major * np.exp(0.5 * rng.normal(size=NUM))
    axis = np.stack([np.cos(angle), np.sin(angle)], -1)
    across = np.stack([-axis[:, 1], axis[:, 0]], -1)
    minor = np.maximum(major / ratio, 0.55)  # the low-pass of the projection
    inverse = np.einsum("ni,nj->nij", axis, axis) / major[:, None, None] ** 2
    inverse += np.einsum("ni,nj->nij", across, across) / minor[:, None, None] ** 2
    conics = np.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)
    depths = rng.uniform(1, 2, NUM)
    depths[::5] = 1.5  # ties
    radii = np.full((NUM, 2), 1000)
    radii[::17] = 0  # culled
    # Centres on tile borders and pixel centres among them.
    means = rng.uniform(-10, [WIDTH + 10, HEIGHT + 10], (NUM, 2))
    means[::3] = np.round(means[::3] * 2) / 2
    opacities = np.exp(rng.uniform(np.log(opacity_low), 0, NUM))
    arrays = (means, conics, opacities, depths)
    return projection.Splats(*(jnp.asarray(a, jnp.float32) for a in arrays), jnp.asarray(radii))


@jax.jit
def _lists(splats):
    return xla_loop.tile_lists(splats, width=WIDTH, height=HEIGHT, capacity=NUM * 54)


def _responses(splats):
    """opacity exp(-sigma) [N, H, W] in float64."""
    means, conics, opacities = (np.asarray(x, np.float64) for x in splats[:3])
    dx = means[:, None, None, 0] - (np.arange(WIDTH) + 0.5)
    dy = means[:, None, None, 1] - (np.arange(HEIGHT)[:, None] + 0.5)
    a, b, c = (conics[:, k, None, None] for k in range(3))
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    return opacities[:, None, None] * np.exp(-np.maximum(sigma, 0))


@pytest.mark.parametrize("major, ratio", [(0.6, 1), (4, 2), (60, 1), (3000, 1), (40, 70)])
def test_lists_hold_every_pixel_above_the_threshold_in_depth_order(major, ratio):
    splats = _splats(1, major, ratio)
    lists, order, num = jax.tree.map(np.asarray, _lists(splats))
    visible = np.asarray(splats.radii[:, 0] > 0) & (np.asarray(splats.opacities) >= 1 / 255)
    response = np.where(visible[:, None, None], _responses(splats), 0.0)
    size, grid = 8, binning.Grid(WIDTH, HEIGHT, 8)
    needed = near = 0
    for t in range(grid.num_tiles):
        x, y = t % grid.across * size, t // grid.across * size
        listed = order[lists.rows[lists.offsets[t] : lists.offsets[t + 1]]]
        depths = np.asarray(splats.depths)[listed]
        expected = np.lexsort((listed, depths))
        np.testing.assert_array_equal(expected, np.arange(len(listed)))
        peak = response[:, y : y + size, x : x + size].max((1, 2))
        missing = set(np.flatnonzero(peak >= constants.ALPHA_MIN * (1 - 1e-5))) - set(listed)
        assert not missing, (t, missing)
        needed += np.sum(peak >= constants.ALPHA_MIN)
        near += len(listed)
    assert near == num
    # Few tiles without such a pixel: the margins are thin, and so are needles between pixels.
    assert needed <= num <= 1.25 * needed + 20


def test_order_is_that_of_a_stable_sort_of_float32_depths():
    rng = np.random.default_rng(0)
    depths = np.exp(rng.uniform(-20, 20, 3000)).astype(np.float32)
    depths[::3], depths[1::10] = depths[0], -depths[1::10]
    indices = rng.permutation(3000).astype(np.int32)
    num = 2900
    found = jax.jit(binning.depth_order)(depths, indices, jnp.int32(num))[:num]
    expected = indices[:num][np.argsort(depths[indices[:num]], kind="stable")]
    np.testing.assert_array_equal(found, expected)


def test_degenerate_conics_cover_the_image_instead_of_vanishing():
    conics = jnp.array([[0.0, 0.0, 1.0], [1e-38, 0.0, 1e-38], [1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    splats = projection.Splats(
        jnp.full((4, 2), 20.0), conics, jnp.ones(4), jnp.ones(4), jnp.ones((4, 2), jnp.int32)
    )
    grid = binning.Grid(WIDTH, HEIGHT, 8)
    lists, order, num = xla_loop.tile_lists(splats, width=WIDTH, height=HEIGHT)
    listed = np.asarray(order[lists.rows[:num]])
    counts = np.bincount(listed, minlength=4)
    assert counts[0] == counts[1] == grid.num_tiles
    assert grid.down <= counts[2] < grid.num_tiles  # a strip along the diagonal
    assert counts[3] == 1
