"""The suite that every blending backend passes, and the comparisons it is made of.

A backend's test file holds one class: ``class TestX(suite.BackendSuite): backend = "x"``. Values
and gradients are compared with `gsjax.raster.blend.reference` under automatic differentiation. Compiling
is what costs here: most tests share one compiled end-to-end function (1,024 Gaussians, one 50 x 37
view), and what concerns only blending is tested on `blend` alone.

Tolerances: 1e-5 absolute on images is about 100 roundings of a float32 sum of order 1; 1e-4 on
gradients leaves room for sums over pixels and lists in another order.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gsjax.core import sh
from gsjax.raster import api, arg_specs, constants
from gsjax.raster import project as projection
from gsjax.raster.blend import backends, reference
from tests import compiling

IMAGE_ATOL = 1e-5
GRAD_RTOL = 1e-4
EXCUSED = 1e-4  # share of pixels that may sit beside a cut-off
WIDTH, HEIGHT = 50, 37  # no multiples of a tile
NUM, BLEND_NUM = 1024, 64
GAUSSIANS = ("means", "quats", "scales", "opacities", "colors")
REAL_FILES = (
    "splats/10k/boot_10k.splat",
    "splats/10k/tree_10k.splat",
    "splats/captures/academic_tarot_cards.splat",
)


@functools.cache
def _renderer(backend, width, height, gradients, careful=False, **options):
    # End to end: arguments of rasterize in, image, alpha and all gradients out.
    def render(inputs):
        return api.rasterize(**inputs, width=width, height=height, backend=backend, **options)

    def loss(inputs, seeds):
        out = render(inputs)
        return jnp.sum(out[0] * seeds[0]) + jnp.sum(out[1] * seeds[1]), out

    jit = functools.partial(jax.jit, compiler_options=compiling.CAREFUL if careful else None)
    if not gradients:
        return jit(render)
    return jit(lambda i, s: jax.grad(loss, has_aux=True)(i, s)[::-1])


def render(backend, scene, width, height, **options):
    """(image, alpha, meta) as numpy."""
    out = _renderer(backend, width, height, False, **options)(scene)
    return jax.tree.map(np.asarray, out)


def run(backend, scene, width=WIDTH, height=HEIGHT, **options):
    """(image, alpha, meta) and the gradients of every input, as numpy."""
    options.setdefault("render_mode", "RGB+D")
    channels = 3 + (options["render_mode"] != "RGB")
    rng = np.random.default_rng(7)
    shape = (*scene["viewmats"].shape[:-2], height, width)
    dtype = scene["means"].dtype
    seeds = tuple(rng.normal(size=(*shape, c)).astype(dtype) for c in (channels, 1))
    out = _renderer(backend, width, height, True, **options)(scene, seeds)
    return jax.tree.map(np.asarray, out)


def compare(
    backend, scene, width=WIDTH, height=HEIGHT, *, atol=IMAGE_ATOL, rtol=GRAD_RTOL, **options
):
    """Image, alpha and gradients of a backend against the reference; returns the backend's."""
    expected = run("reference", scene, width, height, **options)
    found = run(backend, scene, width, height, **options)
    assert_images(found[0], expected[0], atol)
    assert_gradients(found[1], expected[1], rtol)
    return found


def with_extras(scene, seed=5):
    """A scene with random backgrounds and a zero probe, whose gradients are checked as well."""
    views, num = scene["viewmats"].shape[0], scene["means"].shape[0]
    backgrounds = np.random.default_rng(seed).uniform(size=(views, 3)).astype(np.float32)
    return scene | dict(
        backgrounds=backgrounds, means2d_probe=np.zeros((views, num, 2), np.float32)
    )


def small_scene(seed=0):
    """The shape of scene that most tests use: SH of degree 1."""
    return with_extras(arg_specs.random_scene(seed, NUM, WIDTH, HEIGHT, sh_degree=1, scale=0.04))


# Blending alone.

