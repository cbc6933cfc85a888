"""View recipes: the cameras they name, pictures of synthetic and real meshes."""

import dataclasses

import numpy as np
import pytest

from gsjax.core import cameras as core_cameras
from gsjax.data import mesh_views, objects_cc0
from gsjax.io import meshes

TEXTURED = ("avocado", "boombox", "flight_helmet", "spot", "water_bottle")


def _eyes(viewmats):
    return -np.einsum("vji,vj->vi", viewmats[:, :3, :3], viewmats[:, :3, 3])


def _angles(viewmats, up):
    """Azimuth (as the recipes count) and elevation in degrees, distance."""
    eyes = _eyes(viewmats)
    distance = np.linalg.norm(eyes, axis=-1)
    x, y, z = eyes.T
    front, side, height = (x, y, z) if up == "z" else (z, x, y)
    return (
        np.rad2deg(np.arctan2(side, front)) % 360,
        np.rad2deg(np.arcsin(height / distance)),
        distance,
    )


def _box(size=(1.0, 1.0, 1.0), rgb=None):
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    return meshes.Mesh(corners * size, faces, face_rgb=rgb)


def test_modelnet10_is_the_specified_spiral():
    viewmats, Ks = mesh_views.cameras(mesh_views.MODELNET10)
    azimuth, elevation, distance = _angles(viewmats, "z")
    index = np.arange(64)
    turned = (azimuth - 360 * 4 * index / 64 + 180) % 360 - 180
    np.testing.assert_allclose(turned, 0, atol=1e-3)
    np.testing.assert_allclose(elevation, -10 + 80 * index / 63, atol=1e-3)
    np.testing.assert_allclose(distance, 3.2, atol=1e-5)
    np.testing.assert_allclose(Ks[:, 0, 0], 1111.1, atol=0.3)  # NeRF-synthetic's focal length
    np.testing.assert_allclose(Ks[:, :2, 2], 400)
    path = core_cameras.spiral_path(
        64, 3.2, elevations_degrees=(-10, 70), turns=4 * 63 / 64, up=(0, 0, 1)
    )
    np.testing.assert_allclose(viewmats, path, atol=1e-5)


def test_objaverse_is_twelve_azimuths_on_three_rings():
    viewmats, Ks = mesh_views.cameras(mesh_views.OBJAVERSE)
    azimuth, elevation, distance = _angles(viewmats, "y")
    np.testing.assert_allclose(elevation, np.repeat([-20, 10, 40], 12), atol=1e-3)
    turned = (azimuth - np.tile(30 * np.arange(12), 3) + 180) % 360 - 180
    np.testing.assert_allclose(turned, 0, atol=1e-3)
    np.testing.assert_allclose(distance, 2.4, atol=1e-5)
    np.testing.assert_allclose(Ks[0, 0, 0], 128 / np.tan(np.deg2rad(25)), rtol=1e-5)


@pytest.mark.parametrize("up", [(0, 1, 0), (0, 0, 1), (0, -1, 0), (1, 2, 3)])
def test_cameras_look_at_the_origin_with_up_upwards(up):
    viewmats, _ = mesh_views.cameras(mesh_views.orbit(5, 32), up)
    rotation = viewmats[:, :3, :3].astype(float)
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)),
                               atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)
    np.testing.assert_allclose(viewmats[:, :2, 3], 0, atol=1e-6)  # the origin is in the middle
    seen = rotation @ (np.array(up) / np.linalg.norm(up))
    np.testing.assert_allclose(seen[:, 0], 0, atol=1e-6)
    assert np.all(seen[:, 1] < -0.9)


@pytest.mark.parametrize("name", mesh_views.RECIPES)
@pytest.mark.parametrize("num", [1, 4, 12])
def test_held_out_views_stand_between_training_views(name, num):
    recipe = mesh_views.RECIPES[name]
    trained, _ = mesh_views.cameras(recipe)
    held, Ks = mesh_views.held_out_cameras(recipe, num)
    assert held.shape == (num, 4, 4) and Ks.shape == (num, 3, 3)
    eyes, others = _eyes(held), _eyes(trained)
    cosine = np.clip(eyes @ others.T / recipe.radius**2, -1, 1)
    nearest = np.rad2deg(np.arccos(cosine)).min(1)
    # Spiral: neighbours are 22.5 degrees of azimuth apart; rings: 30, and 30 of elevation.
    assert np.all(nearest > 3) and np.all(nearest < 23)
    assert len(np.unique(eyes.round(4), axis=0)) == num
    elevation = _angles(held, "z" if name == "modelnet10" else "y")[1]
    low, high = (-10, 70) if name == "modelnet10" else (-20, 40)
    assert elevation.min() > low and elevation.max() < high


