"""Bands around depth jumps, by hand and against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.metrics import boundaries

_band = jax.jit(boundaries.band, static_argnames=("radius", "relative"))
_split_psnr = jax.jit(boundaries.split_psnr, static_argnames="radius")
_split_abs_rel = jax.jit(boundaries.split_abs_rel, static_argnames="radius")


def _slow_band(depths, radius, relative):
    height, width = depths.shape
    marked = np.zeros(depths.shape, bool)
    for i in range(height):
        for j in range(width):
            for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= i + di < height and 0 <= j + dj < width:
                    a, b = depths[i, j], depths[i + di, j + dj]
                    marked[i, j] |= min(a, b) > 0 and abs(a - b) > relative * min(a, b)
    rows, columns = np.nonzero(marked)
    near = np.zeros(depths.shape, bool)
    for i, j in zip(rows, columns, strict=True):
        near[max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1] = True
    return near


@pytest.mark.parametrize("radius", [0, 2])
def test_the_band_is_that_of_the_loop(radius):
    rng = np.random.default_rng(0)
    depths = np.ones((2, 14, 17), np.float32)
    depths[0, 4:9, 6:] = 2.0
    depths[1] += 0.03 * rng.normal(size=(14, 17))
    depths[1, 3, 3], depths[0, 0, 16] = 0.0, 0.0
    found = _band(jnp.asarray(depths), radius=radius, relative=0.1)
    expected = np.stack([_slow_band(d, radius, 0.1) for d in depths])
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(found, expected)


def test_a_jump_is_relative_and_unknown_depth_makes_none():
    row = jnp.asarray([[1.0, 1.09, 1.2, 0.0, 5.0]])
    assert boundaries.jumps(row, relative=0.1)[0].tolist() == [False, True, True, False, False]
    far = boundaries.jumps(10 * row, relative=0.1)
    np.testing.assert_array_equal(far, boundaries.jumps(row, relative=0.1))


def test_errors_are_told_apart_by_side():
    depths = jnp.where(jnp.arange(10) < 5, 1.0, 2.0) * jnp.ones((8, 1))
    depths = depths.at[0].set(0.0)  # unknown: on neither side
    near = _band(depths, radius=1)
    target = jnp.full((8, 10, 3), 0.5)
    pred = target + jnp.where(near, 0.1, 0.01)[..., None]
    pred = pred.at[0].set(1.0)
    found = _split_psnr(pred, target, depths, radius=1)
    assert found["band"] == pytest.approx(20, abs=1e-3)
    assert found["rest"] == pytest.approx(40, abs=1e-2)
    found = _split_abs_rel(
        depths * jnp.where(near, 1.5, 1.1), depths, radius=1
    )  # fmt: skip
    assert found["band"] == pytest.approx(0.5, rel=1e-5)
    assert found["rest"] == pytest.approx(0.1, rel=1e-5)


def test_a_picture_without_jumps_has_no_band():
    flat = jnp.ones((2, 4, 4))
    picture = jnp.zeros((2, 4, 4, 3))
    found = _split_psnr(picture, picture, flat)
    assert np.isnan(found["band"]).all() and (found["rest"] == 100).all()


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="radius: expected 0 pixels or more, found -1"):
        boundaries.band(jnp.ones((2, 2)), radius=-1)
    with pytest.raises(ValueError, match="relative: expected a share above 0, found 0"):
        boundaries.band(jnp.ones((2, 2)), relative=0)
