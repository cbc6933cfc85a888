"""Tile masks: what is open is unchanged, what is closed is empty and costs nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import api, arg_specs, masks
from gsjax.raster import project as projection
from gsjax.raster.blend import tiles
from tests.raster import suite

WIDTH, HEIGHT, NUM, SIZE = 36, 25, 60, 8


@functools.cache
def _function(backend, with_masks):
    def loss(scene, open_tiles, backgrounds, seeds):
        out = api.rasterize(
            **scene, width=WIDTH, height=HEIGHT, render_mode="RGB+ED", tile_size=SIZE,
            backend=backend, masks=open_tiles if with_masks else None, backgrounds=backgrounds,
        )  # fmt: skip
        return jnp.sum(out[0] * seeds[0]) + jnp.sum(out[1] * seeds[1]), out

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["xla_loop", pytest.param("xla_group", marks=pytest.mark.slow)])
def test_open_tiles_are_as_they_were_and_closed_ones_empty(backend):
    scene = arg_specs.random_scene(1, NUM, WIDTH, HEIGHT, cameras=2, scale=0.05)
    rng = np.random.default_rng(0)
    open_tiles = rng.uniform(size=(2, 4, 5)) < 0.4
    backgrounds = rng.uniform(size=(2, 3)).astype(np.float32)
    seeds = [rng.normal(size=(2, HEIGHT, WIDTH, c)).astype(np.float32) for c in (4, 1)]
    shown = np.repeat(np.repeat(open_tiles, SIZE, 1), SIZE, 2)[:, :HEIGHT, :WIDTH, None]
    kept = [s * shown for s in seeds]
    (_, plain), plain_grads = _function(backend, False)(scene, open_tiles, backgrounds, kept)
    (_, found), grads = _function(backend, True)(scene, open_tiles, backgrounds, seeds)
    closed = np.concatenate([np.broadcast_to(backgrounds[:, None, None], (*shown.shape[:3], 3)),
                             np.zeros(shown.shape)], -1)  # fmt: skip
    np.testing.assert_allclose(found[0], np.where(shown, plain[0], closed), atol=1e-6)
    np.testing.assert_allclose(found[1], np.where(shown, plain[1], 0), atol=1e-6)
    suite.assert_gradients(grads, plain_grads, 1e-5)
    assert np.all(found[2]["num_pairs"] < plain[2]["num_pairs"])
    np.testing.assert_array_equal(found[2]["radii"], plain[2]["radii"])


def test_hides_exactly_the_gaussians_without_an_open_tile():
    arrays = suite.splats_of(arg_specs.random_scene(2, NUM, WIDTH, HEIGHT), WIDTH, HEIGHT)
    splats = projection.Splats(*(jnp.asarray(arrays[k][0]) for k in projection.Splats._fields))
    open_tiles = np.random.default_rng(1).uniform(size=(4, 5)) < 0.15
    hidden = masks.hide(splats, open_tiles, WIDTH, HEIGHT, SIZE)
    low, high = tiles.tile_boxes(splats, tiles.Grid(WIDTH, HEIGHT, SIZE))
    for i in range(NUM):
        meets = open_tiles[low[i, 1] : high[i, 1], low[i, 0] : high[i, 0]].any()
        np.testing.assert_array_equal(hidden.radii[i], splats.radii[i] if meets else 0)
    shown = np.asarray(hidden.radii[:, 0] > 0)
    assert 0 < shown.sum() < np.sum(np.asarray(splats.radii[:, 0]) > 0)


def test_without_a_tile_size_masks_are_gsplats():
    scene = arg_specs.random_scene(3, NUM, WIDTH, HEIGHT)
    meta = api.rasterize(
        **scene, width=WIDTH, height=HEIGHT, masks=np.zeros((1, 2, 3), bool)
    )[2]  # fmt: skip
    assert meta["tile_size"] == 16 and meta["num_pairs"].tolist() == [0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((1, 4, 5)), "masks: found float.*bool"),
        (np.ones((1, 2, 3), bool), r"masks: .*\[1, 2, 3\].*\[1, 4, 5\].*tile_size"),
    ],
)
def test_wrong_masks_are_refused(given, message):
    scene = arg_specs.random_scene(3, NUM, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match=message):
        api.rasterize(**scene, width=WIDTH, height=HEIGHT, tile_size=SIZE, masks=given)
