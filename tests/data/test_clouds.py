"""Depth to points and back, fusion, thinning and crops."""

import dataclasses

import numpy as np
import pytest

from gsjax.data import clouds
from gsjax.data.rooms import source
from gsjax.data.scenes import View
from tests.data.scene_cases import WallScene


def _camera(rng):
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    viewmat = np.eye(4)
    viewmat[:3, :3] = turn * np.sign(np.linalg.det(turn))
    viewmat[:3, 3] = rng.normal(size=3)
    return viewmat, np.array([[40.0, 0, 13], [0, 33, 12], [0, 0, 1]])


def test_back_projection_is_undone_by_projection():
    rng = np.random.default_rng(0)
    viewmat, K = _camera(rng)
    depth = rng.uniform(0.5, 4, (19, 27))
    pixels, found = clouds.project(clouds.back_project(depth, viewmat, K), viewmat, K)
    np.testing.assert_allclose(found, depth)
    y, x = np.mgrid[:19, :27] + 0.5
    np.testing.assert_allclose(pixels, np.stack([x, y], -1))
    # By hand: identity camera, pixel (0, 0) has its centre at (0.5, 0.5).
    point = clouds.back_project(np.array([[2.0]]), np.eye(4), np.diag([4.0, 8.0, 1.0]))[0, 0]
    np.testing.assert_allclose(point, [0.25, 0.125, 2])


def test_normals_of_a_plane_face_the_camera():
    rng = np.random.default_rng(1)
    viewmat, K = _camera(rng)
    # Plane n . p = 2 in camera space: depth = 2 / (n . ray).
    normal = np.array([0.2, -0.3, 0.9])
    normal /= np.linalg.norm(normal)
    y, x = np.mgrid[:20, :30] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    depth = 2 / (rays @ normal)
    found = clouds.depth_normals(depth, viewmat, K)
    expected = -viewmat[:3, :3].T @ normal
    np.testing.assert_allclose(found[1:-1, 1:-1], np.tile(expected, (18, 28, 1)), atol=1e-5)
    assert not found[0].any() and not found[:, -1].any()
    depth[5, 5] = 0
    depth[12:, 12:] *= 2
    found = clouds.depth_normals(depth, viewmat, K)
    assert not found[4:7, 5].any() and not found[5, 4:7].any()  # no depth here or beside it
    assert not found[12, 12:].any() and not found[11, 12:].any()  # an edge


def test_strided_pictures_keep_their_rays():
    K = np.array([[40.0, 0, 13], [0, 33, 12], [0, 0, 1]])
    depth = np.random.default_rng(0).uniform(1, 2, (20, 30))
    full = clouds.back_project(depth, np.eye(4), K)
    for stride in (1, 2, 3):
        some = clouds.back_project(depth[::stride, ::stride], np.eye(4), clouds.strided(K, stride))
        np.testing.assert_allclose(some, full[::stride, ::stride])


def test_fusion_finds_the_surface_its_colour_and_its_majority_label():
    scene = WallScene(num_frames=6)
    cloud = clouds.fuse((scene.view(i) for i in range(6)), voxel=0.25, least=2)
    np.testing.assert_allclose(cloud.xyz[:, 1], 4, atol=1e-6)
    np.testing.assert_allclose(cloud.normal, np.tile([0, -1, 0], (len(cloud), 1)), atol=1e-6)
    assert np.abs(cloud.rgb.astype(int) - scene.paint(cloud.xyz)).max() <= 1
    assert len(np.unique(np.floor(cloud.xyz / 0.25), axis=0)) == len(cloud)
    # Voxels end at whole numbers, so no voxel mixes labels.
    np.testing.assert_array_equal(cloud.label, np.floor(cloud.xyz[:, 0]) % 5)
    far = clouds.fuse([scene.view(0)], voxel=0.5, stride=3)
    assert 0 < len(far) < len(cloud)
    with pytest.raises(ValueError, match="no pixel"):
        clouds.fuse([scene.view(0)], voxel=0.5, max_depth=3.0)
    with pytest.raises(ValueError, match="no voxel has 999"):
        clouds.fuse([scene.view(0)], voxel=0.5, least=999)
    with pytest.raises(ValueError, match="voxel > 0"):
        clouds.fuse([], voxel=0.0)


