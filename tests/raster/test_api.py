"""The public function: shapes, modes, colours, batch axes, transformations, errors."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import gsjax
from gsjax.core import cameras, sh
from gsjax.raster import api, arg_specs
from gsjax.raster.blend import backends

WIDTH, HEIGHT, NUM = 36, 25, 40


@pytest.fixture
def scene():
    return arg_specs.random_scene(0, NUM, WIDTH, HEIGHT, cameras=2)


@functools.cache
def _jitted(**options):
    options = dict(backend="reference") | options
    return jax.jit(lambda s: api.rasterize(**s, width=WIDTH, height=HEIGHT, **options))


def _render(scene, **options):
    return jax.tree.map(np.asarray, _jitted(**options)(scene))


@pytest.mark.slow
def test_render_modes_agree_with_one_another(scene):
    rgb, alpha, _ = _render(scene)
    depth = _render(scene, render_mode="D")[0]
    expected = _render(scene, render_mode="ED")[0]
    assert rgb.shape == (2, HEIGHT, WIDTH, 3) and alpha.shape == depth.shape == (*rgb.shape[:3], 1)
    np.testing.assert_allclose(expected, depth / np.maximum(alpha, 1e-10), rtol=1e-6)
    for mode, last in (("RGB+D", depth), ("RGB+ED", expected)):
        both = _render(scene, render_mode=mode)[0]
        np.testing.assert_allclose(both, np.concatenate([rgb, last], -1), rtol=1e-6, atol=1e-6)
    inside = alpha[..., 0] > 0.5
    assert 1.0 < expected[inside].min() and expected[inside].max() < 6.0


def test_depth_alone_needs_no_colors(scene):
    depth = _render(scene, render_mode="D")[0]
    np.testing.assert_array_equal(_render(scene | dict(colors=None), render_mode="D")[0], depth)


def test_backgrounds_show_through_but_not_in_depth(scene):
    image, alpha, _ = _render(scene, render_mode="RGB+ED")
    backgrounds = np.float32([[1, 2, 3], [4, 5, 6]])
    found = _render(scene | dict(backgrounds=backgrounds), render_mode="RGB+ED")[0]
    expected = image[..., :3] + (1 - alpha) * backgrounds[:, None, None]
    np.testing.assert_allclose(found[..., :3], expected, atol=1e-5)
    np.testing.assert_allclose(found[..., 3], image[..., 3], rtol=1e-6)


@pytest.mark.parametrize(
    "degree", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4)), 3]
)
def test_sh_colors_equal_colors_evaluated_beforehand(scene, degree):
    coefficients = np.random.default_rng(1).normal(size=(NUM, 25, 3)).astype(np.float32)
    centers = cameras.camera_centers(scene["viewmats"])
    directions = scene["means"] - centers[:, None]
    colors = jnp.maximum(sh.eval_sh(degree, directions, coefficients[None]) + 0.5, 0)
    found = _render(scene | dict(colors=coefficients), sh_degree=degree)[0]
    expected = _render(scene | dict(colors=np.asarray(colors)))[0]  # [C, N, 3]: per view
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.slow
def test_sh_coefficients_may_differ_by_view(scene):
    rng = np.random.default_rng(1)
    coefficients = rng.normal(size=(2, NUM, 4, 3)).astype(np.float32)
    coefficients[1, 5, 3, 2] = np.nan  # culled in view 1 alone
    image, _, meta = _render(scene | dict(colors=coefficients), sh_degree=1)
    assert np.isfinite(image).all() and meta["num_culled_nonfinite"].tolist() == [0, 1]
    for view in range(2):
        kept = scene | dict(colors=coefficients[view])
        expected = _render(kept, sh_degree=1)[0]
        np.testing.assert_allclose(image[view], expected[view], atol=2e-6)
        assert np.abs(image[1 - view] - expected[1 - view]).max() > 0.05


def test_a_view_matrix_with_a_scale_keeps_the_directions_of_sh(scene):
    scene["colors"] = np.random.default_rng(1).normal(size=(NUM, 4, 3)).astype(np.float32)
    scene["opacities"][:] = 0.9
    # A scale of the world: sizes, depths and centres grow alike, the picture stays.
    scaled = scene["viewmats"].copy()
    scaled[:, :3] *= 2
    found = _render(scene | dict(viewmats=scaled), sh_degree=1)[0]
    np.testing.assert_allclose(found, _render(scene, sh_degree=1)[0], atol=1e-4)


@pytest.mark.slow
def test_modes_of_depth_alone_do_not_look_at_backgrounds(scene):
    for mode in ("D", "ED"):
        found = _render(scene | dict(backgrounds=np.ones((2, 3))), render_mode=mode)[0]
        np.testing.assert_array_equal(found, _render(scene, render_mode=mode)[0])


def test_integers_and_float64_arrays_are_taken(scene):
    colors = np.random.default_rng(0).integers(0, 9, (NUM, 2))
    wide = {k: v.astype(np.float64) for k, v in scene.items()} | dict(colors=colors)
    image = _render(wide)[0]
    assert image.dtype == np.float32 and image.shape[-1] == 2


def test_probe_gradient_is_that_of_means2d(scene):
    def loss(probe, shift):
        # Moving every camera's principal point moves every centre alike.
        Ks = scene["Ks"] + shift * np.float32([[0, 0, 1], [0, 0, 0], [0, 0, 0]])
        image = api.rasterize(
            **scene | dict(Ks=Ks), width=WIDTH, height=HEIGHT, backend="reference",
            means2d_probe=probe,
        )[0]  # fmt: skip
        return jnp.sum(jnp.sin(image))

    scene["means"] *= 0.3  # well inside: the clamp at the frustum's edge moves with the point too
    zeros = np.zeros((2, NUM, 2), np.float32)
    probe, shift = jax.jit(jax.grad(loss, argnums=(0, 1)))(zeros, 0.0)
    np.testing.assert_allclose(jnp.sum(probe[..., 0]), shift, rtol=1e-4)


def test_batch_axes_and_vmap_equal_singles(scene):
    others = [arg_specs.random_scene(i, NUM, WIDTH, HEIGHT, cameras=2) for i in range(4)]
    batch = {k: np.stack([s[k] for s in others]) for k in scene}
    nested = {k: v.reshape(2, 2, *v.shape[1:]) for k, v in batch.items()}
    found = jax.tree.map(np.asarray, _jitted(backend=None)(nested))
    mapped = jax.tree.map(np.asarray, jax.jit(jax.vmap(_jitted(backend=None)))(batch))
    for i, other in enumerate(others):
        expected = _render(other, backend=None)
        one = jax.tree.map(lambda x: x.reshape(4, *x.shape[2:])[i], found)  # noqa: B023
        two = jax.tree.map(lambda x: x[i], mapped)  # noqa: B023
        for got in (one, two):
            jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), got, expected)


@pytest.mark.slow
def test_sharding_views_over_devices_changes_no_image_and_no_gradient():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices (virtual ones will do)")
    scene = arg_specs.random_scene(3, NUM, WIDTH, HEIGHT, cameras=8)
    mesh = jax.make_mesh((8,), ("view",), axis_types=(jax.sharding.AxisType.Auto,))
    views = {k: scene.pop(k) for k in ("viewmats", "Ks")}

    def image(scene, views):
        return api.rasterize(**scene, **views, width=WIDTH, height=HEIGHT)[0]

    spec = PartitionSpec("view")
    split = jax.shard_map(image, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec)

    def gradient(function):
        def loss(scene, views):
            out = function(scene, views)
            return jnp.sum(jnp.square(out)), out

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(scene, views)

    (found, image_found), (expected, image_expected) = gradient(split), gradient(image)
    np.testing.assert_allclose(image_found, image_expected, atol=1e-6)
    for f, e in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert np.linalg.norm(f - e) <= 1e-5 * np.linalg.norm(e)


def test_meta_holds_shapes_counts_and_choices(scene):
    meta = _render(scene, backend=None)[2]
    assert meta["radii"].shape == meta["means2d"].shape == (2, NUM, 2)
    assert meta["radii"].dtype == np.int32 and meta["depths"].shape == (2, NUM)
    for name in ("num_pairs", "num_passes", "overflow", "num_culled_nonfinite"):
        assert meta[name].shape == (2,) and meta[name].dtype == np.int32
    assert meta["backend"] == "xla_loop" and meta["tile_size"] == 8


def test_works_outside_jit_too(scene):
    eager = gsjax.rasterize(**scene, width=WIDTH, height=HEIGHT, backend="reference")[0]
    np.testing.assert_allclose(eager, _render(scene)[0], atol=1e-6)


def test_modules_are_found_without_an_import_of_their_own():
    program = """
