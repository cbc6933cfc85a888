"""Tasks on sets that are read as published: sides, labels, normals, and one step on each."""

import functools
import importlib.util

import jax
import numpy as np
import pytest

from configs import finetune_objects
from gsjax.data import cloud_sets, label_splits, shapenetpart
from gsjax.systems import base
from gsjax.systems.point_tasks import data, system
from tests.data import cloud_cases

TINY = dict(widths=(8, 8, 16))
needs_h5 = pytest.mark.skipif(
    importlib.util.find_spec("h5py") is None, reason="h5py is not installed"
)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    @functools.cache
    def root(name):
        folder = tmp_path_factory.mktemp(name)
        write = dict(
            scanobjectnn=cloud_cases.scanobjectnn_root,
            modelnet40=cloud_cases.modelnet_h5_root,
            modelnet10=cloud_cases.modelnet_text_root,
            shapenetpart=cloud_cases.shapenetpart_root,
        )[name]
        write(folder)
        return folder

    return root


def _config(roots, name, task="classify", **overrides):
    config = finetune_objects.get_config(f"quick,data={name},task={task},backbone=pointnet")
    config.data.source = str(roots(name))
    config.data.num_points = 16
    config.train.batch_size = 4
    config.data.augment = False
    config.model.backbone_changes = TINY
    config.model.hidden, config.model.dropout = (16,), 0.0
    for path, value in overrides.items():
        block, field = path.split("__")
        config[block][field] = value
    return config


SETS = [
    pytest.param("scanobjectnn", "classify", 15, marks=needs_h5),
    pytest.param("modelnet40", "classify", 40, marks=needs_h5),
    ("modelnet10", "classify", 10),
    ("shapenetpart", "classify", 16),
    ("shapenetpart", "parts", 51),
]


@pytest.mark.parametrize("name, task, classes", SETS)
def test_one_step_learns_from_each_set(roots, name, task, classes):
    config = _config(roots, name, task)
    built = base.build(config)
    assert len(built.info["class_names"]) == classes
    variables = jax.jit(built.init)(jax.random.key(0))
    examples = [built.train_data()[i] for i in range(4)]
    batch = {n: np.stack([e[n] for e in examples]) for n in built.batch_spec}
    for field, spec in built.batch_spec.items():
        assert batch[field].shape == (4, *spec.shape) and batch[field].dtype == spec.dtype

    @jax.jit
    def step(params):
        def loss(params):
            value, *rest = built.loss(
                {**variables, "params": params}, batch, jax.random.key(1), True
            )
            return value, rest

        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)

    before, params = step(variables["params"])
    after, _ = step(params)
    assert np.isfinite(before) and float(after) < float(before)
    found = jax.jit(built.predict_fns["labels"])({**variables, "params": params}, batch)
    wanted = batch["category"] if task == "classify" else batch["parts"]
    np.testing.assert_array_equal(found["label"], wanted)
    if task == "parts":
        own = data.load(config).category_classes
        for predicted, category in zip(found["predicted"], batch["category"]):
            assert set(np.asarray(predicted).tolist()) <= set(own[category])


def test_normals_stay_across_the_surface_that_is_turned_and_scaled(roots):
    config = _config(roots, "shapenetpart", data__augment=True)
    config.model.features = ("normal",)
    example = data.load(config).train()[0]
    # Two points, whose difference lies in the surface, and a normal across it; the third has none.
    normal = np.zeros((16, 3), np.float32)
    normal[:2] = np.cross(example["xyz"][1] - example["xyz"][0], [0.3, 1.0, -0.2])
    normal[:2] /= np.linalg.norm(normal[0])
    batch = {name: value[None] for name, value in (example | dict(normal=normal)).items()}
    found = system._points(config, batch, jax.random.split(jax.random.key(0), 1))
    assert abs(float((found.xyz[0, 1] - found.xyz[0, 0]) @ found.feat[0, 0])) < 1e-5
    np.testing.assert_allclose(np.linalg.norm(found.feat[0, :2], axis=-1), 1, atol=1e-5)
    assert not found.feat[0, 2:].any() and np.abs(found.feat[0, 0] - normal[0]).max() > 1e-3
    still = system._points(config, batch)
    np.testing.assert_array_equal(still.feat[0], normal)


def test_a_published_validation_side_is_used_and_joins_training_when_nothing_is_held_back(roots):
    held = data.load(_config(roots, "shapenetpart", "parts"))
    whole = data.load(_config(roots, "shapenetpart", "parts", data__validation=0.0))
    assert (held.num_fit, whole.num_fit) == (32, 64)

    def categories(source, side):
        return [int(e["category"]) for e in source.evaluate(side)]

    def indices(source, side):
        return {int(e["index"]) for e in source.evaluate(side)}

    own = {s: shapenetpart.ShapeNetPart(roots("shapenetpart"), s) for s in shapenetpart.SPLITS}
    for side, split in (("fit", "train"), ("val", "val"), ("test", "test")):
        assert categories(held, side) == own[split].labels.tolist()
    assert categories(whole, "fit") == [*own["train"].labels, *own["val"].labels]
    sides = [indices(held, side) for side in ("fit", "val", "test")]
    assert len(set.union(*sides)) == 96
    with pytest.raises(ValueError, match="split: unknown 'val'; known: fit, test"):
        whole.evaluate("val")