def test_held_out_views_and_splits_refuse_impossible_numbers():
    with pytest.raises(ValueError, match="num: expected 1 to 63"):
        mesh_views.held_out_cameras(mesh_views.MODELNET10, 64)
    train, held = mesh_views.view_split(36, 8)
    assert held.tolist() == [4, 12, 20, 28] and sorted([*train, *held]) == list(range(36))
    with pytest.raises(ValueError, match="view_split"):
        mesh_views.view_split(1)
    with pytest.raises(ValueError, match="up: expected a direction"):
        mesh_views.cameras(mesh_views.MODELNET10, (0, 0, 0))
    with pytest.raises(ValueError, match="ViewRecipe: expected views"):
        dataclasses.replace(mesh_views.OBJAVERSE, radius=0)


def test_pictures_show_the_face_that_is_turned_to_the_camera():
    # One colour per side of the box; views from +z, +x, -z, -x.
    rgb = np.repeat(np.uint8([[255, 0, 0], [0, 255, 0], [9, 9, 9], [9, 9, 9], [0, 0, 255],
                              [255, 255, 0]]), 2, axis=0)  # fmt: skip
    recipe = mesh_views.orbit(4, 32, elevation=0.0)
    made = mesh_views.render_views(_box((3, 3, 3), rgb), recipe)
    assert made["images"].shape == (4, 32, 32, 4) and made["images"].dtype == np.uint8
    middle = made["images"][:, 16, 16]
    expected = [[255, 255, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [255, 0, 0, 255]]
    assert np.abs(middle.astype(int) - expected).max() <= 1
    # The box is scaled to radius 1: its sides are 1 / sqrt(3) from the centre.
    np.testing.assert_allclose(made["depth"][:, 16, 16], 2.8 - 1 / np.sqrt(3), rtol=1e-5)
    assert np.all(made["images"][made["depth"] == 0] == 0)
    assert np.all(made["images"][:, 0] == 0)
    plain = dataclasses.replace(recipe, use_colors=False)
    grey = mesh_views.render_views(_box((3, 3, 3), rgb), plain)["images"][0, 16, 16]
    assert np.abs(grey[:3].astype(int) - round(0.7 * 255)).max() <= 1


@pytest.mark.slow
def test_other_cameras_and_frames_can_be_asked_for():
    recipe = mesh_views.orbit(2, 24, normalize=None)
    box = _box((0.5, 0.5, 0.5))
    viewmats, Ks = mesh_views.held_out_cameras(recipe, 1)
    made = mesh_views.render_views(box, recipe, viewmats=viewmats, Ks=Ks)
    assert made["images"].shape == (1, 24, 24, 4)
    np.testing.assert_array_equal(made["viewmats"], viewmats)
    full = mesh_views.render_views(box, dataclasses.replace(recipe, normalize="box"))
    assert (made["depth"] > 0).mean() < 0.5 * (full["depth"] > 0).mean()
    with pytest.raises(ValueError, match="give both or neither"):
        mesh_views.render_views(box, recipe, viewmats=viewmats)


def test_depth_and_cameras_put_pixels_back_on_the_surface():
    recipe = mesh_views.orbit(3, 40, elevation=35.0, supersample=1)
    made = mesh_views.render_views(_box((1, 2, 3)), recipe)
    half = np.array((1, 2, 3)) / np.linalg.norm((1, 2, 3))
    for viewmat, K, depth in zip(made["viewmats"], made["Ks"], made["depth"], strict=True):
        row, column = np.nonzero(depth)
        assert len(row) > 100
        pixels = np.stack((column + 0.5, row + 0.5, np.ones(len(row))), -1)
        local = pixels @ np.linalg.inv(K).T * depth[row, column][:, None]
        world = (local - viewmat[:3, 3]) @ viewmat[:3, :3]
        outside = np.abs(world) / half
        np.testing.assert_allclose(outside.max(-1), 1, atol=1e-4)


def test_composite_lays_straight_alpha_on_a_colour():
    images = np.uint8([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]])
    laid = mesh_views.composite(images, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(laid, [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]])
    with pytest.raises(ValueError, match="images: expected uint8"):
        mesh_views.composite(images / 255)


