"""Batches of scenes of different sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import batches, sh
from gsjax.core.gaussians import Gaussians
from gsjax.raster import api, arg_specs

WIDTH, HEIGHT = 24, 20


def _scene(seed, num, degree=1):
    made = arg_specs.random_scene(seed, num, WIDTH, HEIGHT, sh_degree=degree)
    names = ("means", "quats", "scales", "opacities", "colors")
    return Gaussians(*(jnp.asarray(made[k]) for k in names)), made


def _render(scene, camera):
    return api.rasterize(
        scene.means, scene.quats, scene.scales, scene.opacities, scene.sh, *camera, WIDTH, HEIGHT,
        sh_degree=scene.sh_degree,
    )[:2]  # fmt: skip


@pytest.mark.slow
def test_a_batch_of_mixed_sizes_shows_what_each_scene_shows_alone():
    (a, made), (b, _) = _scene(0, 7), _scene(1, 19)
    camera = jnp.asarray(made["viewmats"]), jnp.asarray(made["Ks"])
    batch, mask = batches.stack_scenes([a, b])
    assert batch.means.shape == (2, 19, 3)
    np.testing.assert_array_equal(mask.sum(1), [7, 19])
    cameras = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *x.shape)), camera)

    def loss(batch):
        image, alpha = _render(batch, cameras)
        return jnp.sum(image**2) + jnp.sum(alpha), (image, alpha)

    grads, out = jax.jit(jax.grad(loss, has_aux=True))(batch)
    for k, scene in enumerate((a, b)):
        alone = _render(scene, camera)
        jax.tree.map(lambda x, y, k=k: np.testing.assert_allclose(x[k], y, atol=1e-6), out, alone)
    for field in dataclasses.fields(grads):
        grad = np.asarray(getattr(grads, field.name))
        assert not grad[~np.asarray(mask)].any(), field.name
        assert grad[np.asarray(mask)].any(), field.name


def test_lower_degrees_get_zeros():
    (a, _), (b, _) = _scene(0, 3, degree=0), _scene(1, 4, degree=2)
    batch, _ = batches.stack_scenes([a, b], multiple=8)
    assert batch.means.shape == (2, 8, 3) and batch.sh.shape == (2, 8, sh.num_coeffs(2), 3)
    np.testing.assert_array_equal(batch.sh[0, :3, :1], a.sh)
    assert not batch.sh[0, :, 1:].any()


def test_bad_batches_are_refused():
    (a, _), (b, _) = _scene(0, 3), _scene(1, 4)
    with pytest.raises(ValueError, match="scenes: found none"):
        batches.stack_scenes([])
    with pytest.raises(ValueError, match="num: found 3, a scene has 4 Gaussians"):
        batches.stack_scenes([a, b], 3)
    with pytest.raises(ValueError, match=r"scenes\[1\]: means have shape \[1, 4, 3\]"):
        batches.stack_scenes([a, jax.tree.map(lambda x: x[None], b)])
    with pytest.raises(ValueError, match="multiple: found 0"):
        batches.stack_scenes([a], multiple=0)
