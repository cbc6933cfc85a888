"""Sets of objects as Gaussians and pictures: from meshes, from fits, without any, and what is refused."""

import jax
import ml_collections
import numpy as np
import pytest

from gsjax.core import sh
from gsjax.data import (
    features,
    fitted,
    mesh_views,
    paired_build,
    paired_examples,
    paired_surface,
    store,
)
from gsjax.raster import mesh as mesh_raster

DEFAULTS = dict(
    name="meshes", dir="", source="", split="v2", fitted="", categories=(), exclude_categories=(),
    min_objects=1, num_objects=4, num_test=2, limit=0, seed=0, views=4, view_size=16,
    colored=False, up_axis="", stored_gaussians=200, sample_points=32, samples=3,
    opacity_threshold=0.574,
)  # fmt: skip


def _config(**changes):
    return ml_collections.ConfigDict(DEFAULTS | changes)


def _box(path, sides):
    """An OFF file of a box."""
    x, y, z = sides
    points = [(a * x, b * y, c * z) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    lines = ["OFF", f"8 {2 * len(quads)} 0", *(" ".join(map(str, p)) for p in points)]
    for a, b, c, d in quads:
        lines += [f"3 {a} {b} {c}", f"3 {a} {c} {d}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def modelnet(tmp_path_factory):
    """Two classes in ModelNet10's layout: flat tables, tall dressers."""
    root = tmp_path_factory.mktemp("ModelNet10")
    for name, sides in (("table", (1, 1, 0.2)), ("dresser", (0.5, 0.5, 1.5))):
        for split, number in (("train", 1), ("train", 2), ("test", 3)):
            file = root / name / split / f"{name}_{number:04d}.off"
            _box(file, np.asarray(sides) * (1 + 0.1 * number))
    return root


def test_head_light_is_the_shade_up_to_degree_three():
    """Least squares over the sphere finds the same coefficients."""
    shading = mesh_raster.Shading(ambient=0.2, diffuse=0.6, albedo=(0.5, 0.7, 0.9))
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(3, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    found = paired_surface.head_light(normals, shading)
    # Points spread evenly: a Fibonacci lattice.
    i = np.arange(20000) + 0.5
    z, turn = 1 - 2 * i / len(i), np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - z * z)
    dirs = np.stack([ring * np.cos(turn), ring * np.sin(turn), z], -1)
    basis = np.asarray(sh.basis(3, dirs.astype(np.float32)), np.float64)
    for k in range(3):
        shade = 0.2 + 0.6 * np.abs(dirs @ normals[k])
        fit = np.linalg.lstsq(basis, shade[:, None] * shading.albedo - 0.5, rcond=None)[0]
        np.testing.assert_allclose(found[k], fit, atol=2e-3)


def test_modelnet_files_become_records(modelnet, tmp_path):
    pytest.importorskip("trimesh")
    config = _config(source=str(modelnet), dir=str(tmp_path), view_size=32, stored_gaussians=600)
    folder = paired_build.ensure(config)
    assert store.split_sizes(folder) == {"train": 4, "test": 2}
    assert len(store.category_names(folder)) == 10  # labels are ModelNet10's
    records = paired_examples.open_records(folder, "test")
    found = {records[i]["uid"]: records[i] for i in range(2)}
    table = found["table/test/table_0003"]
    assert table["category"] == 8 and table["name"] == "table"
    assert table["xyz"].shape == (600, 3) and table["sh"].shape == (600, 16, 3)
    # +z is up, and a table is flat.
    assert np.ptp(table["xyz"][:, 2]) < 0.3 * np.ptp(table["xyz"][:, 0])
    np.testing.assert_allclose(np.linalg.norm(table["xyz"], axis=-1).max(), 1, atol=0.1)
    assert [len(table[name]) for name in ("views", "memory", "between")] == [4, 4, 3]
    train = paired_examples.open_records(folder, "train")[0]
    assert len(train["views"]) == 4 and not train["memory"]
    # The Gaussians look like the mesh that they lie on, from the same sides.
    views, memory = (
        np.stack([features.decode_png(p) for p in table[name]]).astype(float)
        for name in ("views", "memory")
    )
    assert views.shape == (4, 32, 32, 3)
    seen = memory[views < 250].mean(), views[views < 250].mean()
    assert abs(seen[0] - seen[1]) < 30  # darker than the white behind by as much
    other = np.stack([features.decode_png(p) for p in found["dresser/test/dresser_0003"]["memory"]])
    assert np.abs(views - memory).mean() < 0.6 * np.abs(views - other).mean()
    assert paired_build.ensure(config) == folder


def test_fitted_gaussians_take_the_place_of_the_surface(modelnet, tmp_path):
    pytest.importorskip("trimesh")
    from gsjax.data import mesh_collections

    items, collection = mesh_collections.load(str(modelnet))
    rng = np.random.default_rng(0)
    made = [
        fitted.Fitted(
            item.number, item.about,
            dict(
                means=rng.normal(size=(70, 3)), quats=rng.normal(size=(70, 4)),
                log_scales=np.full((70, 3), -3.0), logit_opacities=np.r_[np.ones(60), -np.ones(10)],
                sh=rng.normal(size=(70, 16, 3)),
            ),
            {},
        )
        for item in items if item.about["uid"] != "table/train/table_0002"
    ]  # fmt: skip
    fits = tmp_path / "fits"
    fitted.check_identity(fits, dict(collection=collection))
    fitted.write_wave(fits, made)
    config = _config(source=str(modelnet), fitted=str(fits), dir=str(tmp_path))
    records = paired_examples.open_records(paired_build.ensure(config), "train")
    assert len(records) == 3  # what was not fitted is left out
    by_uid = {item.about["uid"]: item for item in made}
    record = records[0]
    means = np.asarray(by_uid[record["uid"]].gaussians["means"], np.float32)
    np.testing.assert_array_equal(record["xyz"], means[:60])  # the transparent ones are gone
    config.source = str(modelnet / "table")
    with pytest.raises(ValueError, match="data.fitted: .* of the collection"):
        paired_build.plan(config)


def test_procedural_objects_are_the_categories_asked_for(tmp_path):
    config = _config(name="procedural", categories=("mug", "chair"), dir=str(tmp_path))
    plan = paired_build.plan(config)
    assert plan.categories == ["chair", "mug"] and plan.splits == {"train": 4, "test": 2}
    records = list(plan.records("test"))
    assert [r["category"] for r in records] == [0, 1]
    assert all(len(r["views"]) == len(r["memory"]) == 4 for r in records)
    image = features.decode_png(records[0]["views"][0])
    assert image[0, 0].tolist() == [255, 255, 255] and image.min() < 200


def test_few_objects_of_a_side_come_from_all_categories(modelnet):
    pytest.importorskip("trimesh")
    plan = paired_build.plan(_config(source=str(modelnet), limit=2))
    assert plan.splits == {"train": 2, "test": 2}
    uids = [
        item.about["uid"] for item in _items(modelnet) if item.number in plan.identity["objects"]
    ]
    assert sorted({uid.split("/")[0] for uid in uids if "/train/" in uid}) == ["dresser", "table"]


def _items(modelnet):
    from gsjax.data import mesh_collections

    return mesh_collections.load(str(modelnet))[0]


def test_what_is_chosen_must_exist(modelnet):
    pytest.importorskip("trimesh")
    for changes, message in (
        (dict(categories=("sofa",)), r"unknown \['sofa'\]; known: dresser, table"),
        (dict(min_objects=9), "no object of the side 'train' is left"),
        (dict(up_axis="x"), None),
        (dict(name="modelnet10"), "known: procedural, objects_cc0, meshes"),
        (dict(source=""), "ModelNet10.zip"),
    ):
        config = _config(**{"source": str(modelnet), **changes})
        if message is None:
            with pytest.raises(ValueError, match="known: y, z"):
                paired_build.recipe_of(config)
        else:
            with pytest.raises(ValueError, match=message):
                paired_build.plan(config)


def test_pictures_of_gaussians_do_not_depend_on_padding():
    scene = paired_surface.gaussians(np.eye(3), np.eye(3), 1.0, mesh_raster.Shading())
    recipe = mesh_views.modelnet10(2, 12, up=mesh_views.Y_UP)
    cameras = mesh_views.cameras(recipe)
    found = paired_build.rendered(scene, *cameras, recipe)
    assert found.shape == (2, 12, 12, 4) and found[..., 3].max() > 100
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), scene)
    twice["logit_opacities"][3:] = -30
    other = paired_build.rendered(twice, *cameras, recipe)
    assert np.abs(found.astype(int) - other.astype(int)).max() <= 1
