"""Feature fusion: projection, visibility, sampling, and who gets a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import cameras
from gsjax.models.backbones import base
from gsjax.raster import api
from gsjax.systems.unipre3d import fusion

WIDTH, HEIGHT = 40, 24
K = jnp.asarray([[31.0, 0.0, 14.3], [0.0, 27.0, 15.9], [0.0, 0.0, 1.0]])  # off centre, not square


def _viewmat():
    return cameras.look_at(
        jnp.asarray([0.4, 0.3, -2.0]), jnp.asarray([0.05, 0.0, 0.1]), jnp.asarray([0.0, 1.0, 0.0])
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_projected_point_is_the_peak_of_its_gaussian(seed):
    point = jnp.asarray(np.random.default_rng(seed).uniform(-0.4, 0.4, (1, 3)), jnp.float32)
    pixels, z = fusion.project(point, _viewmat(), K)
    assert bool(fusion.inside(pixels, z, (WIDTH, HEIGHT))[0])
    _, alpha, _ = api.rasterize(
        point,
        jnp.asarray([[1.0, 0, 0, 0]]),
        jnp.full((1, 3), 0.05),
        jnp.asarray([0.9]),
        jnp.ones((1, 1)),
        _viewmat()[None],
        K[None],
        WIDTH,
        HEIGHT,
    )
    row, column = np.unravel_index(int(jnp.argmax(alpha[0, ..., 0])), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(np.floor(pixels[0]), [column, row])


def test_points_behind_the_camera_and_outside_are_not_inside():
    points = jnp.asarray([[0.0, 0.0, -3.0], [0.0, 0.0, 0.5], [5.0, 0.0, 0.5]])
    viewmat = jnp.eye(4).at[2, 3].set(1.0)
    pixels, z = fusion.project(points, viewmat, K)
    assert np.isfinite(pixels).all()
    inside = fusion.inside(pixels, z, (WIDTH, HEIGHT))
    assert inside.tolist() == [False, True, False]


def test_the_far_one_of_two_planes_is_hidden():
    side = jnp.linspace(-0.4, 0.4, 12)
    x, y = (a.ravel() for a in jnp.meshgrid(side, side))
    near = jnp.stack([x, y, jnp.full_like(x, 1.0)], -1)
    far = near * 1.5  # the same pixels, farther away
    points = jnp.concatenate([near, far])
    seen, _ = fusion.visible(
        points, jnp.ones(len(points), bool), points, jnp.ones(len(points), bool), jnp.eye(4), K,
        size=(WIDTH, HEIGHT), grid=8, tolerance=0.05,
    )  # fmt: skip
    shown = np.asarray(fusion.inside(*fusion.project(near, jnp.eye(4), K), (WIDTH, HEIGHT)))
    assert shown.mean() > 0.7
    np.testing.assert_array_equal(seen[: len(near)], shown)
    assert not seen[len(near) :].any()


def test_masked_points_hide_nothing():
    points = jnp.asarray([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]])
    options = dict(size=(WIDTH, HEIGHT), grid=8, tolerance=0.05)
    for mask, expected in (([True, True], [True, False]), ([False, True], [False, True])):
        mask = jnp.asarray(mask)
        seen, _ = fusion.visible(points, mask, points, mask, jnp.eye(4), K, **options)
        assert seen.tolist() == expected


def test_most_of_a_spheres_near_side_is_kept_and_its_far_side_left_out():
    """1,024 points: 16 x 16 cells tell the sides apart, one cell a pixel does not."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(1024, 3))
    points = jnp.asarray(0.5 * points / np.linalg.norm(points, axis=-1, keepdims=True), jnp.float32)
    eye = jnp.asarray([0.0, 0.0, -1.6])
    viewmat = cameras.look_at(eye, jnp.zeros(3), jnp.asarray([0.0, 1.0, 0.0]))
    camera = cameras.intrinsics_from_fov(49.0, 128, 128)
    mask = jnp.ones(1024, bool)

    def visible(grid):
        return fusion.visible(
            points, mask, points, mask, viewmat, camera, size=(128, 128), grid=grid, tolerance=0.05
        )[0]

    seen = visible(16)
    truly = np.asarray(jnp.sum(points * (eye - points), -1) > 0)  # the sphere's outward normal
    assert seen[truly].mean() > 0.7
    assert seen[~truly].mean() < 0.15
    assert visible(128)[~truly].mean() > 0.8


def test_bilinear_samples_of_a_linear_map_are_exact():
    height, width = 6, 10
    row, column = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    features = jnp.stack([column * 4, row * 4], -1)  # in pixels of a picture of 40 x 24
    pixels = jnp.asarray([[3.0, 7.0], [20.2, 11.9], [37.9, 21.7]])
    found = fusion.sample(features, pixels, (WIDTH, HEIGHT))
    np.testing.assert_allclose(found, pixels, rtol=1e-5)
    corner = fusion.sample(features, jnp.asarray([[0.0, 23.9]]), (WIDTH, HEIGHT))
    np.testing.assert_allclose(corner, [[2.0, 22.0]], rtol=1e-6)  # the border's own value


def _views(features, count=1):
    return fusion.Views(
        features,
        jnp.broadcast_to(jnp.eye(4), (1, count, 4, 4)),
        jnp.broadcast_to(K, (1, count, 3, 3)),
        (WIDTH, HEIGHT),
    )


def test_seen_places_get_the_mean_over_views_and_hidden_ones_zeros():
    centres = jnp.asarray([[[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]])
    mask = jnp.ones((1, 2), bool)
    features = jnp.stack([jnp.full((3, 5, 2), 1.0), jnp.full((3, 5, 2), 4.0)])[None]
    found, seen = fusion.gather(
        _views(features, 2), centres, mask, centres, mask, grid=8, tolerance=0.05
    )
    assert seen.tolist() == [[True, False]]
    np.testing.assert_allclose(found, [[[2.5, 2.5], [0.0, 0.0]]])


def test_fusion_is_the_written_formula_and_blind_without_views():
    rng = np.random.default_rng(1)
    centres = jnp.asarray([[[0.0, 0.0, 1.0], [0.1, 0.1, 1.0], [0.0, 0.0, 5.0]]])
    mask = jnp.asarray([[True, False, True]])
    feat = jnp.asarray(rng.normal(size=(1, 3, 4)), jnp.float32)
    sites = base.Sites(centres, feat, mask)
    views = _views(jnp.asarray(rng.uniform(size=(1, 1, HEIGHT, WIDTH, 8)), jnp.float32))
    layer = fusion.FeatureFusion(8, 0.05)
    variables = layer.init(jax.random.key(0), sites, centres, mask, views)
    fused, share = layer.apply(variables, sites, centres, mask, views)
    assert float(share) == 0.5
    assert (fused.feat[0, 1] == 0).all()
    p = variables["params"]
    hidden = feat[0, 2] @ p["join"]["kernel"][:4] + p["join"]["bias"]  # the image part is zero
    np.testing.assert_allclose(fused.feat[0, 2], np.maximum(hidden, 0), rtol=1e-5, atol=1e-6)
    blind, share = layer.apply(variables, sites, centres, mask, None)
    assert float(share) == 0.0
    np.testing.assert_allclose(blind.feat[0, 2], fused.feat[0, 2], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(blind.feat[0, 0] - fused.feat[0, 0]).max()) > 1e-3
