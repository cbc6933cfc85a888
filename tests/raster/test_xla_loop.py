"""What is special about xla_loop; `test_backends.py` runs the common suite."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import runtime
from gsjax.raster import arg_specs
from gsjax.raster import project as projection
from gsjax.raster.blend import xla_loop

WIDTH, HEIGHT, NUM = 40, 27, 90
SMOOTH = ("means2d", "conics", "opacities")


def _scene(images=3):
    scene = arg_specs.random_scene(11, NUM, WIDTH, HEIGHT, cameras=images)
    names = ("means", "quats", "scales", "opacities")
    splats = jax.vmap(
        lambda v, k: projection.project(*(scene[n] for n in names), v, k, WIDTH, HEIGHT)
    )(scene["viewmats"], scene["Ks"])
    features = jnp.asarray(np.random.default_rng(1).uniform(size=(images, NUM, 2)), jnp.float32)
    return splats, features


def _loss(smooth, features, splats, capacity):
    splats = splats._replace(**smooth)
    color, transmittance, stats = xla_loop.blend(
        splats, features, width=WIDTH, height=HEIGHT, max_alpha=0.99, capacity=capacity
    )
    ramp = jnp.arange(WIDTH) / WIDTH
    loss = jnp.sum(color**2 * ramp[:, None]) + jnp.sum(transmittance**2 * ramp)
    return loss, (color, transmittance, stats)


@functools.cache
def _compiled(capacity=None):
    splats, features = _scene()
    function = jax.jit(
        functools.partial(
            jax.value_and_grad(_loss, argnums=(0, 1), has_aux=True), capacity=capacity
        )
    )
    return function.lower({k: getattr(splats, k) for k in SMOOTH}, features, splats).compile()


def _run(splats, features, capacity=None):
    smooth = {k: getattr(splats, k) for k in SMOOTH}
    return _compiled(capacity)(smooth, features, splats)


@pytest.mark.skipif(not runtime.needs_loop_flag(), reason="this JAX needs no flag")
def test_the_flag_that_the_warning_names_is_one_that_xla_takes(monkeypatch):
    messages = []
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(xla_loop.logging, "warning", lambda *a: messages.append(a[0] % a[1:]))
    xla_loop._report_missing_flag.__wrapped__()
    flag = re.search(r"XLA_FLAGS='(.*?)'", messages[0]).group(1)
    program = "import jax; jax.jit(lambda x: x + 1)(1); print(jax.default_backend())"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | dict(XLA_FLAGS=flag, JAX_PLATFORMS="cpu"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == "cpu", done.stderr
    monkeypatch.setenv("XLA_FLAGS", flag)
    xla_loop._report_missing_flag.__wrapped__()
    assert len(messages) == 1  # no warning with it


def test_loops_compile_to_native_code():
    if not (runtime.loop_flag_is_set() or not runtime.needs_loop_flag()):
        pytest.skip("XLA_FLAGS were chosen by the user without the native-loop threshold")
    lines = _compiled().as_text().splitlines()
    native = [line for line in lines if "xla_cpu_small_call" in line]
    blending = [line for line in native if "f32[64]" in line]  # carry one tile's pixels
    # Forward and backward, first and later passes, loops over pairs inside loops over tiles.
    assert len(blending) >= 4
    assert len(native) - len(blending) >= 10  # compaction, three digits, walks, counting sorts


def test_image_and_count_do_not_depend_on_capacity():
    splats, features = _scene()
    (_, (color, transmittance, stats)), grads = _run(splats, features)
    (_, (color2, transmittance2, stats2)), grads2 = _run(splats, features, 25)
    np.testing.assert_array_equal(stats["num_passes"], 1)
    assert np.all(stats2["num_passes"] > 10)
    np.testing.assert_array_equal(stats["num_pairs"], stats2["num_pairs"])
    np.testing.assert_array_equal(color, color2)
    np.testing.assert_array_equal(transmittance, transmittance2)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads2), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def test_results_are_the_same_bits_every_time():
    splats, features = _scene()
    first, second = _run(splats, features), _run(splats, features)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_vmap_maps_into_the_image_axis_and_changes_no_bit():
    splats, features = _scene()
    smooth = {k: getattr(splats, k) for k in SMOOTH}
    stacked = jax.tree.map(lambda x: x[:, None], (smooth, splats))

    def one(smooth, splats):
        grad = jax.value_and_grad(_loss, argnums=(0, 1), has_aux=True)
        return grad(smooth, features[:1], splats, None)

    found = jax.jit(jax.vmap(one))(*stacked)
    same = jnp.broadcast_to(features[:1], features.shape)
    (_, expected), (expected_grads, _) = _run(splats, same)
    (_, out), (grads, _) = found
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 0], b), out, expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 0], b), grads, expected_grads)


def test_hidden_gaussians_are_counted_but_not_listed():
    """Behind closed pixels the walk goes on for the count, in one pass however small the buffer."""
    num = 400
    means2d = jnp.full((1, num, 2), 12.0)
    conics = jnp.broadcast_to(jnp.array([1e-6, 0.0, 1e-6]), (1, num, 3))
    splats = projection.Splats(
        means2d, conics, jnp.ones((1, num)), jnp.arange(num)[None] + 1.0,
        jnp.full((1, num, 2), 400, jnp.int32),
    )  # fmt: skip
    out = xla_loop.blend(
        splats, jnp.ones((1, num, 1)), width=24, height=24, max_alpha=0.99, capacity=9 * 8
    )
    assert out[2]["num_pairs"][0] == 9 * num
    assert out[2]["num_passes"][0] == 2
    np.testing.assert_allclose(out[0], 0.99, atol=1e-6)


def test_default_capacity_is_bounded_by_what_can_be_needed():
    assert xla_loop.default_capacity(3, 16, 16, 8) == 12
    assert xla_loop.default_capacity(1000, 256, 256, 8) == 4000 + 64 * 1024
    assert xla_loop.default_capacity(10**6, 4000, 4000, 8) == xla_loop.MAX_CAPACITY
    assert xla_loop.default_capacity(0, 16, 16, 8) == 1


@pytest.mark.parametrize(
    "num, width, height, channels, capacity",
    [
        (100_000, 800, 800, 3, 2**20),
        (10_000, 256, 256, 32, 2**17),
        (1_000, 1920, 1080, 3, 2**17),
        pytest.param(1_000_000, 800, 800, 3, 2**20, marks=pytest.mark.slow),
        pytest.param(10_000, 256, 256, 3, 2**20, marks=pytest.mark.slow),
    ],
)
def test_memory_model_agrees_with_the_compiler(num, width, height, channels, capacity):
    shapes = projection.Splats(
        *(jax.ShapeDtypeStruct((1, num, *s), jnp.float32) for s in ((2,), (3,), (), ())),
        jax.ShapeDtypeStruct((1, num, 2), jnp.int32),
    )
    features = jax.ShapeDtypeStruct((1, num, channels), jnp.float32)

    def both(smooth, features, splats, cotangents):
        def render(smooth, features):
            return xla_loop.blend(
                splats._replace(**smooth), features, width=width, height=height, max_alpha=0.99,
                capacity=capacity,
            )[:2]  # fmt: skip

        out, vjp = jax.vjp(render, smooth, features)
        return out, vjp(cotangents)

    smooth = {k: getattr(shapes, k) for k in SMOOTH}
    planes = ((1, height, width, channels), (1, height, width))
    cotangents = tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in planes)
    compiled = jax.jit(both).lower(smooth, features, shapes, cotangents).compile()
    found = compiled.memory_analysis().temp_size_in_bytes
    model = xla_loop.temporary_bytes(num, width, height, channels, capacity)
    assert 0.75 < found / model < 1.25, (found, model)