_SMOOTH = ("means2d", "conics", "opacities", "features")


def splats_of(scene, width, height):
    """Arguments of `blend` by name, one image a camera; random features if there are none."""
    views = scene["viewmats"].shape[0]
    features = np.broadcast_to(scene["colors"], (views, *scene["colors"].shape))
    splats = _project(*(jnp.asarray(scene[k]) for k in _GEOMETRY), width, height)
    return {k: np.asarray(v) for k, v in splats._asdict().items()} | dict(features=features)


_GEOMETRY = ("means", "quats", "scales", "opacities", "viewmats", "Ks")


@functools.partial(jax.jit, static_argnums=(6, 7))
def _project(means, quats, scales, opacities, viewmats, Ks, width, height):
    def one(viewmat, K):
        return projection.project(means, quats, scales, opacities, viewmat, K, width, height)

    return jax.vmap(one)(viewmats, Ks)


def _blend(backend, width, height, **options):
    """blend of a backend on a dict of arguments."""
    options = dict(max_alpha=0.99, tile_size=None, capacity=None) | options

    def blend(arrays):
        splats = projection.Splats(*(arrays[k] for k in projection.Splats._fields))
        function = backends.load(backend).blend
        return function(splats, arrays["features"], width=width, height=height, **options)

    return blend


@functools.cache
def blender(backend, width, height, **options):
    """Jitted (arguments, cotangents) -> (color, transmittance, stats), gradients."""
    blend = _blend(backend, width, height, **options)

    def loss(smooth, fixed, seeds):
        out = blend(smooth | fixed)
        return jnp.sum(out[0] * seeds[0]) + jnp.sum(out[1] * seeds[1]), out

    def both(arrays, seeds):
        smooth = {k: arrays[k] for k in _SMOOTH}
        fixed = {k: v for k, v in arrays.items() if k not in _SMOOTH}
        return jax.grad(loss, has_aux=True)(smooth, fixed, seeds)[::-1]

    return jax.jit(both)


def blend_seeds(arrays, width, height, seed=9):
    """Random cotangents of color and transmittance."""
    rng = np.random.default_rng(seed)
    shape = (*arrays["depths"].shape[:-1], height, width)
    channels, dtype = arrays["features"].shape[-1], arrays["features"].dtype
    return (
        rng.normal(size=(*shape, channels)).astype(dtype),
        rng.normal(size=shape).astype(dtype),
    )


def run_blend(backend, arrays, width=WIDTH, height=HEIGHT, **options):
    """(color, transmittance, stats) and gradients, as numpy."""
    seeds = blend_seeds(arrays, width, height)
    return jax.tree.map(np.asarray, blender(backend, width, height, **options)(arrays, seeds))


# Comparisons.


def assert_images(found, expected, atol=IMAGE_ATOL):
    """No pixel of the first two arrays (image and alpha) is off."""
    for f, e in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=atol)


def relative_error(found, expected):
    """Frobenius norm of the difference over that of the expected."""
    scale = np.linalg.norm(expected)
    return np.linalg.norm(found - expected) / (scale if scale > 0 else 1.0)


def assert_gradients(found, expected, rtol=GRAD_RTOL):
    """Every input's gradient, by relative Frobenius norm."""
    assert found.keys() == expected.keys()
    errors = {k: float(relative_error(found[k], expected[k])) for k in found}
    assert all(e <= rtol for e in errors.values()), errors  # NaN fails


def wrong_pixels(found, expected, atol=IMAGE_ATOL):
    """[..., H, W] bool: pixels where any channel of image or alpha is off."""
    pairs = zip(found[:2], expected[:2], strict=True)
    return np.logical_or(*(np.any(~(np.abs(f - e) <= atol), -1) for f, e in pairs))


