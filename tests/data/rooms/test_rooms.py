"""Rooms: exact pictures, layouts without overlap, free camera paths, clouds that pictures agree with."""

import dataclasses
import functools

import numpy as np
import pytest

from gsjax.data import clouds
from gsjax.data.rooms import layout, paths, render, source, textures, things
from gsjax.data.rooms.textures import Texture

SMALL = source.Recipe(num_frames=12, width=40, height=30, num_points=3000)
OFF_CENTRE = np.array([[35.0, 0, 13.4], [0, 31.0, 21.7], [0, 0, 1]])


@functools.cache
def _scene(index: int, split: str = "train") -> source.RoomScene:
    return source.RoomScene(index, seed=3, split=split, recipe=SMALL)


def _eyes(viewmats):
    return -np.einsum("fji,fj->fi", viewmats[:, :3, :3], viewmats[:, :3, 3])


@pytest.mark.parametrize("index", range(4))
def test_depth_lies_on_the_surfaces_and_labels_name_them(index):
    scene = _scene(index)
    room = scene.caster.room
    for number in (0, 5, 11):
        made, viewmat = scene.frame(number), scene.viewmats[number]
        points = clouds.back_project(made.depth, viewmat, SMALL.K).reshape(-1, 3)
        assert np.abs(scene.caster.clearance(points)).max() < 1e-6
        part, label = made.part.ravel(), made.label.ravel()
        for which in np.unique(part[part >= 0]):
            own = room.parts[which]
            assert np.abs(own.solid.value(points[part == which])).max() < 1e-6
            assert (label[part == which] == own.label).all()
        to_eye = _eyes(viewmat[None])[0] - points
        normal = made.normal.reshape(-1, 3)
        assert (np.einsum("pi,pi->p", to_eye, normal) > -1e-6).all()


def test_pictures_equal_casting_every_ray_at_every_solid():
    # An off-centre principal point and unequal focal lengths: no solid may be culled wrongly.
    seen = 0
    for index in range(4):
        scene = _scene(index)
        for viewmat in scene.viewmats[::4]:
            hits = scene.caster.look(viewmat, OFF_CENTRE, 41, 29)
            rays_out = render.pixel_rays(viewmat, OFF_CENTRE, 41, 29).reshape(-1, 3)
            every = scene.caster.cast(_eyes(viewmat[None]), rays_out)
            np.testing.assert_allclose(hits.t, every.t, rtol=1e-12)
            np.testing.assert_array_equal(hits.part, every.part)
            seen += len(np.unique(hits.part[hits.part >= 0]))
    assert seen > 20


def test_points_project_to_the_pixel_that_saw_them():
    scene = _scene(1)
    made, viewmat = scene.caster.render(scene.viewmats[2], OFF_CENTRE, 41, 29), scene.viewmats[2]
    points = clouds.back_project(made.depth, viewmat, OFF_CENTRE)
    pixels, depth = clouds.project(points, viewmat, OFF_CENTRE)
    np.testing.assert_allclose(depth, made.depth, rtol=1e-6)
    np.testing.assert_allclose(pixels[..., 0], np.arange(41) + 0.5 + np.zeros((29, 1)), atol=1e-5)
    np.testing.assert_allclose(
        pixels[..., 1], np.arange(29)[:, None] + 0.5 + np.zeros(41), atol=1e-5
    )


def test_two_views_agree_on_what_both_see():
    scene = _scene(2)
    one, two = scene.frame(4), scene.frame(5)
    points = clouds.back_project(one.depth, scene.viewmats[4], SMALL.K).reshape(-1, 3)
    eye = _eyes(scene.viewmats[5][None])
    hits = scene.caster.cast(np.repeat(eye, len(points), 0), points - eye)
    both = np.abs(hits.t - 1) < 1e-5
    assert both.mean() > 0.3
    again, label, _ = scene.caster.surface(hits.part[both], points[both])
    np.testing.assert_array_equal(label, one.label.ravel()[both])
    # One colour from wherever it is seen; depth of the first picture is rounded to float32.
    same = np.abs(np.rint(255 * again) - one.image.reshape(-1, 3)[both]).max(-1) <= 2
    assert same.mean() > 0.99
    assert two.image.shape == (30, 40, 3)


