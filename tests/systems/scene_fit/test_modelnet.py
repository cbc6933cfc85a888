"""ModelNet10: its recipes, its record, and one object from mesh to record."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gsjax.data import features, fitted, mesh_views
from gsjax.systems.scene_fit import collections, factory, many, modelnet


def _brute_force(points, count, start):
    """The definition, one distance at a time."""
    chosen = [start]
    while len(chosen) < count:
        gaps = []
        for p in points:
            gaps.append(min(sum((a - b) ** 2 for a, b in zip(p, points[c])) for c in chosen))
        chosen.append(gaps.index(max(gaps)))
    return chosen


@pytest.mark.parametrize("start", [0, 7, 59])
def test_farthest_points_are_those_of_the_definition(start):
    # Integers: sums are exact, and equal distances, of which the first counts, are many.
    points = np.random.default_rng(start).integers(-4, 5, (60, 3))
    expected = _brute_force(points.tolist(), 40, start)
    found = modelnet.farthest_points(points, 40, start)
    assert found.dtype == np.int32 and found.tolist() == expected


def test_too_few_points_repeat_the_first():
    points = np.array([[0, 0, 0], [1, 0, 0], [5, 0, 0], [1, 0, 0]])
    assert modelnet.farthest_points(points, 6, 1).tolist() == [1, 2, 0, 0, 0, 0]
    assert modelnet.farthest_points(points, 6, 1).tolist() == _brute_force(points.tolist(), 6, 1)


def test_farthest_points_refuse_what_is_no_point_set():
    with pytest.raises(ValueError, match="found shape"):
        modelnet.farthest_points(np.zeros((0, 3)), 4)
    with pytest.raises(ValueError, match="below 5"):
        modelnet.farthest_points(np.zeros((5, 3)), 4, 5)


def _object(count=200, category="sofa", **changes):
    rng = np.random.default_rng(3)
    gaussians = {
        "means": rng.normal(size=(count, 3)), "quats": rng.normal(size=(count, 4)),
        "log_scales": rng.uniform(-4, -3, (count, 3)),
        "logit_opacities": rng.normal(size=count), "sh": rng.normal(size=(count, 16, 3)),
        **changes,
    }  # fmt: skip
    about = {"uid": f"{category}/test/x", "name": category, "category": category, "split": "test"}
    gaussians = {k: np.asarray(v, np.float32) for k, v in gaussians.items()}
    return fitted.Fitted(4, about, gaussians, {})


def test_a_record_holds_the_opaque_gaussians_and_samples_of_them():
    logits = np.linspace(-2, 2, 200, dtype=np.float32)
    logits[10], logits[11] = 0.3, np.nextafter(np.float32(0.3), np.float32(1))
    item = _object(logit_opacities=logits)
    found = modelnet.record(item, num_points=32, sets=5)
    rows = [i for i in range(200) if item.gaussians["logit_opacities"][i] > np.float32(0.3)]
    assert 10 not in rows and 11 in rows
    assert found["n_valid"] == len(rows) and found["label"] == 7
    np.testing.assert_array_equal(found["xyz"], item.gaussians["means"][rows])
    shapes = {"log_scale": (3,), "quat": (4,), "opacity_logit": (), "sh": (16, 3)}
    sources = ("log_scales", "quats", "logit_opacities", "sh")
    for (name, shape), source in zip(shapes.items(), sources, strict=True):
        assert found[name].shape == (len(rows), *shape) and found[name].dtype == np.float16
        np.testing.assert_array_equal(found[name], item.gaussians[source][rows].astype(np.float16))
    assert found["samples"].shape == (5, 32) and found["samples"].dtype == np.int32
    starts = found["samples"][:, 0]
    assert len(set(starts.tolist())) == 5
    centre = found["xyz"].mean(0)
    assert starts[0] == np.linalg.norm(found["xyz"] - centre, axis=-1).argmax()
    for row in found["samples"]:
        assert row.tolist() == _brute_force(found["xyz"].tolist(), 32, int(row[0]))


def test_samples_depend_on_the_object_and_nothing_else():
    points = np.random.default_rng(0).normal(size=(50, 3))
    a, again, b = (modelnet.point_sets(points, uid, 8, 4) for uid in ("a", "a", "b"))
    np.testing.assert_array_equal(a, again)
    np.testing.assert_array_equal(a[0], b[0])  # the one to evaluate on
    assert (a[1:, 0] != b[1:, 0]).any()


def test_few_gaussians_still_give_full_samples():
    item = _object(3, logit_opacities=np.ones(3))
    found = modelnet.record(item, num_points=16, sets=8)
    assert found["samples"].shape == (8, 16) and set(found["samples"].ravel()) == {0, 1, 2}


def test_a_record_refuses_what_cannot_become_one():
    with pytest.raises(ValueError, match="unknown category 'lamp'"):
        modelnet.record(_object(category="lamp"))
    with pytest.raises(ValueError, match="degree 3"):
        modelnet.record(_object(sh=np.zeros((200, 1, 3))))
    with pytest.raises(ValueError, match="none of 200"):
        modelnet.record(_object(logit_opacities=np.full(200, -1.0)))


def test_views_are_the_recipes_unless_asked_for_fewer():
    assert modelnet.view_recipe() == mesh_views.MODELNET10
    small = modelnet.view_recipe(8, 32)
    assert (small.num_views, small.width, small.height) == (8, 32, 32)
    viewmats, Ks = mesh_views.cameras(small)
    np.testing.assert_allclose(Ks[0, 0, 0] / 32, 1111.1 / 800, rtol=1e-3)
    assert len(viewmats) == 8


def test_pictures_are_laid_on_white_and_made_smaller():
    images = np.zeros((2, 40, 40, 4), np.uint8)
    images[1, :20] = (100, 50, 0, 255)
    first, second = (features.decode_png(p) for p in modelnet.pictures({"images": images}, 10))
    assert (first == 255).all() and second.shape == (10, 10, 3)
    assert (second[:3] == (100, 50, 0)).all() and (second[7:] == 255).all()
    with pytest.raises(ValueError, match="size"):
        modelnet.pictures({"images": images}, 41)


def _write_stool(path):
    """A seat on four legs: five boxes, as quads."""
    boxes = [((-0.5, -0.5, 0.45), (0.5, 0.5, 0.55))]
    for x in (-0.4, 0.4):
        boxes += [((x - 0.06, y - 0.06, -0.5), (x + 0.06, y + 0.06, 0.45)) for y in (-0.4, 0.4)]
    points, faces = [], []
    for low, high in boxes:
        first = len(points)
        points += [
            (x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1])
            for z in (low[2], high[2])
        ]  # fmt: skip
        for quad in ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4),
                     (1, 5, 7, 3)):  # fmt: skip
            faces.append("4 " + " ".join(str(first + k) for k in quad))
    lines = [" ".join(f"{x:.4f}" for x in point) for point in points]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"OFF{len(points)} {len(faces)} 0\n" + "\n".join([*lines, *faces]) + "\n")


@pytest.mark.slow
def test_from_an_off_file_to_a_record(tmp_path):
    """The recipe at reduced size: its schedule a hundredth, 8 views of 32 pixels, 256 Gaussians."""
    pytest.importorskip("trimesh")
    _write_stool(tmp_path / "ModelNet10" / "table" / "test" / "table_0001.off")
    items, collection = collections.load(str(tmp_path / "ModelNet10"))
    recipe = dataclasses.replace(
        modelnet.RECIPE, num_steps=50, num_gaussians=256, sh_every=5, refine_start=5,
        refine_stop=40, refine_every=25,
    )  # fmt: skip
    plan = factory.Plan(recipe, modelnet.view_recipe(8, 32), num_held_out=2, batch=1)
    out = tmp_path / "out"
    fitted.check_identity(out, json.loads(json.dumps(plan.identity(collection))))
    result = factory.run(items, out, plan, mesh=many.make_mesh(jax.devices()[:1]))
    assert (result["fitted"], result["failed"], result["left"]) == (1, 0, 0)
    (item,) = fitted.read(out)
    assert item.gaussians["sh"].shape[1:] == (16, 3)
    assert item.scores["psnr"] > 20
    found = modelnet.record(item, num_points=64)
    assert (found["name"], found["label"], found["split"]) == ("table", 8, "test")
    # Opaque discs stay so: the filter keeps most of them.
    assert 128 <= found["n_valid"] <= 256
    # Within the frame that cameras look at: a bounding sphere of radius 1.
    assert np.linalg.norm(found["xyz"], axis=-1).max() < 1.15
    assert found["samples"].shape == (8, 64)
    assert all(len(set(row.tolist())) == 64 for row in found["samples"])