def near_cutoff(arrays, width, height, band=1e-4):
    """[I, H, W] bool: alpha within ``band`` (relative) of 1/255, or T of 1e-4, for any Gaussian.

    There rounding decides whether a Gaussian counts, and either image is right.
    """
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5

    def step(state, row):
        signed, near = state
        mean, conic, opacity, shown = row
        dx, dy = mean[0] - x, mean[1] - y
        sigma = 0.5 * (conic[0] * dx * dx + conic[2] * dy * dy) + conic[1] * dx * dy
        alpha = jnp.where(shown, jnp.minimum(0.99, opacity * jnp.exp(-sigma)), 0.0)
        edge = jnp.abs(alpha / constants.ALPHA_MIN - 1) < band
        left = signed * (1 - jnp.where(alpha < constants.ALPHA_MIN, 0.0, alpha))
        near |= (signed > 0) & (edge | (jnp.abs(left / constants.T_MIN - 1) < band))
        return (jnp.where(left <= constants.T_MIN, -jnp.abs(signed), left), near), None

    def one(splats):
        order = reference.depth_order(splats)
        rows = splats.means2d, splats.conics, splats.opacities, splats.radii[:, 0] > 0
        start = jnp.ones((height, width)), jnp.zeros((height, width), bool)
        return jax.lax.scan(step, start, jax.tree.map(lambda a: a[order], rows))[0][1]

    splats = projection.Splats(*(arrays[k] for k in projection.Splats._fields))
    return np.asarray(jax.jit(jax.vmap(one))(splats))


# Real scenes.


@functools.cache
def real_scenes(root, num, width, height):
    """Name -> seeded subset of ``num`` Gaussians, the same for all, so that nothing recompiles."""
    scenes = {"garden": _garden(root, num, width, height)}
    for file in REAL_FILES:
        scene = arg_specs.read_splat(root / file)
        pick = np.random.default_rng(1).choice(len(scene["means"]), num, replace=False)
        viewmat, K = arg_specs.look_camera(scene["means"], width, height)
        scenes[file] = {k: v[pick] for k, v in scene.items()}
        scenes[file] |= dict(viewmats=viewmat[None], Ks=K[None])
    return scenes


def _garden(root, num, width, height):
    """Points with shapes drawn as gsplat's own tests draw them; the first camera, scaled down."""
    with np.load(root / "scenes/garden_3view/test_garden.npz") as data:
        points, colors, viewmat, K = (data[k] for k in ("means3d", "colors", "viewmats", "Ks"))
        size = float(data["width"]), float(data["height"])
    rng = np.random.default_rng(2)
    pick = rng.choice(np.flatnonzero(np.all(np.abs(points) < 2, -1)), num, replace=False)
    scene = dict(
        means=points[pick],
        quats=rng.normal(size=(num, 4)),
        scales=rng.uniform(1e-4, 0.02, (num, 3)),
        opacities=rng.uniform(size=num),
        colors=colors[pick] / 255,
        viewmats=viewmat[:1],
        Ks=K[:1] * np.array([width / size[0], height / size[1], 1.0])[:, None],
    )
    return {k: np.asarray(v, np.float32) for k, v in scene.items()}


def _crop(scene):
    """The NUM Gaussians around a random one, framed, coloured by SH that vary with direction."""
    rng = np.random.default_rng(3)
    means = scene["means"]
    distance = np.linalg.norm(means - means[rng.integers(len(means))], axis=-1)
    crop = {k: scene[k][np.argsort(distance)[:NUM]] for k in GAUSSIANS}
    viewmat, K = arg_specs.look_camera(crop["means"], WIDTH, HEIGHT)
    colors = 0.3 * rng.normal(size=(NUM, 4, 3)).astype(np.float32)
    colors[:, 0] = sh.rgb_to_sh0(crop["colors"])
    return with_extras(crop | dict(colors=colors, viewmats=viewmat[None], Ks=K[None]))


