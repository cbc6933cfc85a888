"""Cost volumes against loops, another sampler, and known geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import rays
from gsjax.models.feedforward import plane_sweep, views
from tests.models.feedforward import case

H, W, C, D = 4, 6, 3, 5
_cost = jax.jit(plane_sweep.cost_volume, static_argnames=("chunk", "warp_intrinsics"))


def _scene(count=3, seed=0):
    """Features, inverse depths [B, V, D], Ks in cells, c2ws and neighbours; one camera looks back."""
    Ks, c2ws = case.views(1, count, seed, spread=0.5)
    c2ws[0, -1, :3, :3] = case.rotation((0, np.pi - 0.2, 0))
    Ks = Ks * np.asarray((W, H, 1))[:, None]
    features = np.random.default_rng(seed).normal(size=(1, count, H, W, C))
    near, far = np.asarray([0.4]), np.asarray([6.0])
    low, high = 1 / far[0], 1 / near[0]
    planes = np.tile(np.linspace(low, high, D), (1, count, 1))
    order = [[(i + j) % count for j in range(1, count)] for i in range(count)]
    return features, planes, Ks, c2ws, np.asarray([order], np.int32)


def _place(Ks, c2ws, view, other, row, column, depth, target):
    """Cell of a neighbour, by inverse matrices."""
    point = np.linalg.inv(Ks[view]) @ (column, row, 1) * depth
    point = np.linalg.inv(c2ws[other]) @ c2ws[view] @ (*point, 1)
    x, y, z = target @ point[:3]
    return x / max(z, 1e-3), y / max(z, 1e-3)


def _bilinear(image, x, y):
    total = 0.0
    for row in (np.floor(y), np.floor(y) + 1):
        for column in (np.floor(x), np.floor(x) + 1):
            if 0 <= row < H and 0 <= column < W:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                total += weight * image[int(row), int(column)]
    return total


def _loop(features, planes, Ks, c2ws, index, warp="both"):
    out = np.zeros((features.shape[1], H, W, planes.shape[2]))
    for v, row, column, d in np.ndindex(out.shape):
        depth = 1 / (planes[0, v, d] if planes.ndim == 3 else planes[0, v, d, row, column])
        values = []
        for other in index[0, v]:
            target = Ks[0, other if warp == "both" else v]
            x, y = _place(Ks[0], c2ws[0], v, other, row, column, depth, target)
            sample = _bilinear(features[0, other], x, y)
            values.append(np.sum(features[0, v, row, column] * sample) / np.sqrt(C))
        out[v, row, column, d] = np.mean(values)
    return out


@pytest.mark.parametrize("warp, chunk", [("both", 2), ("reference", 8)])
def test_equals_the_loop_with_borders_and_points_behind_the_camera(warp, chunk):
    scene = _scene()
    with jax.enable_x64(True):
        a, b = plane_sweep.sweep_lines(*map(jnp.asarray, scene[2:]), H, W, warp)
        z = np.asarray(a)[..., 2] / scene[1].max() + np.asarray(b)[..., None, 2]
        assert (z < 0).any() and (z > 0).any()
        found = _cost(*map(jnp.asarray, scene), chunk=chunk, warp_intrinsics=warp)
    expected = _loop(*scene, warp)
    assert (expected == 0).any() and (expected != 0).mean() > 0.2
    np.testing.assert_allclose(found[0], expected, atol=1e-10)


def test_each_cell_may_have_planes_of_its_own():
    features, planes, Ks, c2ws, index = _scene(3, seed=3)
    planes = np.random.default_rng(0).uniform(0.2, 2.0, (1, 3, D, H, W))
    with jax.enable_x64(True):
        found = _cost(*map(jnp.asarray, (features, planes, Ks, c2ws, index)), chunk=3)
    expected = _loop(features, planes, Ks, c2ws, index)
    assert (expected != 0).mean() > 0.2
    np.testing.assert_allclose(found[0], expected, atol=1e-10)


def test_examples_do_not_mix():
    one, other = _scene(3, seed=7), _scene(3, seed=8)
    other = (*other[:4], other[4][..., ::-1])
    both = [np.concatenate(x).astype(x[0].dtype) for x in zip(one, other)]
    with jax.enable_x64(True):
        found = _cost(*map(jnp.asarray, both), chunk=3)
    for example, scene in zip(found, (one, other)):
        np.testing.assert_allclose(example, _loop(*scene), atol=1e-10)


def test_samples_are_those_of_map_coordinates():
    rng = np.random.default_rng(2)
    image = jnp.asarray(rng.normal(size=(H, W)), jnp.float32)
    # As a line that runs through the picture, its borders, corners and far outside.
    places = np.concatenate(
        (rng.uniform(-2, 8, (40, 2)), [[0, 0], [-1, 2], [W - 1, H - 1], [1e6, 2]])
    )
    a = np.concatenate((places, np.ones((44, 1))), 1).astype(np.float32)[None, None, None]

    @jax.jit
    def both(a):
        taps = plane_sweep._taps(a, jnp.zeros((1, 1, 1, 3)), jnp.ones((1, 1, 1, 1)), H, W)
        found = sum(w * image.reshape(-1)[cell] for cell, w in taps)[0, 0, 0, 0]
        yx = (a[0, 0, 0, :, 1], a[0, 0, 0, :, 0])
        return found, jax.scipy.ndimage.map_coordinates(image, yx, 1, mode="constant", cval=0.0)

    np.testing.assert_allclose(*both(a), atol=1e-5)


def _textured_plane(depth, size=16):
    """Features of a plane z = depth seen by two cameras with different lenses, equal where points are.

    Sines and cosines of world positions: all cells have features of one length, so that the agreement
    is largest exactly where the samples are the same.
    """
    c2ws = case.poses([(0, 0, 0), (0, -0.05, 0.02)], [(0, 0, 0), (0.35, 0.05, -0.1)])[None]
    Ks = np.tile(np.eye(3), (1, 2, 1, 1)) * np.asarray((size, size, 1))[:, None]
    Ks[..., :2, 2] = size / 2 - 0.5
    Ks[0, 1, :2, :2] *= 1.15
    Ks[0, 1, 0, 2] += 1.5
    waves = np.random.default_rng(0).normal(0, 3.0 / depth, (12, 2))
    features = []
    for v in range(2):
        cells = np.asarray(rays.pixel_indices(size, size)).reshape(-1, 2)
        lines = np.concatenate((cells, np.ones((len(cells), 1))), 1) @ np.linalg.inv(Ks[0, v]).T
        lines = lines @ c2ws[0, v, :3, :3].T
        reach = (depth - c2ws[0, v, 2, 3]) / lines[:, 2]
        points = (c2ws[0, v, :3, 3] + reach[:, None] * lines)[:, :2]
        phase = points @ waves.T
        features.append(np.concatenate((np.cos(phase), np.sin(phase)), 1).reshape(size, size, -1))
    return np.stack(features)[None], Ks, c2ws


@pytest.mark.parametrize("plane", [2, 4])
def test_agreement_of_a_textured_plane_peaks_at_its_depth(plane):
    # 0.8 cells from plane to plane.
    near, far, planes = jnp.asarray([1.0]), jnp.asarray([8.0]), 7
    inverse = plane_sweep.candidates(near, far, planes, 2)
    features, Ks, c2ws = _textured_plane(1 / float(inverse[0, 0, plane]))
    index = views.other_views(1, 2)
    args = [jnp.asarray(x, jnp.float32) for x in (features, inverse, Ks, c2ws)]
    volume = np.asarray(_cost(*args, index))[0, 0]
    # Cells that the other camera sees at all depths.
    inside = volume[4:12, 8:13]
    assert (inside.argmax(-1) == plane).mean() > 0.95
    assert inside[..., plane].mean() > 0.9 * 12 / 24**0.5  # cos^2 + sin^2 of 12 waves, over sqrt(C)
    wrong = np.asarray(_cost(*args, index, warp_intrinsics="reference"))[0, 0, 4:12, 8:13]
    assert (wrong.argmax(-1) == plane).mean() < 0.5


def test_gradient_reaches_features_alone_and_equals_finite_differences():
    scene = [np.asarray(x) for x in _scene(3, seed=5)]
    rng = np.random.default_rng(6)
    with jax.enable_x64(True):
        scene = list(map(jnp.asarray, scene))
        probe = jnp.asarray(rng.normal(size=(1, 3, H, W, D)))
        step = jnp.asarray(rng.normal(size=scene[0].shape)) * 1e-3

        def loss(features, planes, Ks, c2ws):
            return jnp.sum(
                probe * plane_sweep.cost_volume(features, planes, Ks, c2ws, scene[4], chunk=2)
            )

        value = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
        (plus, _), (minus, _) = (
            value(scene[0] + step, *scene[1:4]),
            value(scene[0] - step, *scene[1:4]),
        )
        _, grads = value(*scene[:4])
        # Quadratic in the features, so the central difference is exact up to rounding.
        expected = (plus - minus) / 2
        np.testing.assert_allclose(jnp.sum(grads[0] * step), expected, rtol=1e-9)
        assert float(jnp.abs(grads[0]).max()) > 0
        assert all(not np.asarray(g).any() for g in grads[1:])


def test_candidates_by_hand():
    found = plane_sweep.candidates(jnp.asarray([0.5]), jnp.asarray([2.0]), 4, 3)
    np.testing.assert_allclose(found, np.tile([0.5, 1.0, 1.5, 2.0], (1, 3, 1)), rtol=1e-6)
    first = jnp.asarray([[[[1.0, 0.55]]]])
    near, far = jnp.asarray([0.5]), jnp.asarray([2.0])
    local = plane_sweep.local_candidates(first, near, far, count=4, step=0.1)
    np.testing.assert_allclose(local[0, 0, :, 0, 0], [0.7, 0.85, 1.0, 1.15], rtol=1e-6)
    np.testing.assert_allclose(local[0, 0, [0, -1], 0, 1], [0.5, 0.7], rtol=1e-6)


def test_bad_arguments_are_named():
    scene = [jnp.asarray(x) for x in _scene(2)]
    with pytest.raises(ValueError, match="warp_intrinsics: unknown 'own'; known: both, reference"):
        plane_sweep.cost_volume(*scene, warp_intrinsics="own")
    with pytest.raises(ValueError, match="inverse_depths: expected"):
        plane_sweep.cost_volume(scene[0], scene[1][:, :1], *scene[2:])
    with pytest.raises(ValueError, match="chunk"):
        plane_sweep.cost_volume(*scene, chunk=0)
