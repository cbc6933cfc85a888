"""One step, one chunk: what is learned, what is drawn, what is frozen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.systems.scene_fit import losses, model, optimizer, state, steps
from gsjax.systems.scene_fit.recipe import Recipe
from tests.systems.scene_fit import scenes

RECIPE = Recipe(
    num_steps=200, num_gaussians=80, sh_degree=1, sh_every=50, refine_start=20, refine_stop=150,
    refine_every=40, reset_every=1000, lr_means=1e-3, background="random", noise_lr=5e3,
    grow_grad=1e-4,
)  # fmt: skip


@functools.cache
def advance():
    """`steps.advance`, compiled once for all tests of a recipe."""
    return jax.jit(steps.advance, static_argnums=(0, 3))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["mcmc", "default"])
def test_pictures_improve_and_counts_are_kept(strategy):
    recipe = dataclasses.replace(RECIPE, strategy=strategy)
    views = scenes.views(0)
    current = scenes.first(recipe, 0, views, used=60)
    psnr = []
    for _ in range(5):
        current, metrics = advance()(recipe, views, current, 40)
        psnr.append(float(metrics["psnr"].mean()))
    assert psnr[-1] > psnr[0] + 2 and psnr[-1] > 21, psnr
    assert int(current.step) == 200 and bool(current.ok)
    count = int(current.alive.sum())
    assert count == int(current.active) > 60 if strategy == "mcmc" else count <= 80


def test_every_view_is_seen_once_an_epoch_in_a_new_order():
    recipe = dataclasses.replace(RECIPE, views_per_step=2)
    drawn = np.stack([steps.view_numbers(recipe, jnp.int32(i), 6) for i in range(6)])
    epochs = drawn.reshape(2, 6)
    for epoch in epochs:
        assert sorted(epoch) == list(range(6))
    assert (epochs[0] != epochs[1]).any()


def test_a_gradient_that_is_not_finite_freezes_the_scene():
    views = scenes.views(0)
    current = scenes.first(RECIPE, 0, views)
    broken = current._replace(
        params=current.params | {"sh0": current.params["sh0"].at[0].set(jnp.nan)}
    )
    after, _ = advance()(RECIPE, views, broken, 40)
    assert not bool(after.ok) and int(after.step) == 40
    for name, value in after.params.items():
        np.testing.assert_array_equal(value, broken.params[name])


def test_sh_bands_enter_one_by_one_without_a_new_program():
    np.testing.assert_array_equal(model.sh_mask(2, jnp.int32(1)), [1, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(model.sh_mask(2, jnp.int32(0)), np.zeros(8))
    views = scenes.views(0)
    current = scenes.first(RECIPE, 0, views)
    current, _ = advance()(RECIPE, views, current, 40)
    assert not np.any(current.params["shN"])
    current, _ = advance()(RECIPE, views, current, 40)
    assert np.any(current.params["shN"])


def test_adam_is_that_of_the_papers_constants():
    recipe = dataclasses.replace(RECIPE, views_per_step=4)
    values = {"means": jnp.array([[1.0, -2.0, 0.5]])}
    adam, m, v = optimizer.adam(recipe), 0.0, 0.0
    state_, b1, b2 = adam.init(values), 1 - 4 * 0.1, 1 - 4 * 0.001
    for t, scale in enumerate((1.0, -0.3, 2.0), 1):
        gradient = np.array([[0.1, 2.0, -3.0]]) * scale
        direction, state_ = adam.update({"means": jnp.asarray(gradient)}, state_, values)
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        expected = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 0.5e-15)
        np.testing.assert_allclose(direction["means"], expected, rtol=2e-5)
    rates = optimizer.learning_rates(recipe, jnp.int32(100), jnp.float32(3.0))
    assert float(rates["means"]) == pytest.approx(1e-3 * 2 * 3 * 0.1, rel=1e-5)
    assert float(rates["log_scales"]) == pytest.approx(1e-2)


def test_a_mask_hides_pixels_from_the_loss():
    image = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    target = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
    mask = jnp.arange(16)[None, :, None] < jnp.full((1, 1, 16), 9)
    other = jnp.where(mask[..., None], image, 7.0)
    for weight in (0.0, 0.2):
        a = losses.photometric(image, target, mask, ssim=weight)
        assert float(a) == pytest.approx(
            float(losses.photometric(other, target, mask, ssim=weight))
        )
    kept = np.asarray(jnp.abs(image - target))[0, :9]
    assert float(losses.photometric(image, target, mask, ssim=0.0)) == pytest.approx(kept.mean())


def test_depth_loss_by_hand():
    depth, target = jnp.array([[[2.0, 4.0, 1.0]]]), jnp.array([[[4.0, 0.0, 1.0]]])
    alpha = jnp.array([[[1.0, 1.0, 0.2]]])
    assert float(losses.disparity(depth, target, alpha, 3.0)) == pytest.approx(3 * 0.25)


def test_regularizers_by_hand():
    opacities, alive = jnp.array([0.2, 0.6, 0.9]), jnp.array([True, True, False])
    scales = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0], [9.0, 9.0, 9.0]])
    found = losses.regularizers(opacities, scales, alive)
    np.testing.assert_allclose(found, (0.4, 2.0), rtol=1e-6)
    np.testing.assert_array_equal(losses.regularizers(opacities, scales, alive & False), (0, 0))


def test_half_resolution_averages_pixels_and_halves_the_camera():
    views = scenes.views(0)
    half = state.Views(*[None if x is None else jnp.asarray(x) for x in views]).halved()
    assert half.size == (12, 12)
    pixels = np.asarray(views.images, float).reshape(-1, 12, 2, 12, 2, 4)
    cover = pixels[..., 3:].sum((2, 4))
    color = (pixels[..., :3] * pixels[..., 3:]).sum((2, 4)) / np.maximum(cover, 1)
    expected = np.concatenate([color, cover / 4], -1)
    np.testing.assert_allclose(np.asarray(half.images, float), expected, atol=0.51)
    np.testing.assert_allclose(half.Ks[0, :2], np.asarray(views.Ks)[0, :2] / 2)


def test_half_resolution_has_no_dark_fringe_beside_transparent_pixels():
    image = np.zeros((1, 2, 4, 4), np.uint8)
    image[0, :, 0] = 255  # white and opaque; beside it, and in the other block, nothing
    cameras = (jnp.eye(4)[None], jnp.eye(3)[None])
    half = state.Views(image, *cameras).halved().images
    np.testing.assert_array_equal(half[0, 0], [[255, 255, 255, 128], [0, 0, 0, 0]])
    plain = state.Views(image[..., :3], *cameras).halved().images
    np.testing.assert_array_equal(plain[0, 0], [[128] * 3, [0] * 3])


def test_smoothing_filter_is_the_finest_pixel_that_sees_the_gaussian():
    viewmats = jnp.stack([jnp.eye(4).at[2, 3].set(z) for z in (4.0, 2.0)])
    Ks = jnp.broadcast_to(jnp.array([[50.0, 0, 16], [0, 50, 16], [0, 0, 1]]), (2, 3, 3))
    means = jnp.array([[0.0, 0, 0], [0.0, 0, -3.0], [50.0, 0, 0]])
    found = model.smoothing_filter(means, viewmats, Ks, 32, 32)
    # The second lies behind the nearer camera; nobody sees the third, which gets the largest.
    expected = np.sqrt(0.2) * np.array([2.0, 1.0, 2.0]) / 50
    np.testing.assert_allclose(found, expected, rtol=1e-5)