class BackendSuite:
    """Tests of one backend; subclasses set ``backend``."""

    backend: str

    def compare(self, scene, **kwargs):
        return compare(self.backend, scene, sh_degree=1, **kwargs)

    def run(self, scene):
        return run(self.backend, scene, sh_degree=1)

    # Values and gradients ---------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(3))
    def test_random_scenes_match_reference(self, seed):
        (_, alpha, meta), grads = self.compare(small_scene(seed))
        assert 0.1 < alpha.mean() < 0.99 and meta["overflow"].tolist() == [0]
        assert all(np.linalg.norm(g) > 0 for g in grads.values())

    def test_the_same_bits_every_time(self):
        first, second = (jax.tree.leaves(self.run(small_scene(0))) for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    def test_real_scenes_match_reference(self, gsjax_data):
        width, height, pixels, excused = 96, 64, 0, 0
        for name, scene in real_scenes(gsjax_data, 10_000, width, height).items():
            expected, found = (
                render(b, scene, width, height, render_mode="RGB+D")
                for b in ("reference", self.backend)
            )
            assert expected[1].mean() > 0.05, f"{name}: nothing to see"
            wrong = wrong_pixels(found, expected)
            if wrong.any():
                inside = wrong & ~near_cutoff(splats_of(scene, width, height), width, height)
                assert not inside.any(), f"{name}: {inside.sum()} pixels"
            pixels, excused = pixels + wrong.size, excused + int(wrong.sum())
        assert excused <= EXCUSED * pixels, f"{excused} of {pixels} pixels beside a cut-off"

    def test_gradients_of_real_crops_match_reference(self, gsjax_data):
        for scene in real_scenes(gsjax_data, 10_000, 96, 64).values():
            self.compare(_crop(scene))

    def test_32_channels_match_reference(self):
        scene = arg_specs.random_scene(4, 80, 40, 31, channels=32)
        arrays = splats_of(scene, 40, 31)
        expected = run_blend("reference", arrays, 40, 31)
        found = run_blend(self.backend, arrays, 40, 31)
        assert_images(found[0], expected[0])
        assert_gradients(found[1], expected[1])

    def test_float64_finite_differences(self):
        with jax.enable_x64(True):
            scene = arg_specs.random_scene(8, 12, 20, 17, scale=0.3)
            arrays = splats_of({k: v.astype(np.float64) for k, v in scene.items()}, 20, 17)
            seeds = blend_seeds(arrays, 20, 17)
            function = blender(self.backend, 20, 17)
            (color, _, _), grads = function(arrays, seeds)
            assert color.dtype == np.float64

            def loss(arrays):
                color, transmittance, _ = function(arrays, seeds)[0]
                return float(np.sum(color * seeds[0]) + np.sum(transmittance * seeds[1]))

            rng, h = np.random.default_rng(0), 1e-6
            for name, grad in grads.items():
                step = h * rng.normal(size=grad.shape)
                ends = [loss(arrays | {name: arrays[name] + s * step}) for s in (1, -1)]
                slope = np.sum(np.asarray(grad) * step)
                np.testing.assert_allclose((ends[0] - ends[1]) / 2, slope, rtol=1e-6, atol=1e-12)

    # Degenerate and extreme scenes ------------------------------------------------------------

    def test_no_gaussians_show_the_background(self):
        scene = small_scene()
        scene = scene | {k: scene[k][:0] for k in GAUSSIANS}
        scene["means2d_probe"] = np.zeros((1, 0, 2), np.float32)
        image, alpha, meta = render(self.backend, scene, WIDTH, HEIGHT, sh_degree=1)
        assert np.all(alpha == 0) and meta["num_pairs"].tolist() == [0]
        np.testing.assert_array_equal(image, np.broadcast_to(scene["backgrounds"][0], image.shape))

    def test_all_culled_show_the_background_and_get_no_gradient(self):
        scene = small_scene()
        scene["viewmats"][0, 2, 3] -= 100
        (image, alpha, meta), grads = self.run(scene)
        assert np.all(alpha == 0) and np.all(meta["radii"] == 0)
        background = np.broadcast_to(scene["backgrounds"][0], (*image.shape[:-1], 3))
        np.testing.assert_array_equal(image[..., :3], background)
        assert all(np.all(g == 0) for k, g in grads.items() if k != "backgrounds")

    def test_one_gaussian_over_the_whole_image(self):
        scene = small_scene()
        scene["opacities"][1:] = 0
        scene["means"][0], scene["scales"][0] = 0, (2, 3, 4)
        (_, alpha, _), _ = self.compare(scene)
        assert alpha.min() > 0.8 * min(scene["opacities"][0], 0.99)

    def test_needles(self):
        scene = small_scene(11)
        scene["scales"][:] = 0.2, 0.002, 0.002  # 9 pixels by half a pixel
        self.compare(scene)

    def test_extreme_needles(self):
        scene = small_scene(11)
        scene["scales"][:] = 2.0, 0.002, 0.002
        # The terms of sigma reach 1e4 and cancel: float32 itself knows alpha to some 1e-4 here.
        self.compare(scene, atol=3e-4, rtol=3e-3, careful=True)

    def test_opaque_stack_stops_early(self):
        scene = small_scene(12)
        scene["scales"] *= 4
        scene["opacities"][:] = 1.0
        (_, alpha, _), _ = self.compare(scene)
        assert alpha.max() > 0.999

    def test_equal_depths_are_taken_in_the_order_given(self):
        scene = small_scene(13)
        scene["viewmats"] = np.eye(4, dtype=np.float32)[None].copy()
        scene["viewmats"][0, 2, 3] = 3.0
        scene["means"][:, 2] = 0.25
        (_, _, meta), _ = self.compare(scene)
        assert len(np.unique(meta["depths"][meta["radii"][..., 0] > 0])) == 1

    def test_permuted_input_gives_the_same_image(self):
        scene = small_scene(14)
        order = np.random.default_rng(0).permutation(NUM)
        moved = scene | {k: scene[k][order] for k in GAUSSIANS}
        (expected, grads), (found, moved_grads) = self.run(scene), self.run(moved)
        assert_images(found, expected, 1e-6)
        grads, moved_grads = ({k: g[k] for k in GAUSSIANS} for g in (grads, moved_grads))
        assert_gradients(moved_grads, {k: g[order] for k, g in grads.items()}, 1e-6)

    def test_padding_with_zero_opacity_changes_nothing(self):
        scene = small_scene(15)
        scene["opacities"][700:] = 0
        other = {k: v.copy() for k, v in scene.items()}
        for name in ("means", "scales", "colors"):
            other[name][700:] = np.random.default_rng(0).normal(size=other[name][700:].shape)
        (expected, grads), (found, other_grads) = self.run(scene), self.run(other)
        assert_images(found, expected, 0)
        for name in GAUSSIANS:
            np.testing.assert_array_equal(other_grads[name][700:], 0)
            np.testing.assert_array_equal(other_grads[name][:700], grads[name][:700])

    def test_nonfinite_gaussians_are_culled_counted_and_get_no_gradient(self):
        scene = small_scene(16)
        scene["opacities"][:6] = 0
        bad = {k: v.copy() for k, v in scene.items()}
        bad["means"][0, 1] = np.nan
        bad["quats"][1, 2] = np.inf
        bad["scales"][2] = np.nan
        bad["opacities"][3] = np.nan
        bad["colors"][4, 0] = np.inf
        bad["means"][5] = -np.inf
        (expected, grads), (found, bad_grads) = self.run(scene), self.run(bad)
        assert found[2]["num_culled_nonfinite"].tolist() == [6]
        assert_images(found, expected, 0)
        assert_gradients(bad_grads, grads, 1e-6)
        for name in GAUSSIANS:
            np.testing.assert_array_equal(bad_grads[name][:6], 0)

    # Passes -----------------------------------------------------------------------------------

    def test_many_passes_equal_one(self):
        scene = arg_specs.random_scene(17, BLEND_NUM, WIDTH, HEIGHT, scale=0.15)
        arrays = splats_of(scene, WIDTH, HEIGHT)
        one, many = run_blend(self.backend, arrays), run_blend(self.backend, arrays, capacity=9)
        assert one[0][2]["num_passes"].tolist() == [1] and many[0][2]["num_passes"][0] > 10
        assert many[0][2]["overflow"].tolist() == [0]
        assert_images(many[0], one[0], 1e-7)
        assert_gradients(many[1], one[1], 1e-6)

    def test_100k_gaussians_through_a_tiny_buffer(self):
        scene = arg_specs.random_scene(18, 100_000, 64, 48, scale=0.004)
        scene["opacities"] *= 0.05  # so that no pixel closes and every pair counts
        arrays = splats_of(scene, 64, 48)
        one, tiny = (
            jax.tree.map(np.asarray, jax.jit(_blend(self.backend, 64, 48, capacity=c))(arrays))
            for c in (2**18, 8192)
        )
        assert one[2]["num_passes"].tolist() == [1] and tiny[2]["num_passes"][0] > 5
        assert tiny[2]["overflow"].tolist() == [0]
        assert tiny[2]["num_pairs"].tolist() == one[2]["num_pairs"].tolist()
        assert_images(tiny, one, 1e-6)

    # Transformations --------------------------------------------------------------------------

    def test_image_axis_equals_a_loop_of_singles(self):
        arrays = _three_images()
        self._check_against_singles(arrays, *run_blend(self.backend, arrays))

    def test_vmap_equals_a_loop_of_singles(self):
        arrays = _three_images()
        seeds = blend_seeds(arrays, WIDTH, HEIGHT)
        split, back = (lambda x: x[:, None]), (lambda x: np.asarray(x)[:, 0])
        function = jax.jit(jax.vmap(blender(self.backend, WIDTH, HEIGHT)))
        mapped = function(*jax.tree.map(split, (arrays, seeds)))
        self._check_against_singles(arrays, *jax.tree.map(back, mapped))

    def _check_against_singles(self, arrays, out, grads):
        seeds = blend_seeds(arrays, WIDTH, HEIGHT)
        single = blender(self.backend, WIDTH, HEIGHT)
        for i in range(len(arrays["depths"])):
            one = jax.tree.map(lambda x: x[i : i + 1], (arrays, seeds))  # noqa: B023
            expected, expected_grads = jax.tree.map(np.asarray, single(*one))
            assert_images([o[i : i + 1] for o in out[:2]], expected, 1e-6)
            assert_gradients({k: g[i : i + 1] for k, g in grads.items()}, expected_grads, 1e-6)
            for name, value in expected[2].items():
                assert out[2][name][i] == value[0], name

    def test_eight_devices_equal_one(self):
        if jax.device_count() < 8:
            pytest.skip("needs 8 devices (virtual ones will do)")
        scene = arg_specs.random_scene(22, BLEND_NUM, WIDTH, HEIGHT, cameras=8)
        arrays = splats_of(scene, WIDTH, HEIGHT)
        mesh = jax.make_mesh((8,), ("view",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = PartitionSpec("view")
        seeds = blend_seeds(arrays, WIDTH, HEIGHT)
        function = jax.shard_map(
            blender(self.backend, WIDTH, HEIGHT), mesh=mesh, in_specs=spec, out_specs=spec
        )
        out, grads = jax.tree.map(np.asarray, jax.jit(function)(arrays, seeds))
        self._check_against_singles(arrays, out, grads)


def _three_images():
    """Images of unlike length, one of them empty of visible Gaussians."""
    scene = arg_specs.random_scene(20, BLEND_NUM, WIDTH, HEIGHT, cameras=3, scale=0.15)
    arrays = splats_of(scene, WIDTH, HEIGHT)
    arrays["radii"] = arrays["radii"].copy()
    arrays["radii"][1] = 0
    arrays["radii"][2, ::2] = 0
    return arrays