def test_supersampled_colours_are_means_of_finer_pictures():
    scene, viewmat = _scene(0), _scene(0).viewmats[0]
    fine_K = SMALL.K * np.array([[3], [3], [1]])
    fine = scene.caster.render(viewmat, fine_K, 120, 90).image.astype(float)
    mean = fine.reshape(30, 3, 40, 3, 3).mean((1, 3))
    plain = scene.caster.render(viewmat, SMALL.K, 40, 30)
    smooth = scene.caster.render(viewmat, SMALL.K, 40, 30, supersample=3)
    np.testing.assert_allclose(smooth.image, mean, atol=1.01)
    np.testing.assert_array_equal(smooth.depth, plain.depth)
    assert (smooth.image != plain.image).any()


def test_cameras_outside_and_bad_options_are_refused():
    scene = _scene(0)
    viewmat = np.eye(4)
    viewmat[2, 3] = 50.0
    with pytest.raises(ValueError, match="outside the room"):
        scene.caster.look(viewmat, SMALL.K, 4, 3)
    with pytest.raises(ValueError, match="supersample"):
        scene.caster.render(scene.viewmats[0], SMALL.K, 4, 3, supersample=0)
    with pytest.raises(ValueError, match="Recipe.path: unknown 'fly'"):
        source.Recipe(path="fly")
    with pytest.raises(ValueError, match="points_from"):
        source.Recipe(points_from="air")
    with pytest.raises(ValueError, match="num_frames"):
        source.Recipe(num_frames=0)
    with pytest.raises(ValueError, match="fov_degrees"):
        source.Recipe(fov_degrees=180)
    with pytest.raises(ValueError, match="count"):
        source.Rooms(0, seed=0, split="train")
    with pytest.raises(IndexError):
        source.Rooms(2, seed=0, split="train")[2]
    with pytest.raises(ValueError, match="size"):
        layout.furnish(np.random.default_rng(0), (1.0, 2.0))


def test_a_room_depends_on_seed_split_and_index_alone():
    again = source.Rooms(9, seed=3, split="train", recipe=SMALL)[1]
    one = _scene(1)
    assert again.name == one.name == "room-3/train/000001"
    np.testing.assert_array_equal(again.viewmats, one.viewmats)
    np.testing.assert_array_equal(again.view(7).image, one.view(7).image)
    np.testing.assert_array_equal(again.cloud().xyz, one.cloud().xyz)
    for other in (
        source.RoomScene(1, seed=4, split="train", recipe=SMALL),
        source.RoomScene(1, seed=3, split="test", recipe=SMALL),
        source.RoomScene(2, seed=3, split="train", recipe=SMALL),
    ):
        assert not np.array_equal(other.caster.room.high, one.caster.room.high)


@pytest.mark.parametrize("seed", range(12))
def test_furniture_stands_in_the_room_without_overlap(seed):
    room = layout.furnish(np.random.default_rng(seed))
    prints = room.footprints
    assert len(prints) and (np.abs(prints) <= room.high[:2] + 1e-9).all()
    for one in range(len(prints)):
        for two in range(one):
            assert not layout.overlap(prints[one], prints[two])
    caster = render.Caster(room)
    assert (caster.low >= room.low - 1e-6).all() and (caster.high <= room.high + 1e-6).all()
    assert {part.thing for part in room.parts} == set(range(len(room.names)))
    assert {p.face for p in room.patches} <= {0, 1, 2, 3}
    for patch in room.patches:
        along = 1 if patch.face < 2 else 0
        assert (np.abs([patch.low[0], patch.high[0]]) <= room.high[along]).all()
        assert 0 <= patch.low[1] < patch.high[1] <= room.high[2]