def test_fusion_of_a_room_lies_on_its_surfaces():
    recipe = source.Recipe(num_frames=6, width=64, height=48)
    scene = source.RoomScene(0, seed=0, split="train", recipe=recipe)
    cloud = clouds.fuse((scene.view(i) for i in range(6)), voxel=0.05)
    away = np.abs(scene.caster.clearance(cloud.xyz.astype(float)))
    assert np.median(away) < 2e-3 and np.quantile(away, 0.95) < 0.03
    assert (cloud.label >= 0).all()


def test_fused_views_without_labels_have_none():
    view = WallScene().view(0)
    bare = View(view.image, view.depth, None, view.viewmat, view.K)
    assert (clouds.fuse([bare], voxel=0.3).label == clouds.NO_LABEL).all()


def test_one_point_a_voxel():
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-1, 1, (2000, 3))
    cells = np.floor(xyz / 0.3)
    number = len(np.unique(cells, axis=0))
    first = clouds.grid_sample(xyz, 0.3)
    assert len(first) == number == len(np.unique(cells[first], axis=0))
    assert (np.diff(first) > 0).all()
    for row in first[:20]:  # without a generator the first of its voxel
        assert row == np.flatnonzero((cells == cells[row]).all(-1))[0]
    drawn = clouds.grid_sample(xyz, 0.3, rng)
    assert len(drawn) == number and not np.array_equal(drawn, first)
    with pytest.raises(ValueError, match="voxel"):
        clouds.grid_sample(xyz, 0)


@pytest.mark.parametrize("kind", ["sphere", "box"])
def test_crops_keep_the_nearest_points(kind):
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(500, 3))
    center = np.array([0.3, 0.1, -0.2])
    rows, region = clouds.crop(xyz, 100, kind, center=center, rng=rng)
    away = np.abs(xyz - center).max(-1) if kind == "box" else np.linalg.norm(xyz - center, axis=-1)
    np.testing.assert_array_equal(rows, np.sort(np.argsort(away)[:100]))
    np.testing.assert_array_equal(np.flatnonzero(region.holds(xyz)), rows)
    rows, region = clouds.crop(xyz, 100, kind, rng=None)
    again, _ = clouds.crop(xyz, 100, kind, rng=None)
    np.testing.assert_array_equal(rows, again)
    assert region.holds(xyz).sum() == 100
    everything, region = clouds.crop(xyz, 500, kind, rng=rng)
    np.testing.assert_array_equal(everything, np.arange(500))
    assert region.holds(xyz * 100).all()


def test_random_crops_spread_over_the_cloud():
    xyz = np.arange(300.0)[:, None] * [1, 0, 0]
    rows, region = clouds.crop(xyz, 30, "random", rng=None)
    np.testing.assert_array_equal(rows, np.arange(30) * 10)
    assert region.holds(xyz).all()
    drawn, _ = clouds.crop(xyz, 30, "random", rng=np.random.default_rng(0))
    assert len(set(drawn)) == 30 and (np.diff(drawn) > 0).all()
    with pytest.raises(ValueError, match="unknown 'cube'"):
        clouds.crop(xyz, 3, "cube", rng=None)
    with pytest.raises(ValueError, match="num_points"):
        clouds.crop(xyz, 0, "box", rng=None)


def test_clouds_check_their_shapes():
    cloud = WallScene().cloud()
    np.testing.assert_array_equal(cloud.take([3, 1]).xyz, cloud.xyz[[3, 1]])
    with pytest.raises(ValueError, match=r"Cloud.rgb: expected shape \[1200, 3\]"):
        dataclasses.replace(cloud, rgb=cloud.rgb[:-1])
