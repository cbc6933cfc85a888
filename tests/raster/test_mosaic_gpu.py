"""The Mosaic GPU kernels under Pallas' interpreter, against the reference: values and gradients.

Interpretation runs the kernels as they are, except that the warp-level operations are replaced by
their twins on arrays. `tests/aot` compiles them; `test_backends.py` runs the suite on a GPU.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from gsjax.raster import api, arg_specs
from gsjax.raster import project as projection
from gsjax.raster.blend import backends, mosaic_gpu
from tests.raster import suite

WIDTH, HEIGHT = 20, 18  # 2 x 2 tiles, the last of each cut
CAN_INTERPRET = hasattr(plgpu, "InterpretGPUParams")
interpreted = pytest.mark.skipif(
    not CAN_INTERPRET, reason=f"JAX {jax.__version__} cannot interpret Mosaic GPU kernels"
)


def _options(**options):
    return dict(interpret=plgpu.InterpretGPUParams()) | options


@functools.cache
def _arrays(seed=1, num=16, cameras=1, channels=3, scale=0.15):
    scene = arg_specs.random_scene(
        seed, num, WIDTH, HEIGHT, cameras=cameras, channels=channels, scale=scale
    )
    return suite.splats_of(scene, WIDTH, HEIGHT)


def _run(backend, arrays, **options):
    return suite.run_blend(backend, arrays, WIDTH, HEIGHT, **options)


def _compare(arrays, **options):
    """Image and gradients against the reference; returns those of the kernels."""
    expected, found = _run("reference", arrays), _run("mosaic_gpu", arrays, **_options(**options))
    suite.assert_images(found[0], expected[0])
    suite.assert_gradients(found[1], expected[1])
    return found


@interpreted
@pytest.mark.parametrize("kernel", ["simple", "warp"])
def test_two_images_match_the_reference(kernel):
    found = _compare(_arrays(cameras=2), kernel=kernel)
    assert found[0][2]["overflow"].tolist() == [0, 0]
    assert np.all(found[0][2]["num_pairs"] > 16) and found[0][2]["num_passes"].tolist() == [1, 1]
    assert all(np.linalg.norm(g) > 0 for g in found[1].values())


@functools.cache
def _opaque():
    """Long lists of large opaque Gaussians, more than a batch holds: clamped alphas, early exits."""
    scene = arg_specs.random_scene(2, 200, WIDTH, HEIGHT, scale=0.4)
    scene["opacities"][:] = np.where(np.arange(200) % 3, 0.05, 1.0)  # radii depend on them
    return suite.splats_of(scene, WIDTH, HEIGHT)


@interpreted
def test_opaque_stacks_and_long_lists_match_the_reference():
    color, transmittance, stats = _compare(_opaque(), kernel="warp")[0]
    assert stats["num_pairs"][0] > 4 * 128  # a batch has 128 entries
    assert transmittance.min() < 1e-3


@interpreted
@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["warp", "simple"])
def test_absolute_gradients_match_the_reference(kernel):
    arrays = _arrays()
    seeds = suite.blend_seeds(arrays, WIDTH, HEIGHT)

    def gradients(backend, **options):
        splats = projection.Splats(*(arrays[k] for k in projection.Splats._fields))

        def loss(probe, features):
            color, transmittance, _ = backends.load(backend).blend(
                splats, features, width=WIDTH, height=HEIGHT, max_alpha=0.99,
                absgrad_probe=probe, **options,
            )  # fmt: skip
            return jnp.sum(color * seeds[0]) + jnp.sum(transmittance * seeds[1])

        probe = jnp.zeros_like(splats.means2d)
        found = jax.jit(jax.grad(loss, (0, 1)))(probe, arrays["features"])
        return dict(zip(("probe", "features"), map(np.asarray, found)))

    expected = gradients("reference")
    assert np.all(expected["probe"] >= 0) and np.any(expected["probe"] > 0)
    suite.assert_gradients(gradients("mosaic_gpu", **_options(kernel=kernel)), expected)


@interpreted
@pytest.mark.slow
def test_opaque_stacks_match_the_reference_with_the_plain_kernels():
    _compare(_opaque(), kernel="simple")


@interpreted
@pytest.mark.parametrize("kernel", ["warp", pytest.param("simple", marks=pytest.mark.slow)])
def test_many_passes_equal_one(kernel):
    one, many = (
        _run("mosaic_gpu", _arrays(cameras=2), **_options(kernel=kernel, capacity=c))
        for c in (None, 5)
    )
    assert np.all(many[0][2]["num_passes"] > 1) and many[0][2]["overflow"].tolist() == [0, 0]
    assert many[0][2]["num_pairs"].tolist() == one[0][2]["num_pairs"].tolist()
    for found, expected in zip(many[0][:2], one[0][:2]):
        np.testing.assert_array_equal(found, expected)  # the state is carried, not recombined
    suite.assert_gradients(many[1], one[1], 1e-6)


@interpreted
@pytest.mark.parametrize(
    ("channels", "kernel"),
    [(34, "warp")]
    + [pytest.param(c, "warp", marks=pytest.mark.slow) for c in (1, 8, 32)]
    + [pytest.param(34, "simple", marks=pytest.mark.slow)],
)
def test_channels_match_the_reference(channels, kernel):
    _compare(_arrays(4, 8, channels=channels, scale=0.2), kernel=kernel)


@interpreted
@pytest.mark.slow
def test_vmap_joins_the_image_axis_and_changes_no_bit():
    arrays = _arrays(cameras=2)
    seeds = suite.blend_seeds(arrays, WIDTH, HEIGHT)
    function = suite.blender("mosaic_gpu", WIDTH, HEIGHT, **_options(kernel="warp"))
    mapped = jax.vmap(function)(*jax.tree.map(lambda x: x[:, None], (arrays, seeds)))
    expected = function(arrays, seeds)
    jax.tree.map(lambda m, e: np.testing.assert_array_equal(m[:, 0], e), mapped, expected)


@interpreted
@pytest.mark.slow
def test_atomic_sums_match_the_reference():
    _compare(_arrays(cameras=2), kernel="warp", deterministic=False)


@interpreted
@pytest.mark.slow
def test_two_devices_equal_one():
    arrays = _arrays(cameras=2)
    seeds = suite.blend_seeds(arrays, WIDTH, HEIGHT)
    function = suite.blender("mosaic_gpu", WIDTH, HEIGHT, **_options(kernel="warp"))
    mesh = jax.make_mesh((2,), ("view",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("view")
    shared = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec))
    found, expected = jax.tree.map(np.asarray, (shared(arrays, seeds), function(arrays, seeds)))
    suite.assert_images(found[0], expected[0], 1e-6)
    suite.assert_gradients(found[1], expected[1], 1e-6)


@interpreted
def test_results_are_the_same_bits_every_time():
    first, second = (
        _run("mosaic_gpu", _arrays(cameras=2), **_options(kernel="warp")) for _ in "12"
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_no_gaussians_leave_an_empty_image():
    arrays = {k: v[:, :0] for k, v in _arrays().items()}
    options = dict(interpret=True)  # nothing is run
    (color, transmittance, stats), _ = _run("mosaic_gpu", arrays, **options)
    assert color.shape == (1, HEIGHT, WIDTH, 3) and not color.any()
    assert np.all(transmittance == 1) and stats["num_passes"].tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tile_size=8), "tile_size: found 8.*16"),
        (dict(kernel="fast"), "kernel: found 'fast'.*warp"),
    ],
)
def test_settings_it_does_not_have_are_named(options, message):
    arrays = _arrays()
    with pytest.raises(ValueError, match=message):
        suite._blend("mosaic_gpu", WIDTH, HEIGHT, **dict(interpret=True) | options)(arrays)


def test_a_machine_without_a_gpu_is_told_why():
    if jax.default_backend() == "gpu":
        pytest.skip("this machine has a GPU")
    assert "not a CUDA GPU" in backends.why_not("mosaic_gpu")
    assert backends.why_not("xla_group") is None
    scene = arg_specs.random_scene(1, 4, 16, 16)
    with pytest.raises(NotImplementedError, match="mosaic_gpu.*not a CUDA GPU.*xla_group"):
        api.rasterize(**scene, width=16, height=16, backend="mosaic_gpu")


class _Device:
    platform, device_kind = "gpu", "NVIDIA A100"

    def __init__(self, capability):
        self.compute_capability = capability


@pytest.mark.parametrize(("capability", "serves"), [("8.0", False), ("9.0", True), ("10.0", True)])
def test_compute_capability_decides(monkeypatch, capability, serves):
    monkeypatch.setattr(jax, "devices", lambda *_: [_Device(capability)])
    reason = mosaic_gpu.unavailable()
    assert (reason is None) == serves
    assert serves or "8.0, 9.0 is needed" in reason