def test_overlap_of_turned_rectangles():
    one = layout.rectangle((0, 0), (1, 1), 0)
    np.testing.assert_allclose(one, [[1, 1], [-1, 1], [-1, -1], [1, -1]])
    turned = layout.rectangle((0, 0), (2, 1), np.pi / 2)
    np.testing.assert_allclose(turned[0], [-1, 2], atol=1e-12)
    assert layout.overlap(one, layout.rectangle((1.9, 0), (1, 1), 0))
    assert not layout.overlap(one, layout.rectangle((2.1, 0), (1, 1), 0))
    # Boxes around them overlap, they do not: the corner of a diamond.
    assert not layout.overlap(one, layout.rectangle((1.8, 1.8), (1, 1), np.pi / 4))


@pytest.mark.parametrize("name", things.MAKERS)
def test_things_stand_on_their_base_and_can_be_cast(name):
    for seed in range(3):
        thing = things.MAKERS[name](np.random.default_rng(seed))
        assert thing.low[1] == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose(thing.low[[0, 2]], -thing.high[[0, 2]], atol=1e-9)
        assert (thing.size < 2.5).all() and (thing.size > 0.005).all()
        assert {part.label for part in thing.parts} <= set(range(len(things.LABELS)))
        assert {part.thing for part in thing.parts} == {-1}


def test_the_front_of_a_placed_thing_turns_with_it():
    shelf = things.shelf(np.random.default_rng(0))
    back = shelf.parts[2].solid  # its back panel
    for angle, expected in ((0.0, (0, 1)), (np.pi / 2, (-1, 0))):
        part = things.place(shelf, (1.0, 2.0), 0.5, angle)[2]
        offset = part.solid.offset[:2] - (1, 2)
        np.testing.assert_allclose(offset / np.linalg.norm(offset), expected, atol=1e-6)
        assert part.solid.offset[2] == pytest.approx(0.5 + back.offset[1])


@pytest.mark.parametrize("kind", paths.KINDS)
@pytest.mark.parametrize("index", range(3))
def test_cameras_keep_clear_of_everything(kind, index):
    caster = _scene(index).caster
    viewmats = paths.cameras(caster, 40, np.random.default_rng(index), kind)
    turns = viewmats[:, :3, :3]
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.eye(3) + np.zeros((40, 3, 3)), atol=1e-12
    )
    assert (np.linalg.det(turns) > 0).all()
    np.testing.assert_allclose(turns[:, 0, 2], 0, atol=1e-12)  # level: right has no z
    assert (turns[:, 1, 2] < 0).all()  # down points down
    eyes = _eyes(viewmats)
    # Between frames too: ten places on each stretch.
    between = eyes[:-1, None] + np.linspace(0, 1, 10)[:, None] * np.diff(eyes, axis=0)[:, None]
    assert caster.clearance(between.reshape(-1, 3)).min() > 0.19
    assert np.linalg.norm(np.diff(eyes, axis=0), axis=-1).max() < 0.16
    yaw = np.unwrap(np.arctan2(turns[:, 2, 1], turns[:, 2, 0]))
    assert np.abs(np.diff(yaw)).max() < np.deg2rad(20)
    with pytest.raises(ValueError, match="kind: unknown 'fly'"):
        paths.cameras(caster, 4, np.random.default_rng(0), "fly")
    with pytest.raises(ValueError, match="num_frames"):
        paths.cameras(caster, 0, np.random.default_rng(0), kind)


def test_a_full_room_has_no_place_to_stand():
    room = _scene(0).caster.room
    everything = layout.rectangle((0, 0), room.high[:2], 0.0)[None]
    full = render.Caster(dataclasses.replace(room, footprints=everything))
    with pytest.raises(ValueError, match="no place to stand"):
        paths.cameras(full, 4, np.random.default_rng(0), "look")


