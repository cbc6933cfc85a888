"""The definition itself: against loops over pixels in numpy, by hand, and by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import api, arg_specs
from gsjax.raster import project as projection
from gsjax.raster.blend import reference
from tests.raster import suite


def _loops(arrays, width, height, max_alpha=0.99):
    """Colour and transmittance of the first image by three loops, in float64."""
    means, conics, opacities, depths, radii, features = (
        np.float64(arrays[k][0])
        for k in ("means2d", "conics", "opacities", "depths", "radii", "features")
    )
    color = np.zeros((height, width, features.shape[1]))
    left = np.ones((height, width))
    order = [i for i in np.argsort(np.float32(depths), kind="stable") if radii[i, 0] > 0]
    for row in range(height):
        for column in range(width):
            for i in order:
                dx, dy = means[i] - (column + 0.5, row + 0.5)
                a, b, c = conics[i]
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(max_alpha, opacities[i] * np.exp(-sigma))
                if sigma < 0 or alpha < 1 / 255:
                    continue
                if left[row, column] * (1 - alpha) <= 1e-4:
                    break
                color[row, column] += alpha * left[row, column] * features[i]
                left[row, column] *= 1 - alpha
    return color, left


def test_equals_loops_over_pixels():
    scene = arg_specs.random_scene(1, 60, 23, 17, scale=0.3)
    scene["opacities"] **= 0.3  # mostly opaque, so that pixels close
    arrays = suite.splats_of(scene, 23, 17)
    (color, left, stats), _ = suite.run_blend("reference", arrays, 23, 17)
    expected = _loops(arrays, 23, 17)
    assert expected[1].min() < 2e-3
    np.testing.assert_allclose(color[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(left[0], expected[1], atol=1e-5)
    assert stats["num_pairs"].tolist() == [int(np.sum(arrays["radii"][0, :, 0] > 0))]


def test_one_and_two_gaussians_by_hand():
    # Two concentric round Gaussians of variance 2 at the centre of the middle pixel of 5 x 5.
    means = np.full((1, 2, 2), 2.5, np.float32)
    conics = np.tile(np.float32([0.5, 0, 0.5]), (1, 2, 1))
    depths = np.float32([[3.0, 2.0]])  # the second is in front
    splats = projection.Splats(
        means, conics, np.float32([[0.8, 0.5]]), depths, np.full((1, 2, 2), 5, np.int32)
    )
    features = np.float32([[[1.0], [10.0]]])
    color, left, _ = reference.blend(splats, features, width=5, height=5, max_alpha=0.99)
    # Centre: alpha 0.5 in front, 0.8 behind: 0.5 * 10 + 0.5 * 0.8 * 1 = 5.4, T = 0.5 * 0.2.
    np.testing.assert_allclose(color[0, 2, 2, 0], 5.4, rtol=1e-6)
    np.testing.assert_allclose(left[0, 2, 2], 0.1, rtol=1e-6)
    # Two pixels aside: sigma = 0.5 * 0.5 * 4 = 1, alphas 0.5 / e and 0.8 / e.
    front, behind = 0.5 / np.e, 0.8 / np.e
    np.testing.assert_allclose(color[0, 2, 4, 0], 10 * front + (1 - front) * behind, rtol=1e-6)
    np.testing.assert_allclose(left[0, 2, 4], (1 - front) * (1 - behind), rtol=1e-6)


def test_the_gaussian_that_would_close_a_pixel_is_left_out_and_all_behind_it():
    num = 4
    means, conics = np.full((1, num, 2), 0.5, np.float32), np.ones((1, num, 3), np.float32)
    opacities = np.float32([[0.99, 0.98, 0.995, 0.1]])  # T: 1e-2, 2e-4, then 2e-6 <= 1e-4: stop
    depths, radii = np.float32([[1, 2, 3, 4]]), np.ones((1, num, 2), np.int32)
    splats = projection.Splats(means, conics, opacities, depths, radii)
    features = np.eye(num, dtype=np.float32)[None]
    color, left, _ = reference.blend(splats, features, width=1, height=1, max_alpha=0.999)
    np.testing.assert_allclose(color[0, 0, 0], [0.99, 0.0098, 0, 0], rtol=1e-4)
    np.testing.assert_allclose(left[0, 0, 0], 2e-4, rtol=1e-3)


def test_depths_are_compared_as_float32_with_ties_by_index():
    with jax.enable_x64(True):
        depths = np.array([2.0 + 1e-12, 1.0, 2.0, 1.0 - 1e-12, 0.5])
        radii = np.ones((5, 2), np.int32)
        radii[4] = 0  # culled: last
        zeros = np.zeros(5)
        splats = projection.Splats(np.zeros((5, 2)), np.zeros((5, 3)), zeros, depths, radii)
        assert reference.depth_order(splats).tolist() == [1, 3, 0, 2, 4]


def test_end_to_end_finite_differences_in_float64():
    with jax.enable_x64(True):
        scene = suite.with_extras(arg_specs.random_scene(8, 12, 20, 17, scale=0.3, sh_degree=2))
        scene = {k: v.astype(np.float64) for k, v in scene.items()}
        options = dict(sh_degree=2, render_mode="RGB+ED", rasterize_mode="antialiased")
        grads = suite.run("reference", scene, 20, 17, **options)[1]
        rng = np.random.default_rng(7)  # the cotangents that `run` draws
        seeds = [rng.normal(size=(1, 17, 20, c)) for c in (4, 1)]

        def loss(scene):
            image, alpha, _ = suite.run("reference", scene, 20, 17, **options)[0]
            return np.sum(image * seeds[0]) + np.sum(alpha * seeds[1])

        rng = np.random.default_rng(0)
        for name, array in scene.items():
            step = 1e-6 * rng.normal(size=array.shape)
            ends = [loss(scene | {name: array + s * step}) for s in (1, -1)]
            slope = np.sum(grads[name] * step)
            np.testing.assert_allclose(
                (ends[0] - ends[1]) / 2, slope, rtol=1e-5, atol=1e-11, err_msg=name
            )


@pytest.mark.slow
def test_forward_mode_and_second_derivatives_of_the_public_function():
    """Reverse mode of it is compared with finite differences elsewhere; here it is the standard."""
    with jax.enable_x64(True):
        scene = arg_specs.random_scene(0, 4, 8, 6, scale=0.3)
        scene = {k: jnp.asarray(v, jnp.float64) for k, v in scene.items()}

        def loss(means):
            image, alpha, _ = api.rasterize(
                **scene | dict(means=means), width=8, height=6, backend="reference"
            )
            return jnp.sum(jnp.sin(3 * image)) + jnp.sum(alpha)

        means, gradient = scene["means"], jax.grad(loss)
        tangent = jnp.asarray(np.random.default_rng(0).normal(size=means.shape))

        @jax.jit
        def derivatives(means):
            slope = jax.jvp(loss, (means,), (tangent,))[1]
            return slope, *jax.jvp(gradient, (means,), (tangent,))

        slope, grad, product = derivatives(means)
        np.testing.assert_allclose(slope, jnp.sum(grad * tangent), rtol=1e-9)
        ends = [derivatives(means + step * tangent)[1] for step in (1e-6, -1e-6)]
        difference = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(product, difference, atol=1e-6 * np.abs(difference).max())
