"""Absolute gradients of the means: against one gradient a pixel, and alike in all backends."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import api, arg_specs, arguments
from gsjax.raster import project as projection
from gsjax.raster.blend import backends
from tests.raster import suite

WIDTH, HEIGHT, NUM = 20, 17, 12


def _case(dtype=np.float64, num=NUM):
    scene = arg_specs.random_scene(8, num, WIDTH, HEIGHT, cameras=2, scale=0.3)
    arrays = suite.splats_of(scene, WIDTH, HEIGHT)
    arrays = {k: v if k == "radii" else np.asarray(v, dtype) for k, v in arrays.items()}
    return arrays, suite.blend_seeds(arrays, WIDTH, HEIGHT)


def _blend(backend, arrays, means2d, probe, **options):
    splats = projection.Splats(*(arrays[k] for k in projection.Splats._fields))
    return backends.load(backend).blend(
        splats._replace(means2d=means2d), arrays["features"], width=WIDTH, height=HEIGHT,
        max_alpha=0.99, absgrad_probe=probe, **options,
    )  # fmt: skip


def _loss(backend, arrays, means2d, probe, seeds, **options):
    color, transmittance, _ = _blend(backend, arrays, means2d, probe, **options)
    return jnp.sum(color * seeds[0]) + jnp.sum(transmittance * seeds[1])


def test_equals_the_sum_of_absolute_gradients_of_single_pixels():
    with jax.enable_x64(True):
        arrays, seeds = _case()
        probe = np.zeros_like(arrays["means2d"])

        @jax.jit
        def of_pixel(row, column):
            one = jnp.zeros((HEIGHT, WIDTH)).at[row, column].set(1.0)
            masked = (seeds[0] * one[..., None], seeds[1] * one)
            return jax.grad(lambda m: _loss("reference", arrays, m, None, masked))(
                arrays["means2d"]
            )

        rows, columns = np.indices((HEIGHT, WIDTH)).reshape(2, -1)
        singles = jax.lax.map(lambda p: of_pixel(*p), (rows, columns))
        gradient = jax.jit(jax.grad(
            lambda *a: _loss("reference", arrays, *a, seeds), argnums=(0, 1)))  # fmt: skip
        signed, absolute = gradient(arrays["means2d"], probe)
        np.testing.assert_allclose(signed, np.sum(singles, 0), atol=1e-12)
        np.testing.assert_allclose(absolute, np.sum(np.abs(singles), 0), atol=1e-12)
        assert np.any(absolute > 2 * np.abs(signed))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["xla_loop", "xla_group"])
def test_backends_agree_and_nothing_else_changes(backend):
    arrays, seeds = _case(np.float32, 64)
    probe = np.zeros_like(arrays["means2d"])

    def both(name, **options):
        def loss(means2d, probe):
            return _loss(name, arrays, means2d, probe, seeds, **options)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(arrays["means2d"], probe)

    expected, found = both("reference"), both(backend, capacity=40)
    for e, f in zip(expected, found, strict=True):
        assert suite.relative_error(np.asarray(f), np.asarray(e)) < 1e-4
    plain = jax.jit(jax.grad(lambda m: _loss(backend, arrays, m, None, seeds, capacity=40)))
    np.testing.assert_allclose(found[0], plain(arrays["means2d"]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_end_to_end_under_vmap():
    scenes = [arg_specs.random_scene(i, NUM, WIDTH, HEIGHT) for i in range(2)]
    batch = {k: np.stack([s[k] for s in scenes]) for k in scenes[0]}
    probe = np.zeros((1, NUM, 2), np.float32)

    def absolute(scene):
        def loss(probe):
            image = api.rasterize(**scene, width=WIDTH, height=HEIGHT, absgrad_probe=probe)[0]
            return jnp.sum(jnp.sin(3 * image))

        return jax.grad(loss)(probe)

    mapped = jax.jit(jax.vmap(absolute))(batch)
    for i, scene in enumerate(scenes):
        np.testing.assert_allclose(mapped[i], jax.jit(absolute)(scene), rtol=1e-5, atol=1e-7)
    assert np.any(mapped > 0) and np.all(mapped >= 0)


def test_backends_without_it_name_those_that_have_it(monkeypatch):
    scene = arg_specs.random_scene(0, NUM, WIDTH, HEIGHT)
    module = types.SimpleNamespace(blend=lambda splats, features, **options: None)
    monkeypatch.setattr(arguments.backends, "choose", lambda name: ("mosaic_tpu", None))
    monkeypatch.setattr(arguments.backends, "load", lambda name: module)
    with pytest.raises(ValueError, match="absgrad_probe: .*mosaic_tpu.*xla_loop, xla_group"):
        api.rasterize(
            **scene, width=WIDTH, height=HEIGHT, absgrad_probe=np.zeros((1, NUM, 2), np.float32)
        )