def test_the_largest_region_is_connected():
    free = np.array([[1, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 1]], bool)
    expected = np.zeros_like(free)
    expected[[0, 1, 2, 3, 3], [3, 3, 3, 3, 2]] = True
    np.testing.assert_array_equal(paths.largest_region(free), expected)


@pytest.mark.parametrize("index", range(2))
def test_surface_points_lie_on_open_surfaces_and_look_as_in_pictures(index):
    scene = _scene(index)
    cloud, caster = scene.cloud(), scene.caster
    assert len(cloud) == 3000
    points = cloud.xyz.astype(float)
    assert np.abs(caster.clearance(points)).max() < 2e-6  # float32 coordinates
    eye = _eyes(scene.viewmats[[4]])
    hits = caster.cast(np.repeat(eye, len(points), 0), points - eye)
    seen = np.abs(hits.t - 1) < 1e-5
    assert seen.mean() > 0.1
    rgb, label, normals = caster.surface(hits.part[seen], points[seen])
    assert (label == cloud.label[seen]).mean() > 0.998  # points on the edge of a patch may differ
    close = np.abs(np.rint(255 * rgb) - cloud.rgb[seen]).max(-1) <= 2
    assert close.mean() > 0.99
    np.testing.assert_allclose(np.linalg.norm(cloud.normal, axis=-1), 1, atol=1e-5)
    assert (np.abs(normals - cloud.normal[seen]).max(-1) < 1e-4).mean() > 0.99


def test_points_of_views_are_seen_points():
    scene = _scene(2)
    cloud = source.view_cloud(scene, 1500, np.random.default_rng(0), num_views=3, voxel=0.05)
    assert 500 < len(cloud) <= 1500
    points = cloud.xyz.astype(float)
    assert np.abs(scene.caster.clearance(points)).max() < 2e-6
    cells = np.floor(points / 0.05)
    assert len(np.unique(cells, axis=0)) > 0.97 * len(cells)  # rounding to float32 at borders
    assert set(np.unique(cloud.label)) <= set(range(len(things.LABELS)))
    chosen = source.Recipe(num_frames=4, width=20, height=15, num_points=200, points_from="views")
    assert len(source.RoomScene(0, seed=0, split="a", recipe=chosen).cloud()) == 200


@pytest.mark.parametrize("kind", textures.KINDS)
def test_textures_stay_between_their_colours(kind):
    rng = np.random.default_rng(0)
    texture = Texture(kind, (0.2, 0.5, 0.9), (0.4, 0.1, 0.3), 0.2, 5)
    points, normals = rng.uniform(-3, 3, (500, 3)), np.eye(3)[rng.integers(3, size=500)]
    rgb = textures.albedo(texture, points, normals)
    low = np.minimum(
        texture.first, texture.second if kind not in ("plain", "glow") else texture.first
    )
    high = np.maximum(
        texture.first, texture.second if kind not in ("plain", "glow") else texture.first
    )
    assert (rgb >= low - 1e-12).all() and (rgb <= high + 1e-12).all()
    if kind not in ("plain", "glow"):
        assert np.ptp(rgb, axis=0).max() > 0.05
    # A face on a multiple of the period has no speckle from rounding.
    flat = points * (1, 0, 1)
    noise = flat + rng.normal(size=flat.shape) * (0, 1e-16, 0)
    up = np.tile([0.0, 1, 0], (500, 1))
    np.testing.assert_allclose(
        textures.albedo(texture, flat, up), textures.albedo(texture, noise, up), atol=1e-9
    )


def test_bad_textures_are_refused():
    with pytest.raises(ValueError, match="unknown 'marble'"):
        Texture("marble", (0, 0, 0))
    with pytest.raises(ValueError, match="size"):
        Texture("checker", (0, 0, 0), size=0.0)