import sys, gsjax
gsjax.raster, gsjax.core
assert "jax" not in sys.modules
print(gsjax.raster.topk.contributions.__name__, gsjax.raster.normals.smallest_axis_normals.__name__)
print(gsjax.core.objects.move_objects.__name__, gsjax.core.storage.__name__)
for package in gsjax.raster, gsjax.core:
    assert not hasattr(package, "panorama")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    names = ["contributions", "smallest_axis_normals", "move_objects", "gsjax.core.storage"]
    assert done.stdout.split() == names, done.stderr


def test_clamp_bounds_alpha(scene):
    scene["opacities"][:] = 1.0
    scene["scales"][:] = 1.0
    one = {k: v[:1] for k, v in scene.items()}
    assert np.isclose(_render(one, max_alpha=0.5)[1].max(), 0.5)


BAD = {
    "means": (dict(means=np.zeros((NUM, 2))), r"means: .*\[40, 2\].*\[\.\.\., N, 3\]"),
    "quats": (dict(quats=np.zeros((NUM, 3))), r"quats: .*\[40, 3\].*\[40, 4\]"),
    "scales": (dict(scales=np.zeros(NUM)), r"scales: .*\[40\].*\[40, 3\]"),
    "opacities": (dict(opacities=np.zeros((NUM, 1))), "opacities: .*squeeze"),
    "viewmats": (dict(viewmats=np.eye(4)), r"viewmats: .*viewmat\[None\]"),
    "Ks": (dict(Ks=np.eye(3)), r"Ks: .*\[3, 3\].*\[2, 3, 3\]"),
    "colors": (dict(colors=np.zeros((3, NUM, 3))), "colors: .*sh_degree"),
    "sh": (dict(sh_degree=2), r"colors: .*K >= 9"),
    "degree": (dict(sh_degree=7), "sh_degree: found 7, expected 0 to 4"),
    "no colors": (dict(colors=None), "colors: .*None"),
    "text": (dict(opacities="dim"), "opacities"),
    "backgrounds": (dict(backgrounds=np.zeros(3)), r"backgrounds: .*\[3\].*\[2, 3\]"),
    "depth background": (dict(render_mode="ED", backgrounds=np.zeros(3)), "backgrounds"),
    "sh per view": (dict(colors=np.zeros((3, NUM, 4, 3)), sh_degree=1), r"colors: .*\[2, 40, K"),
    "probe": (dict(means2d_probe=np.zeros((NUM, 2))), "means2d_probe"),
    "render_mode": (dict(render_mode="rgb"), "render_mode: .*'rgb'.*RGB.ED"),
    "rasterize_mode": (dict(rasterize_mode="x"), "rasterize_mode.*antialiased"),
    "width": (dict(width=0), "width: found 0"),
    "tile_size": (dict(tile_size=0), "tile_size"),
    "capacity": (dict(capacity=1.5), "capacity"),
    "planes": (dict(near_plane=2, far_plane=1), "near_plane"),
    "eps2d": (dict(eps2d=-1), "eps2d"),
    "max_alpha": (dict(max_alpha=1.0), "max_alpha"),
    "backend": (dict(backend="cuda"), "backend: .*'cuda'.*xla_group"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_are_refused_with_the_remedy(scene, case):
    change, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        api.rasterize(**scene | dict(width=WIDTH, height=HEIGHT) | change)


@pytest.mark.parametrize("backend", ["mosaic_gpu", "mosaic_tpu", "triton"])
def test_backends_of_later_versions_say_what_there_is(scene, backend):
    with pytest.raises(NotImplementedError, match=f"{backend}.*xla_group"):
        api.rasterize(**scene, width=WIDTH, height=HEIGHT, backend=backend)


@pytest.mark.parametrize(
    ("platform", "expected"), [("cpu", "xla_loop"), ("gpu", "xla_group"), ("tpu", "xla_group")]
)
def test_platform_chooses_the_backend_and_a_fallback_is_logged_once(
    monkeypatch, platform, expected
):
    messages = []
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(backends.logging, "info", lambda *a: messages.append(a))
    backends._report_fallback.cache_clear()
    assert [backends.choose()[0] for _ in range(2)] == [expected] * 2
    assert len(messages) == (platform != "cpu")