def test_real_cad_models_render_grey_and_fill_the_frame(gsjax_data):
    pytest.importorskip("trimesh", reason="needs the extra gsjax[mesh]")
    folder = gsjax_data / "modelnet10_partial" / "off"
    if not folder.is_dir():
        pytest.skip("modelnet10_partial is absent")
    recipe = dataclasses.replace(
        mesh_views.MODELNET10, path=mesh_views.Spiral(4, 1, (-10.0, 70.0)), width=64, height=64
    )
    for path in sorted(folder.glob("*.off")):
        made = mesh_views.render_views(meshes.read(path), recipe)
        seen = made["images"][..., 3] > 0
        assert np.all(seen == (made["depth"] > 0)), path
        assert np.all(seen.mean((1, 2)) > 0.02), path
        # Nothing of the unit ball reaches the border at radius 3.2 and 39.6 degrees.
        assert not seen[:, 0].any() and not seen[:, -1].any() and not seen[..., 0].any()
        depth = made["depth"][seen]
        assert depth.min() > 2.2 - 1e-4 and depth.max() < 4.2 + 1e-4
        rgb = made["images"][seen][:, :3].astype(int)
        assert np.ptp(rgb, axis=-1).max() == 0 and rgb.max() <= 179 and rgb.min() >= 53


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n in ("boombox", "flight_helmet")))
        for n in TEXTURED
    ],
)
def test_real_textured_meshes_show_the_colours_of_their_surface(gsjax_data, name):
    path = gsjax_data / "meshes_textured" / f"{name}.npz"
    if not path.exists():
        pytest.skip("meshes_textured is absent")
    mesh = meshes.read(path)
    flat = mesh_views.mesh_raster.UNLIT
    recipe = mesh_views.orbit(2, 64, shading=flat, supersample=1)
    made = mesh_views.render_views(mesh, recipe)
    # Surface samples near a pixel's point have its colour (within the spread of the texture there).
    placed = mesh_views.framed(mesh, recipe)
    points, _, rgb = meshes.sample_surface(placed, 60_000, seed=0)
    from scipy import spatial

    tree = spatial.cKDTree(points)
    for viewmat, K, depth, image in zip(
        made["viewmats"], made["Ks"], made["depth"], made["images"], strict=True
    ):
        row, column = np.nonzero(depth)
        pixels = np.stack((column + 0.5, row + 0.5, np.ones(len(row))), -1)
        local = pixels @ np.linalg.inv(K).T * depth[row, column][:, None]
        world = (local - viewmat[:3, 3]) @ viewmat[:3, :3]
        distance, nearest = tree.query(world)
        assert np.quantile(distance, 0.99) < 0.03
        error = np.abs(image[row, column, :3] / 255.0 - rgb[nearest]).mean(-1)
        assert np.median(error) < 0.03, name


def test_low_poly_objects_show_their_face_colours(gsjax_data):
    if not (gsjax_data / "objects_cc0").is_dir():
        pytest.skip("objects_cc0 is absent")
    collection = objects_cc0.Collection(gsjax_data / "objects_cc0")
    recipe = mesh_views.orbit(
        2, 48, shading=mesh_views.mesh_raster.UNLIT, supersample=1, background=(0, 0, 0)
    )
    for number in (0, 400, 800, 1200):
        mesh = mesh_views.from_objects_cc0(collection.mesh(number))
        images = mesh_views.render_views(mesh, recipe)["images"]
        seen = images[images[..., 3] > 0][:, :3]
        assert len(seen) > 50
        palette = {tuple(row) for row in mesh.face_rgb.tolist()}
        assert {tuple(row) for row in seen.tolist()} <= palette


def test_views_are_the_recipes_unless_asked_for_fewer():
    assert mesh_views.modelnet10() == mesh_views.MODELNET10
    small = mesh_views.modelnet10(8, 32)
    assert (small.num_views, small.width, small.height) == (8, 32, 32)
    viewmats, Ks = mesh_views.cameras(small)
    np.testing.assert_allclose(Ks[0, 0, 0] / 32, 1111.1 / 800, rtol=1e-3)
    assert len(viewmats) == 8
