"""From raw channels to Gaussians in the world."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import rotations, sh
from gsjax.models.feedforward import gaussian_adapter as adapter
from tests.models.feedforward import case

B, V, H, W = 1, 2, 3, 4
_adapt = jax.jit(adapter.adapt, static_argnums=0)


def _inputs(config, seed=0):
    rng = np.random.default_rng(seed)
    Ks, c2ws = case.views(B, V, seed, spread=1.0)
    c2ws[0, 0, :3, :3] = case.rotation((0.4, -1.0, 0.7))
    arrays = (
        rng.normal(size=(B, V, H, W, config.channels)),
        rng.uniform(1, 9, (B, V, H, W)),
        rng.uniform(size=(B, V, H, W)),
        rng.uniform(size=(B, V, H, W, 3)),
        Ks,
        c2ws,
    )
    return [a.astype(np.float32) for a in arrays]


def _reference(config, raw, depths, images, K, c2w, row, column):
    """(mean, covariance) of one pixel, from the table of the module and matrices."""
    x, y = raw[:2]
    shift = {
        "sigmoid": lambda t: 1 / (1 + np.exp(-t)) - 0.5,
        "unconstrained": lambda t: config.offset_factor * t,
        "tanh": lambda t: np.tanh(t) * config.offset_factor / 2,
    }[config.offset]
    place = np.asarray([(column + 0.5 + shift(x)) / W, (row + 0.5 + shift(y)) / H, 1.0])
    mean = c2w[:3, :3] @ (np.linalg.inv(K) @ place * depths) + c2w[:3, 3]
    if config.variant == "depthsplat":
        size = np.clip(np.log1p(np.exp(raw[2:5] - 4)), config.scale_min, config.scale_max)
    elif config.variant == "depthsplat_oct2024":
        size = np.minimum(np.exp(raw[2:5] - 4), config.scale_max)
    else:
        pixel = 0.1 * (np.linalg.inv(K[:2, :2]) @ (1 / W, 1 / H)).sum()
        size = (0.5 + 14.5 / (1 + np.exp(-raw[2:5]))) * depths * pixel
    i, j, k, r = raw[5:9] / np.linalg.norm(raw[5:9])
    local = np.asarray(
        [
            [1 - 2 * (j * j + k * k), 2 * (i * j - k * r), 2 * (i * k + j * r)],
            [2 * (i * j + k * r), 1 - 2 * (i * i + k * k), 2 * (j * k - i * r)],
            [2 * (i * k - j * r), 2 * (j * k + i * r), 1 - 2 * (i * i + j * j)],
        ]
    )
    covariance = local @ np.diag(size**2) @ local.T
    return mean, c2w[:3, :3] @ covariance @ c2w[:3, :3].T


@pytest.mark.parametrize("name", adapter.PRESETS)
def test_means_and_covariances_equal_the_matrices_of_the_published_code(name):
    config = adapter.PRESETS[name]
    raw, depths, opacities, images, Ks, c2ws = _inputs(config)
    found = _adapt(config, raw, depths, opacities, images, Ks, c2ws).check()
    turn = np.asarray(jax.jit(rotations.quat_to_rotmat)(found.quats))
    covariances = np.einsum("bnij,bnj,bnkj->bnik", turn, np.square(found.scales), turn)
    for n, (v, row, column) in enumerate(np.ndindex(V, H, W)):
        mean, covariance = _reference(
            config, raw[0, v, row, column], depths[0, v, row, column], images, Ks[0, v], c2ws[0, v],
            row, column,
        )  # fmt: skip
        np.testing.assert_allclose(found.means[0, n], mean, atol=2e-5)
        np.testing.assert_allclose(covariances[0, n], covariance, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(covariances, np.swapaxes(covariances, -1, -2), atol=1e-6)
    assert np.linalg.eigvalsh(covariances).min() > -1e-6
    np.testing.assert_array_equal(found.opacities[0], opacities.reshape(-1))


def test_sizes_of_mvsplat_grow_with_depth_and_cover_pixels():
    config = adapter.PRESETS["mvsplat"]
    raw, depths, *_, Ks, _ = _inputs(config)
    once = adapter.scales(config, raw[..., 2:5], depths, Ks)
    np.testing.assert_allclose(
        adapter.scales(config, raw[..., 2:5], 3 * depths, Ks), 3 * once, rtol=1e-5
    )
    # Square pixels of normalised focal length 1 are 1 / W wide at depth 1; raw 0 gives 7.75 tenths of 2.
    K = np.diag([1.0, W / H, 1.0])[None, None]
    size = adapter.scales(config, np.zeros((1, 1, H, W, 3)), np.ones((1, 1, H, W)), K)
    np.testing.assert_allclose(size, 7.75 * 0.2 / W, rtol=1e-6)


def test_sizes_of_depthsplat_are_clipped():
    raw = jnp.asarray([-100.0, 0.0, 100.0])
    march, october = (adapter.PRESETS[n] for n in ("depthsplat", "depthsplat_oct2024"))
    np.testing.assert_allclose(
        adapter.scales(march, raw, None, None), [1e-10, np.log1p(np.exp(-4)), 3.0], rtol=1e-5
    )
    np.testing.assert_allclose(
        adapter.scales(october, raw, None, None), [0.0, np.exp(-4), 0.3], atol=1e-7
    )


@pytest.mark.parametrize("degree", [0, 2, 4])
def test_colour_in_a_turned_direction_is_that_of_the_camera_frame(degree):
    config = adapter.Config(sh_degree=degree)
    inputs = _inputs(config, seed=3)
    found = _adapt(config, *inputs)
    raw, images, c2ws = inputs[0], inputs[3], inputs[5]
    count = (degree + 1) ** 2
    local = raw[..., 9:].reshape(V, H * W, 3, count) * adapter.sh_mask(degree)
    local[..., 0] += ((images - 0.5) / sh.SH_C0).reshape(V, H * W, 3)
    dirs = np.random.default_rng(0).normal(size=(5, 3))
    basis = jax.jit(sh.basis, static_argnums=0)
    seen = np.asarray(found.sh[0]).reshape(V, H * W, count, 3)
    for v in range(V):
        here = basis(degree, dirs.astype(np.float32))
        there = basis(degree, (dirs @ c2ws[0, v, :3, :3].T).astype(np.float32))
        expected = np.einsum("dk,pck->pdc", here, local[v])
        np.testing.assert_allclose(np.einsum("dk,pkc->pdc", there, seen[v]), expected, atol=2e-5)


def _e3nn(dirs):
    """Bands 1 and 2 of e3nn's basis, as its documentation and generated code have them, up to scale."""
    x, y, z = dirs.T
    first = np.stack((x, y, z), -1)
    root = np.sqrt(3)
    second = (root * x * z, root * x * y, y * y - (x * x + z * z) / 2, root * y * z,
              root / 2 * (z * z - x * x))  # fmt: skip
    return first, np.stack(second, -1)


