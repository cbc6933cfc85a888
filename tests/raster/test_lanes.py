"""Lanes over host devices show what one device shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import api, arg_specs, lanes

WIDTH, HEIGHT = 45, 38  # five tile rows: uneven for two lanes
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")


def _mesh(num):
    if len(jax.devices("cpu")) < num or jax.default_backend() != "cpu":
        pytest.skip(f"needs {num} CPU devices")
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((num,), ("tiles",), axis_types=auto, devices=jax.devices()[:num])


def _inputs():
    scene = arg_specs.random_scene(3, 101, WIDTH, HEIGHT, cameras=2)
    return [jnp.asarray(scene[k]) for k in NAMES]


def _value_and_grad(render, weights):
    def loss(inputs):
        image, alpha, *_ = render(*inputs, WIDTH, HEIGHT)
        return jnp.sum(image * weights[0]) + jnp.sum(alpha * weights[1]), (image, alpha)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
def test_two_lanes_give_the_image_and_gradients_of_one_device():
    inputs, rng = _inputs(), np.random.default_rng(0)
    weights = [rng.normal(size=(2, HEIGHT, WIDTH, c)).astype(np.float32) for c in (3, 1)]
    backgrounds = jnp.asarray(rng.uniform(size=(2, 3)), jnp.float32)
    mesh = _mesh(2)

    def one(*args):
        return api.rasterize(*args, backgrounds=backgrounds, backend="xla_loop")

    def two(*args):
        return lanes.rasterize_lanes(*args, mesh=mesh, backgrounds=backgrounds, capacity=200)

    (_, expected), expected_grads = _value_and_grad(one, weights)(inputs)
    (_, found), grads = _value_and_grad(two, weights)(inputs)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)  # the same arithmetic in the same order
    for name, a, b in zip(NAMES, grads, expected_grads, strict=True):
        error = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert error < 1e-5, (name, error)


def test_unknown_axis_and_sh_colours_are_refused():
    inputs, mesh = _inputs(), _mesh(1)
    with pytest.raises(ValueError, match="axis is 'rows'"):
        lanes.rasterize_lanes(*inputs, WIDTH, HEIGHT, mesh=mesh, axis="rows")
    inputs[4] = jnp.zeros((101, 4, 3))
    with pytest.raises(ValueError, match="spherical harmonics"):
        lanes.rasterize_lanes(*inputs, WIDTH, HEIGHT, mesh=mesh)
