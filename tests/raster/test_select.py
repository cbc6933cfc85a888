"""Selected Gaussians (first, median, largest k) against loops in numpy; selected depths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import api, arg_specs, select, topk
from gsjax.raster import project as projection
from tests.raster import pixel_lists, suite

WIDTH, HEIGHT, NUM, K = 36, 25, 40, 5
OPTIONS = dict(width=WIDTH, height=HEIGHT, max_alpha=0.99, tile_size=8)


@functools.cache
def _case():
    scene = arg_specs.random_scene(3, NUM, WIDTH, HEIGHT, cameras=2, scale=0.15)
    scene["opacities"] **= 0.5  # so that many pixels get past the median
    return scene, suite.splats_of(scene, WIDTH, HEIGHT)


def _splats(arrays):
    return projection.Splats(*(jnp.asarray(arrays[k]) for k in projection.Splats._fields))


def _first(order, test):
    """[I, H, W] the first Gaussian in order for which test [I, N, H, W]."""
    chosen = np.take_along_axis(order[:, :, None, None], np.argmax(test, 1)[:, None], 1)[:, 0]
    return np.where(np.any(test, 1), chosen, -1)


@pytest.mark.parametrize("capacity", [pytest.param(None, marks=pytest.mark.slow), 30])
def test_first_and_median_equal_loops(capacity):
    arrays = _case()[1]
    order, weights, left = pixel_lists.weights(arrays, WIDTH, HEIGHT)
    function = jax.jit(
        lambda s: [f(s, **OPTIONS, capacity=capacity) for f in (select.first, select.median)]
    )
    first, median = function(_splats(arrays))
    np.testing.assert_array_equal(first, _first(order, weights > 0))
    expected = _first(order, (weights > 0) & (left <= 0.5))
    np.testing.assert_array_equal(median, expected)
    assert 0.05 < np.mean(expected < 0) < 0.95 and np.any(expected != first)


def test_largest_k_equal_loops():
    arrays = _case()[1]
    order, weights, _ = pixel_lists.weights(arrays, WIDTH, HEIGHT)
    ids, found = jax.jit(lambda s: topk.top_k(s, K, **OPTIONS))(_splats(arrays))
    rank = np.argsort(-weights, 1, kind="stable")[:, : K + 1]  # ties: nearer first
    expected = np.moveaxis(np.take_along_axis(weights, rank, 1), 1, -1)
    best = np.moveaxis(np.take_along_axis(order[:, :, None, None], rank, 1), 1, -1)
    best = np.where(expected > 0, best, -1)
    np.testing.assert_allclose(found, expected[..., :K], atol=1e-6)
    # Rounding may swap weights that are as good as equal.
    gaps = np.pad(
        expected[..., :-1] - expected[..., 1:], [(0, 0)] * 3 + [(1, 0)], constant_values=1
    )
    clear = (expected[..., :K] == 0) | ((gaps[..., :K] > 1e-6) & (gaps[..., 1:] > 1e-6))
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(ids[clear], best[..., :K][clear])
    assert np.any(ids[..., -1] < 0) and np.any(ids[..., -1] >= 0)


def test_contributions_are_what_the_image_is_made_of():
    scene = _case()[0]
    geometry = {k: v for k, v in scene.items() if k != "colors"}
    ids, weights = topk.contributions(**geometry, width=WIDTH, height=HEIGHT, k=NUM)
    image, alpha, _ = api.rasterize(**scene, width=WIDTH, height=HEIGHT)
    colors = np.where(ids[..., None] >= 0, scene["colors"][ids], 0)
    np.testing.assert_allclose(np.sum(weights[..., None] * colors, -2), image, atol=1e-5)
    np.testing.assert_allclose(np.sum(weights, -1, keepdims=True), alpha, atol=1e-5)
    assert ids.dtype == np.int32 and np.all(np.diff(weights, axis=-1) <= 0)


@pytest.mark.slow
def test_vmap_of_scenes_equals_the_scene_axis():
    scene, arrays = _case()
    splats = _splats(arrays)
    expected = select.median(splats, **OPTIONS)
    mapped = jax.vmap(lambda s: select.median(s, **OPTIONS))(
        jax.tree.map(lambda x: x[:, None], splats)
    )
    np.testing.assert_array_equal(mapped[:, 0], expected)


def test_no_gaussians_no_selection():
    none = jax.tree.map(lambda x: x[:, :0], _splats(_case()[1]))
    assert np.all(select.first(none, **OPTIONS) == -1)
    ids, weights = topk.top_k(none, 2, **OPTIONS)
    assert ids.shape == (2, HEIGHT, WIDTH, 2) and np.all(ids == -1) and not np.any(weights)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [pytest.param("MD", marks=pytest.mark.slow), "FD"])
def test_selected_depths_and_their_gradients(mode):
    scene = _case()[0]
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=(2, HEIGHT, WIDTH, 4))
    with jax.enable_x64(True):
        scene = {k: jnp.asarray(v, jnp.float64) for k, v in scene.items()}

        @functools.partial(jax.jit, static_argnums=1)
        def value_and_grad(scene, mode):
            def loss(scene):
                image, _, meta = api.rasterize(
                    **scene, width=WIDTH, height=HEIGHT, render_mode=mode, backend="reference"
                )
                return jnp.sum(image * seeds[..., -image.shape[-1] :]), (image, meta)

            return jax.value_and_grad(loss, has_aux=True)(scene)

        (_, (image, meta)), grads = value_and_grad(scene, f"RGB+{mode}")
        arrays = suite.splats_of(scene, WIDTH, HEIGHT)
        order, weights, left = pixel_lists.weights(arrays, WIDTH, HEIGHT)
        chosen = _first(order, (weights > 0) & ((left <= 0.5) | (mode == "FD")))
        depths = np.stack([np.asarray(meta["depths"])[i][chosen[i]] for i in range(2)])
        np.testing.assert_allclose(image[..., 3], np.where(chosen >= 0, depths, 0), rtol=1e-12)
        for name in ("means", "viewmats", "colors"):
            step = 1e-7 * rng.normal(size=scene[name].shape)
            ends = [
                value_and_grad(scene | {name: scene[name] + s * step}, f"RGB+{mode}")[0][0]
                for s in (1, -1)
            ]
            slope = np.sum(grads[name] * step)
            np.testing.assert_allclose((ends[0] - ends[1]) / 2, slope, rtol=1e-5)
    alone = api.rasterize(**_case()[0] | dict(colors=None), width=WIDTH, height=HEIGHT,
                          render_mode=mode)[0]  # fmt: skip
    assert alone.shape == (2, HEIGHT, WIDTH, 1)
    agree = np.isclose(alone[..., 0], image[..., 3], rtol=1e-5)
    assert agree.mean() > 0.999  # float32 against float64, beside a threshold


def test_wrong_arguments_are_refused():
    scene = {k: v for k, v in _case()[0].items() if k != "colors"}
    size = dict(width=WIDTH, height=HEIGHT)
    with pytest.raises(ValueError, match="k: found 0"):
        topk.contributions(**scene, **size, k=0)
    with pytest.raises(ValueError, match="backgrounds: found an unknown option.*radius_clip"):
        topk.contributions(**scene, **size, k=1, backgrounds=None)
