"""Projection: a hand-computed case, limits, degenerate inputs, finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import arg_specs, constants
from gsjax.raster import project as projection

WIDTH, HEIGHT = 40, 30
NAMES = ("means", "quats", "scales", "opacities", "viewmats", "Ks")


def _arguments(scene):
    """Positional arguments of `project` for the scene's first camera."""
    return [scene[k][0] if k in ("viewmats", "Ks") else scene[k] for k in NAMES]


@pytest.fixture
def scene():
    return arg_specs.random_scene(0, 16, WIDTH, HEIGHT)


@jax.jit
def _project(*args):
    return projection.project_and_flag(
        *args, WIDTH, HEIGHT, near_plane=0.01, far_plane=100.0, eps2d=0.3, rasterize_mode="classic"
    )


@jax.jit
def _gradients(*args):
    def loss(*args):
        splats, _ = _project(*args)
        smooth = splats.means2d, splats.conics, splats.opacities, splats.depths
        return sum(jnp.sum(jnp.sin(x)) for x in smooth)

    return jax.grad(loss, argnums=range(6))(*args)


def _by_definition(mean, quat, scale, viewmat, K, eps2d=0.3):
    """Mean, covariance and depth of one Gaussian with 3x3 matrices, in numpy float64."""
    w, x, y, z = quat / np.linalg.norm(quat)
    rot = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    sigma = rot @ np.diag(scale**2) @ rot.T
    x, y, z = viewmat[:3, :3] @ mean + viewmat[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    mx, my = 0.3 * WIDTH / (2 * fx), 0.3 * HEIGHT / (2 * fy)
    tx = z * np.clip(x / z, -cx / fx - mx, (WIDTH - cx) / fx + mx)
    ty = z * np.clip(y / z, -cy / fy - my, (HEIGHT - cy) / fy + my)
    jac = np.array([[fx / z, 0, -fx * tx / z**2], [0, fy / z, -fy * ty / z**2]])
    jac = jac @ viewmat[:3, :3]
    return np.array([fx * x / z + cx, fy * y / z + cy]), jac @ sigma @ jac.T + eps2d * np.eye(2), z


def test_equals_the_matrix_formula(scene):
    scene["means"] *= 1.5  # some beyond the frustum's edge, where the Jacobian is clamped
    scene["Ks"][0, 0, 2] += 7  # off the middle: the clamp is asymmetric
    splats, nonfinite = _project(*_arguments(scene))
    for i in range(16):
        args = [np.float64(scene[k][i]) for k in NAMES[:3]]
        mean, cov, depth = _by_definition(*args, scene["viewmats"][0], scene["Ks"][0])
        inverse = np.linalg.inv(cov)
        expected = inverse[[0, 0, 1], [0, 1, 1]]
        np.testing.assert_allclose(splats.means2d[i], mean, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(splats.conics[i], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(splats.depths[i], depth, rtol=1e-5)
        if np.all(splats.radii[i] > 0):
            sigmas = min(constants.EXTENT, np.sqrt(2 * np.log(255 * scene["opacities"][i])))
            extent = np.ceil(sigmas * np.sqrt(np.diag(cov)))
            np.testing.assert_allclose(splats.radii[i], extent, atol=1)
    assert not nonfinite.any() and np.any(splats.radii > 0) and np.any(splats.radii == 0)


def test_round_gaussian_by_hand():
    # Scale 0.1 at depth 2 with focal length 20: variance (20 * 0.1 / 2)^2 + 0.3 = 1.3 pixels^2.
    K = np.array([[20.0, 0, 20], [0, 20, 15], [0, 0, 1]], np.float32)
    args = np.array([[0, 0, 2]]), np.array([[3, 0, 0, 0]]), np.full((1, 3), 0.1), np.ones(1)
    splats, _ = _project(*(np.float32(a) for a in args), np.eye(4, dtype=np.float32), K)
    np.testing.assert_allclose(splats.means2d, [[20, 15]])
    np.testing.assert_allclose(splats.conics, [[1 / 1.3, 0, 1 / 1.3]], rtol=1e-6, atol=1e-7)
    # sqrt(2 ln 255) sqrt(1.3) = 3.329 * 1.140 = 3.80
    np.testing.assert_array_equal(splats.radii, [[4, 4]])


def test_fainter_gaussians_have_smaller_extents_and_below_1_255_none(scene):
    scene["means"][:] = 0
    scene["scales"][:] = 0.2
    scene["opacities"][:] = np.linspace(0.0, 1.0, 16) ** 4
    radii = np.asarray(_project(*_arguments(scene))[0].radii)
    assert np.all(np.diff(radii[:, 0]) >= 0) and radii[-1, 0] > radii[5, 0]
    np.testing.assert_array_equal(radii[:, 0] > 0, scene["opacities"] > 1 / 255)


def test_culling_by_depth_and_image(scene):
    depths = np.array([-1.0, 0.0, 0.009, 0.02, 99.0, 101.0])
    scene["means"][:6] = depths[:, None] * np.float32([0, 0, 1])
    scene["means"][6:] = np.float32([50.0, 0.0, 2.0])  # far to the right
    scene["viewmats"][0] = np.eye(4)
    scene["scales"][:] = 0.02
    scene["opacities"][:] = 0.9
    radii = np.asarray(_project(*_arguments(scene))[0].radii)
    assert (radii[:, 0] > 0).tolist() == [False, False, False, True, True, False] + [False] * 10


def test_degenerate_gaussians_get_finite_values_and_gradients(scene):
    scene["viewmats"][0] = np.eye(4)
    scene["means"][:] += np.float32([0, 0, 2])
    scene["means"][0, 2] = 0.0  # on the camera plane
    scene["means"][1, 2] = -1.0
    scene["means"][2] = 0.0  # at the camera itself
    scene["scales"][3] = 0.0
    scene["quats"][4] = 0.0
    scene["opacities"][5] = 0.0
    scene["scales"][6] = 1e11  # finite, but not its square in pixels
    scene["quats"][7] = 1e-20
    scene["quats"][8] = 1e11
    splats, nonfinite = _project(*_arguments(scene))
    assert all(np.all(np.isfinite(x)) for x in splats)
    assert np.flatnonzero(nonfinite).tolist() == [6]
    grads = _gradients(*_arguments(scene))
    assert all(np.all(np.isfinite(g)) for g in grads)
    assert np.all(grads[0][:3] == 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e13])
def test_nonfinite_inputs_are_flagged_and_leave_the_others_alone(scene, value):
    clean = _gradients(*_arguments(scene))
    for i, name in enumerate(NAMES[:4]):
        scene[name][i] = value
    splats, nonfinite = _project(*_arguments(scene))
    assert np.flatnonzero(nonfinite).tolist() == [0, 1, 2, 3]
    assert np.all(splats.radii[:4] == 0) and all(np.all(np.isfinite(x)) for x in splats)
    grads = _gradients(*_arguments(scene))
    for clean_grad, grad in zip(clean[:4], grads[:4], strict=True):
        np.testing.assert_array_equal(grad[:4], 0)
        np.testing.assert_array_equal(grad[4:], clean_grad[4:])
    assert all(np.all(np.isfinite(g)) for g in grads)


def test_antialiased_dims_small_gaussians_down_to_a_floor(scene):
    scene["scales"][:] = np.geomspace(1e-6, 1.0, 16)[:, None]
    scene["means"][:] = 0
    args = _arguments(scene)
    splats = projection.project(*args, WIDTH, HEIGHT, rasterize_mode="antialiased")
    factor = np.asarray(splats.opacities) / scene["opacities"]
    np.testing.assert_allclose(factor[0], constants.COMPENSATION_MIN, rtol=1e-5)
    assert np.all(np.diff(factor) >= -1e-6) and factor[-1] > 0.999
    for i in (8, 11):
        args64 = [np.float64(scene[k][i]) for k in NAMES[:3]]
        _, cov, _ = _by_definition(*args64, scene["viewmats"][0], scene["Ks"][0])
        expected = np.sqrt(np.linalg.det(cov - 0.3 * np.eye(2)) / np.linalg.det(cov))
        np.testing.assert_allclose(factor[i], max(expected, 0.005), rtol=1e-4)


def test_finite_differences_in_float64(scene):
    scene["Ks"][0, 0, 2] += 7
    scene["means"] *= 1.5
    with jax.enable_x64(True):
        args = [np.float64(a) for a in _arguments(scene)]

        def loss(*args):
            splats = projection.project(*args, WIDTH, HEIGHT, rasterize_mode="antialiased")
            smooth = splats.means2d, splats.conics, splats.opacities, splats.depths
            return sum(jnp.sum(jnp.sin(x)) for x in smooth)

        value, grads = jax.jit(loss), jax.jit(jax.grad(loss, argnums=range(6)))(*args)
        rng = np.random.default_rng(100)  # not the scene's: along quats themselves nothing changes
        for i, grad in enumerate(grads):
            step = 1e-7 * rng.normal(size=args[i].shape)
            ends = [float(value(*args[:i], args[i] + s * step, *args[i + 1 :])) for s in (1, -1)]
            np.testing.assert_allclose((ends[0] - ends[1]) / 2, np.sum(grad * step), rtol=1e-5)


def test_unknown_mode_is_refused(scene):
    with pytest.raises(ValueError, match="antialiased"):
        projection.project(*_arguments(scene), WIDTH, HEIGHT, rasterize_mode="sharp")