@needs_h5
def test_a_share_is_held_back_where_the_set_has_no_validation_side(roots):
    config = _config(roots, "scanobjectnn", data__validation=0.3)
    source = data.load(config)
    sides = {s: [int(e["index"]) for e in source.evaluate(s)] for s in ("fit", "val", "test")}
    labels = cloud_sets.load("scanobjectnn", config.data.source).train.labels
    kept, held = label_splits.hold_back(labels, 0.3, 20_26)
    assert sides["fit"] == kept.tolist() and sides["val"] == held.tolist()
    assert sides["test"] == list(range(20, 40))
    some = _config(roots, "scanobjectnn", data__exclude_labels=("bag", "sofa"))
    assert {int(e["category"]) for e in data.load(some).evaluate("test")} == set(range(15)) - {
        0,
        13,
    }


@needs_h5
def test_variants_are_different_objects(roots):
    def first(variant):
        source = data.load(_config(roots, "scanobjectnn", data__variant=variant))
        return source.evaluate("test")[0]["xyz"]

    assert not np.allclose(first("obj_bg"), first("pb_t50_rs"))
    np.testing.assert_array_equal(first(""), first("pb_t50_rs"))


def test_points_are_normalised_with_their_labels_and_normals(roots):
    config = _config(roots, "shapenetpart", "parts", data__num_points=32)
    config.model.features = ("normal",)
    example = data.load(config).evaluate("test")[5]
    own = shapenetpart.ShapeNetPart(roots("shapenetpart"), "test")[5]
    assert set(example) == set(data.batch_spec(config))
    assert example["mask"].sum() == 24 and not example["normal"][~example["mask"]].any()
    middle = (own.xyz.min(0) + own.xyz.max(0)) / 2
    radius = np.linalg.norm(own.xyz - middle, axis=-1).max()
    np.testing.assert_allclose(example["xyz"][:24], (own.xyz - middle) * 0.5 / radius, atol=1e-6)
    np.testing.assert_array_equal(example["parts"][:24], own.parts + 1)
    np.testing.assert_array_equal(example["normal"][:24], own.normal)
    np.testing.assert_array_equal(example["rgb"][:24], 0.5)


def test_parts_of_each_category_are_known_to_evaluation(roots):
    source = data.load(_config(roots, "shapenetpart", "parts"))
    assert [source.class_names[c] for c in source.category_classes[6]] == [
        "guitar 0", "guitar 1", "guitar 2",
    ]  # fmt: skip
    for example in source.evaluate("test"):
        assert set(example["parts"]) == set(source.category_classes[int(example["category"])])
        marked = np.flatnonzero(source.answers[int(example["category"])])
        assert marked.tolist() == list(source.category_classes[int(example["category"])])
    assert source.answers.sum() == 50 and not source.answers[:, 0].any()
    whole = data.load(_config(roots, "shapenetpart"))
    assert whole.category_classes == () and whole.answers is None


@pytest.mark.parametrize(
    "name, task, overrides, message",
    [
        ("shapenetpart", "classify", dict(data__exclude_labels=("ship",)), r"unknown \['ship'\]"),
        (
            "shapenetpart",
            "classify",
            dict(data__name="shapenet"),
            "unknown set 'shapenet'; known: p",
        ),
        ("shapenetpart", "classify", dict(data__variant="h5"), "shapenetpart has no variants"),
        ("modelnet10", "parts", {}, "'modelnet10' has no part labels; the sets 'procedural' and"),
        ("modelnet10", "classify", dict(data__source=""), "data.source: the set modelnet10 reads"),
    ],
)
def test_wrong_settings_are_refused(roots, monkeypatch, name, task, overrides, message):
    monkeypatch.delenv("GSJAX_DATA", raising=False)
    with pytest.raises(ValueError, match=message):
        data.load(_config(roots, name, task, **overrides))


def test_normals_are_refused_where_a_set_has_none(tmp_path):
    config = _config(lambda name: tmp_path, "procedural")
    config.model.features = ("normal",)
    with pytest.raises(ValueError, match="prepared sets such as 'procedural' have no normals"):
        data.load(config)


@needs_h5
def test_normals_are_refused_where_the_files_have_none(roots):
    config = _config(roots, "scanobjectnn")
    config.model.features = ("normal",)
    with pytest.raises(ValueError, match="the files of 'scanobjectnn' have no normals"):
        data.load(config)


def test_sources_default_to_the_data_folder(roots, monkeypatch):
    folder = roots("modelnet10")
    (folder / "modelnet10").mkdir(exist_ok=True)
    monkeypatch.setenv("GSJAX_DATA", str(folder))
    with pytest.raises(FileNotFoundError, match="modelnet10 has neither modelnet10_train.txt"):
        cloud_sets.load("modelnet10", "")
    with pytest.raises(ValueError, match="data.name: unknown set 'modelnet'; known: scanobjectnn"):
        cloud_sets.load("modelnet", "")