def test_e3nn_rotation_is_that_of_its_basis():
    rng = np.random.default_rng(0)
    turn = case.rotation((0.5, 1.2, -0.4))
    dirs = rng.normal(size=(40, 3))
    dirs /= np.linalg.norm(dirs, axis=-1, keepdims=True)
    values = rng.normal(size=(9, 3)).astype(np.float32)
    found = adapter.rotate_sh(values, jnp.asarray(turn, jnp.float32), "e3nn_compat")
    np.testing.assert_allclose(found[0], values[0], rtol=1e-6)
    for level, here, there in zip((1, 2), _e3nn(dirs), _e3nn(dirs @ turn.T)):
        # Y(R x) = D Y(x), solved for D by least squares.
        wigner = np.linalg.lstsq(here, there, rcond=None)[0].T
        part = slice(level**2, (level + 1) ** 2)
        np.testing.assert_allclose(found[part], wigner @ values[part], atol=1e-5)
    right = adapter.rotate_sh(values, jnp.asarray(turn, jnp.float32), "rasterizer")
    assert np.abs(np.asarray(right - found))[1:].max() > 0.1


def test_gradients_are_finite_also_at_a_zero_quaternion():
    config = adapter.Config(sh_degree=1)
    raw, *rest = _inputs(config)
    raw[0, 0, 0, 0, 5:9] = 0

    def loss(raw, depths):
        leaves = jax.tree.leaves(adapter.adapt(config, raw, depths, *rest[1:]))
        return sum(jnp.sum(jnp.sin(x)) for x in leaves)

    grads = jax.jit(jax.grad(loss, (0, 1)))(raw, rest[0])
    assert all(np.isfinite(g).all() for g in grads)
    assert (np.asarray(grads[1]) != 0).all()


def test_density_map_is_the_identity_at_zero_and_symmetric_elsewhere():
    p = jnp.linspace(0.0, 1.0, 5)
    np.testing.assert_array_equal(adapter.map_density(p), p)
    mapped = adapter.map_density(p, 1.0)
    np.testing.assert_allclose(mapped, 0.5 * (1 - (1 - p) ** 2 + p**0.5), rtol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="offset: unknown 'free'; known: sigmoid, tanh, unconstr"):
        adapter.Config(offset="free")
    with pytest.raises(ValueError, match="scale_min"):
        dataclasses.replace(adapter.PRESETS["mvsplat"], scale_min=20.0)
    inputs = _inputs(adapter.PRESETS["depthsplat"])
    with pytest.raises(ValueError, match="raw: expected .* SH degree 4"):
        adapter.adapt(adapter.PRESETS["mvsplat"], *inputs)
