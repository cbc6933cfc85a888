"""Chosen pixels equal the whole image there, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gsjax
from gsjax.raster import api, arg_specs
from tests.raster import suite

WIDTH, HEIGHT, NUM, PIXELS = 36, 25, 60, 40


def _case():
    scene = arg_specs.random_scene(5, NUM, WIDTH, HEIGHT, cameras=2, sh_degree=1, scale=0.1)
    rng = np.random.default_rng(0)
    scene["backgrounds"] = rng.uniform(size=(2, 3)).astype(np.float32)
    pixels = rng.integers(0, (WIDTH, HEIGHT), (2, PIXELS, 2))
    pixels[:, 7] = pixels[:, 3]  # one of them twice
    pixels[0, :20] = pixels[0, 0] // 16 * 16 + rng.integers(0, 9, (20, 2))  # many in a tile
    return scene, pixels, rng.normal(size=(2, PIXELS, 5)).astype(np.float32)


def _value_and_grad(function):
    scene, pixels, seeds = _case()

    def loss(scene):
        out = jnp.concatenate(function(scene, pixels), -1)
        return jnp.sum(out * seeds), out

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(scene)


@functools.cache
def _expected():
    """The chosen pixels of the whole image, and gradients."""

    def gathered(scene, pixels):
        out = api.rasterize(
            **scene, width=WIDTH, height=HEIGHT, render_mode="RGB+ED", sh_degree=1,
            backend="xla_group",
        )[:2]  # fmt: skip
        view = np.arange(2)[:, None]
        return tuple(x[view, pixels[..., 1], pixels[..., 0]] for x in out)

    return _value_and_grad(gathered)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, dict(tile_size=8, capacity=30)])
def test_pixels_equal_the_image_with_gradients(options):
    common = dict(width=WIDTH, height=HEIGHT, render_mode="RGB+ED", sh_degree=1) | options

    def chosen(scene, pixels):
        return gsjax.rasterize_pixels(**scene, **common, pixels=pixels)[:2]

    (_, expected), expected_grads = _expected()
    (_, found), grads = _value_and_grad(chosen)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    suite.assert_gradients(grads, expected_grads, 1e-5)
    assert np.std(found) > 0.1


@pytest.mark.slow
def test_work_is_that_of_the_tiles_asked():
    scene, _, _ = _case()
    scene["opacities"] = scene["opacities"] * 0.1
    common = dict(width=WIDTH, height=HEIGHT, sh_degree=1)
    one = np.full((2, 1, 2), 5)
    pairs = gsjax.rasterize_pixels(**scene, **common, pixels=one)[2]["num_pairs"]
    whole = api.rasterize(**scene, **common, backend="xla_group")[2]["num_pairs"]
    assert np.all(pairs > 0) and np.all(3 * pairs < whole)


def test_pixels_off_the_image_show_the_background_and_none_are_fine():
    scene, _, _ = _case()
    common = dict(width=WIDTH, height=HEIGHT, sh_degree=1)
    off = np.array([[-1, 3], [WIDTH, 3], [3, HEIGHT], [3, -9]])
    off = np.broadcast_to(off, (2, 4, 2))
    color, alpha, _ = gsjax.rasterize_pixels(**scene, **common, pixels=off)
    assert not np.any(alpha)
    np.testing.assert_array_equal(color, np.repeat(scene["backgrounds"][:, None], 4, 1))
    color, alpha, _ = gsjax.rasterize_pixels(**scene, **common, pixels=off[:, :0])
    assert color.shape == (2, 0, 3) and alpha.shape == (2, 0, 1)


BAD = {
    "type": (dict(pixels=np.zeros((2, 3, 2))), "pixels: found float.*floor"),
    "shape": (dict(pixels=np.zeros((3, 2), int)), r"pixels: .*\[3, 2\].*\[2, P, 2\]"),
    "option": (dict(backend="xla_loop"), "backend: found an unknown option"),
    "mode": (dict(render_mode="RGB+MD"), "render_mode: .*RGB.MD.*whole image"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_are_refused(case):
    scene, pixels, _ = _case()
    change, message = BAD[case]
    arguments = dict(width=WIDTH, height=HEIGHT, sh_degree=1, pixels=pixels) | change
    with pytest.raises(ValueError, match=message):
        gsjax.rasterize_pixels(**scene, **arguments)
