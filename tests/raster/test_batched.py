"""Scenes spread over devices are rendered as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gsjax.core import cameras, gaussians
from gsjax.raster import batched


def _scenes(count):
    rng = np.random.default_rng(0)
    return gaussians.Gaussians(
        means=jnp.asarray(rng.uniform(-0.4, 0.4, (count, 12, 3)), jnp.float32),
        quats=jnp.asarray(rng.normal(size=(count, 12, 4)), jnp.float32),
        scales=jnp.full((count, 12, 3), 0.08),
        opacities=jnp.asarray(rng.uniform(0.2, 0.9, (count, 12)), jnp.float32),
        sh=jnp.asarray(rng.normal(size=(count, 12, 4, 3)), jnp.float32),
    )


def _cameras(count):
    viewmats = jnp.broadcast_to(cameras.orbit_path(2, 1.5), (count, 2, 4, 4))
    K = cameras.intrinsics_from_fov(50.0, 12, 10)
    return viewmats, jnp.broadcast_to(K, (count, 2, 3, 3))


def _loss(scenes, viewmats, Ks):
    image, alpha, meta = batched.rasterize_batch(
        scenes, viewmats, Ks, 12, 10, backgrounds=jnp.full((*Ks.shape[:2], 3), 0.3)
    )
    weights = jnp.cos(jnp.arange(image.size).reshape(image.shape))
    return jnp.sum(image * weights) + jnp.sum(alpha**2), meta["num_pairs"]


def _mesh():
    devices = jax.devices()[:2]
    return jax.make_mesh(
        (2, 1), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices
    )


@pytest.mark.slow
@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_two_devices_give_the_values_and_gradients_of_one():
    scenes, (viewmats, Ks) = _scenes(4), _cameras(4)
    function = jax.jit(jax.value_and_grad(_loss, has_aux=True))
    (value, pairs), grads = function(scenes, viewmats, Ks)
    with jax.set_mesh(_mesh()):
        arguments = jax.device_put(
            (scenes, viewmats, Ks), NamedSharding(_mesh(), P(("data", "fsdp")))
        )
        (other, other_pairs), other_grads = function(*arguments)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    np.testing.assert_array_equal(pairs, other_pairs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grads, other_grads)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_scenes_that_cannot_be_shared_evenly_are_refused():
    with (
        jax.set_mesh(_mesh()),
        pytest.raises(ValueError, match="3 scenes cannot be shared evenly by 2 devices"),
    ):
        _loss(_scenes(3), *_cameras(3))
