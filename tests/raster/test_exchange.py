import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gsjax.raster import arg_specs, exchange
from gsjax.raster import project as projection
from gsjax.raster.blend import reference

WIDTH, HEIGHT, TILE, DEVICES = 24, 40, 4, 8
STRIP = exchange.strip_height(HEIGHT, TILE, DEVICES)
OPTIONS = dict(max_alpha=0.99, tile_size=None, capacity=None)


@pytest.fixture(scope="module")
def rows():
    """Projected Gaussians [1, 64, 9 + 3] of a random scene."""
    scene = arg_specs.random_scene(0, 64, WIDTH, HEIGHT)
    geometry = [jnp.asarray(scene[k]) for k in ("means", "quats", "scales", "opacities")]
    camera = (jnp.asarray(scene["viewmats"][0]), jnp.asarray(scene["Ks"][0]))
    splats = projection.project(*geometry, *camera, WIDTH, HEIGHT)
    return exchange.rows_of(splats, jnp.asarray(scene["colors"]))[None]


def _blend(rows, top, height):
    splats, features = exchange.of_rows(rows)
    splats = exchange.onto_strip(splats, top, height)
    color, transmittance, _ = reference.blend(
        splats, features, width=WIDTH, height=height, **OPTIONS
    )
    return jnp.concatenate([color, transmittance[..., None]], -1)


def _whole(rows):
    return _blend(rows, jnp.int32(0), HEIGHT)


def _in_strips(rows, capacity=None):
    """The same image by eight devices, and what found no place."""
    mesh = jax.make_mesh((DEVICES,), ("tiles",), axis_types=(jax.sharding.AxisType.Auto,))

    def one(rows):
        if capacity is None:
            found, missed = exchange.gather(rows, "tiles"), jnp.zeros(1, jnp.int32)
        else:
            found, missed = exchange.send_needed(rows, "tiles", STRIP, capacity)
        top = jax.lax.axis_index("tiles") * STRIP
        return _blend(found, top, STRIP), missed[None]

    return jax.shard_map(
        one,
        mesh=mesh,
        in_specs=P(None, "tiles"),
        out_specs=(P(None, "tiles"), P("tiles")),
        check_vma=False,
    )(rows)


def test_rows_carry_everything(rows):
    splats, features = exchange.of_rows(rows)
    assert splats.radii.dtype == jnp.int32 and features.shape == (1, 64, 3)
    np.testing.assert_array_equal(exchange.rows_of(splats, features), rows)


@pytest.mark.parametrize("capacity", [pytest.param(None, marks=pytest.mark.slow), 8])
def test_strips_make_the_image_of_one_device(rows, capacity):
    weights = np.random.default_rng(1).normal(size=(1, HEIGHT, WIDTH, 4)).astype(np.float32)

    def loss(render, rows):
        image = render(rows)
        return jnp.sum(image * weights), image

    def run(render):
        step = jax.value_and_grad(functools.partial(loss, render), has_aux=True)
        (_, image), gradient = jax.jit(step)(rows)
        return np.asarray(image), np.asarray(gradient)

    expected, expected_gradient = run(_whole)
    found, gradient = run(lambda rows: _in_strips(rows, capacity)[0][:, :HEIGHT])
    assert expected[..., :3].max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-6)
    error = np.linalg.norm(gradient - expected_gradient) / np.linalg.norm(expected_gradient)
    assert error < 1e-5


def test_what_finds_no_place_is_counted(rows):
    missed = np.asarray(jax.jit(functools.partial(_in_strips, capacity=2))(rows)[1])[:, 0]
    reached = np.asarray(exchange.reaches(rows[0], STRIP, DEVICES))  # [L, N]
    shares = reached.reshape(DEVICES, DEVICES, -1).sum(-1)  # [to, from]
    np.testing.assert_array_equal(missed, np.maximum(shares - 2, 0).sum(-1))
    assert missed.sum() > 0


def test_strips_are_whole_tile_rows():
    assert exchange.strip_height(40, 4, 8) == 8  # 10 rows on 8 devices: two each
    assert exchange.strip_height(64, 8, 8) == 8
    assert exchange.strip_height(1, 16, 4) == 16
