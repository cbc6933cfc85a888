"""Inputs of other kinds than the plain ones: 16-bit arrays, covariances, lenses, settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import api, arg_specs, arguments
from gsjax.raster import project as projection

WIDTH, HEIGHT, NUM = 36, 25, 40


@functools.cache
def _function(**options):
    def loss(scene):
        image, alpha, _ = api.rasterize(
            **scene, width=WIDTH, height=HEIGHT, backend="xla_loop", **options
        )
        return jnp.sum(jnp.sin(3 * image)) + jnp.sum(alpha), image

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_inputs_equal_their_widened_copies_and_get_16_bit_gradients(dtype):
    scene = arg_specs.random_scene(0, NUM, WIDTH, HEIGHT)
    names = ("means", "quats", "scales", "opacities", "colors")
    narrow = {k: jnp.asarray(v).astype(dtype) if k in names else v for k, v in scene.items()}
    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), narrow)
    (_, image), grads = _function()(narrow)
    (_, expected), expected_grads = _function()(wide)
    assert image.dtype == jnp.float32
    np.testing.assert_allclose(image, expected, atol=1e-6)
    for name in names:
        assert grads[name].dtype == dtype
        exact = np.asarray(expected_grads[name])
        # One rounding to 16 bits, and float32 sums that the compiler may fuse otherwise.
        limit = 2**-8 * np.abs(exact) + 1e-5 * np.abs(exact).max()
        assert np.all(np.abs(np.float32(grads[name]) - exact) <= limit), name
    assert grads["viewmats"].dtype == jnp.float32


def test_covariances_render_as_their_quaternions_and_scales():
    scene = arg_specs.random_scene(1, NUM, WIDTH, HEIGHT)
    axes = projection._axes(jnp.asarray(scene["quats"]), jnp.asarray(scene["scales"]))
    m = jnp.stack([jnp.stack(row, -1) for row in axes], -2)
    covars = jnp.einsum("nij,nkj->nik", m, m)
    bad = covars.at[3, 1, 1].set(jnp.nan)
    scene["opacities"][3] = 0
    _, expected = _function()(scene)[0]
    swapped = scene | dict(quats=None, scales=None, covars=bad)
    (_, found), grads = _function()(swapped)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.all(np.isfinite(grads["covars"])) and not np.any(grads["covars"][3])
    assert np.linalg.norm(grads["covars"]) > 0


@pytest.mark.slow
def test_lenses_differ_by_camera_and_get_gradients():
    scene = arg_specs.random_scene(2, NUM, WIDTH, HEIGHT, cameras=2)
    scene["radial_coeffs"] = np.float32([[0, 0], [-0.2, 0.05]])
    scene["tangential_coeffs"] = np.float32([[0, 0], [0.01, 0.02]])
    (_, image), grads = _function()(scene)
    plain = {k: v for k, v in scene.items() if not k.endswith("coeffs")}
    _, ideal = _function()(plain)[0]
    np.testing.assert_allclose(image[0], ideal[0], atol=1e-4)
    assert np.max(np.abs(image[1] - ideal[1])) > 0.02
    for name in ("radial_coeffs", "tangential_coeffs"):
        assert np.all(np.linalg.norm(grads[name], axis=-1) > 0)


def test_equal_settings_are_one_compiled_program():
    scene = arg_specs.random_scene(0, NUM, WIDTH, HEIGHT)
    settings = [
        arguments.prepare(scene, dict(width=w, height=HEIGHT, radius_clip=c, tile_size=8))[0]
        for w, c in ((WIDTH, 0), (np.int64(WIDTH), np.float32(0)))
    ]
    assert settings[0] == settings[1] and hash(settings[0]) == hash(settings[1])


def test_integers_of_other_libraries_are_taken():
    scene = arg_specs.random_scene(0, NUM, WIDTH, HEIGHT, sh_degree=1)
    options = dict(width=jnp.int32(WIDTH), height=np.int64(HEIGHT), sh_degree=jnp.int32(1))
    settings = arguments.prepare(scene, options | dict(tile_size=np.uint8(8)))[0]
    assert (settings.width, settings.height, settings.sh_degree) == (WIDTH, HEIGHT, 1)
    assert all(type(x) is int for x in (*settings[:3], settings.tile_size))


STATIC = (
    "width", "height", "sh_degree", "tile_size", "capacity", "near_plane", "far_plane",
    "radius_clip", "eps2d", "max_alpha",
)  # fmt: skip


@pytest.mark.parametrize("name", STATIC)
def test_traced_static_arguments_are_named(name):
    scene = arg_specs.random_scene(0, NUM, WIDTH, HEIGHT, sh_degree=1)

    def render(value):
        options = dict(width=WIDTH, height=HEIGHT, sh_degree=1) | {name: value}
        return api.rasterize(**scene, **options)

    with pytest.raises(ValueError, match=f"^{name}: found a traced value, expected .*static"):
        jax.eval_shape(render, 1)


BAD = {
    "degree of type float": (dict(sh_degree=1.0), "sh_degree: found 1.0, expected an integer"),
    "degree of type bool": (dict(sh_degree=True), "sh_degree: found True, expected an integer"),
    "width of type float": (dict(width=36.0), "width: found 36.0, expected an integer"),
    "no width": (dict(width=None), "width: found None, expected an integer"),
    "no eps2d": (dict(eps2d=None), "eps2d: found None, expected one real number"),
    "text": (dict(max_alpha="0.99"), "max_alpha: found '0.99', expected one real number"),
    "two": (dict(near_plane=np.ones(2)), r"near_plane: found array\(.*one real number"),
    "both": (dict(covars=np.zeros((NUM, 3, 3))), "found quats, scales, covars.*covars alone"),
    "neither": (dict(quats=None, scales=None), "found none of them"),
    "half": (dict(scales=None), "found quats; expected quats and scales"),
    "covars": (
        dict(quats=None, scales=None, covars=np.zeros((NUM, 6))), r"covars: .*\[40, 3, 3\]"
    ),
    "model": (dict(camera_model="ftheta"), "camera_model: .*'ftheta'.*fisheye"),
    "radial": (dict(radial_coeffs=np.zeros(6)), r"radial_coeffs: .*\[6\].*\[1, 6\]"),
    "tangential": (dict(tangential_coeffs=np.zeros((1, 3))), "tangential_coeffs: .*p1, p2"),
    "radius_clip": (dict(radius_clip=-1), "radius_clip"),
    "probe": (dict(absgrad_probe=np.zeros((NUM, 2))), "absgrad_probe: .*zeros"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_are_refused_with_the_remedy(case):
    scene = arg_specs.random_scene(0, NUM, WIDTH, HEIGHT)
    change, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        api.rasterize(**scene | dict(width=WIDTH, height=HEIGHT) | change)
