"""Views of predicted Gaussians: units of the world, cull distance, principal point, views in groups."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import gaussians
from gsjax.raster import api
from gsjax.systems.pm_loss import render

SIZE = (8, 12)  # height, width


def _scene(scale=1.0):
    rng = np.random.default_rng(0)
    means = np.stack(
        [rng.uniform(-0.6, 0.6, 6), rng.uniform(-0.4, 0.4, 6), rng.uniform(1.5, 3, 6)], -1
    )
    arrays = (
        means * scale, rng.normal(size=(6, 4)), np.full((6, 3), 0.15 * scale),
        np.full(6, 0.7), rng.normal(0, 0.4, (6, 4, 3)),
    )  # fmt: skip
    return gaussians.Gaussians(*(jnp.asarray(x, jnp.float32)[None] for x in arrays))


def _cameras(scale=1.0):
    viewmats = np.tile(np.eye(4), (1, 2, 1, 1))
    viewmats[0, 1, 0, 3] = 0.2 * scale
    Ks = np.tile(np.diag([0.9, 1.3, 1.0]), (1, 2, 1, 1))
    Ks[..., :2, 2] = 0.42, 0.57
    return jnp.asarray(viewmats, jnp.float32), jnp.asarray(Ks, jnp.float32)


def test_views_are_the_rasterizers_with_intrinsics_in_pixels():
    scene, (viewmats, Ks) = _scene(), _cameras()
    found = render.render(scene, viewmats, Ks, jnp.asarray([0.5]), SIZE, depth=True)
    pixels = Ks * jnp.asarray([SIZE[1], SIZE[0], 1.0])[:, None]
    image, alpha, _ = api.rasterize(
        scene.means, scene.quats, scene.scales, scene.opacities, scene.sh, viewmats, pixels,
        SIZE[1], SIZE[0], sh_degree=1, render_mode="RGB+ED",
    )  # fmt: skip
    np.testing.assert_allclose(found.images, image[..., :3], atol=1e-5)
    np.testing.assert_allclose(found.alphas, alpha[..., 0], atol=1e-5)
    seen = np.asarray(found.alphas) > 0.1
    assert seen.mean() > 0.3
    np.testing.assert_allclose(
        np.asarray(found.depths)[seen], np.asarray(image[..., 3])[seen], rtol=1e-4
    )
    assert np.asarray(found.depths)[seen].min() > 1.4


def test_another_unit_of_length_changes_depths_alone():
    """World and near times 40 (as between metres and SfM's units): the same pictures, depths times 40."""
    one = render.render(_scene(), *_cameras(), jnp.asarray([0.5]), SIZE, depth=True)
    far = render.render(_scene(40.0), *_cameras(40.0), jnp.asarray([20.0]), SIZE, depth=True)
    np.testing.assert_allclose(one.images, far.images, atol=1e-5)
    np.testing.assert_allclose(40 * one.depths, far.depths, rtol=1e-4)


def test_what_is_nearer_than_a_fifth_of_near_is_culled():
    scene, (viewmats, Ks) = _scene(), _cameras()
    scene = dataclasses.replace(scene, means=scene.means.at[..., 2].set(1.0))
    alpha = lambda near: render.render(scene, viewmats, Ks, jnp.asarray([near]), SIZE).alphas  # noqa: E731
    assert float(alpha(4.9).max()) > 0.1 and float(alpha(5.1).max()) == 0.0


@pytest.mark.slow
def test_views_one_at_a_time_are_the_same_with_the_same_gradients():
    viewmats, Ks = _cameras()
    near = jnp.asarray([0.5])

    def value(scene, at_once):
        found = render.render(scene, viewmats, Ks, near, SIZE, depth=True, at_once=at_once)
        return jnp.sum(jnp.sin(3 * found.images)) + jnp.sum(jnp.sin(found.depths)), found

    (_, whole), expected = jax.jit(jax.value_and_grad(lambda s: value(s, 0), has_aux=True))(
        _scene()
    )
    (_, apart), grads = jax.jit(jax.value_and_grad(lambda s: value(s, 1), has_aux=True))(_scene())
    for a, b in zip(whole, apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="divisor of the 2 views, found 3"):
        value(_scene(), 3)
