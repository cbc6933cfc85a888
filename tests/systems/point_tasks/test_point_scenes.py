"""Segmentation of scenes on drawn boxes: points and their voxels, losses, sides, transfer, scores."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune_scenes, unipre3d_scene
from gsjax.data import scene_cloud_sets
from gsjax.evals import scene_segmentation
from gsjax.io import safetensors_file
from gsjax.models import voxel_sites
from gsjax.models.backbones import base as backbones
from gsjax.systems import base
from gsjax.systems.point_tasks import model, scene_data
from gsjax.systems.unipre3d import model as unipre3d
from gsjax.train import loop, transfer
from gsjax.train import state as state_lib
from tests.systems.point_tasks import tiny_scenes as tiny

_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(autouse=True)
def boxes(monkeypatch):
    monkeypatch.setattr(scene_cloud_sets, "load", tiny.scenes)


def _gradients(built, variables, batch):
    def loss(params):
        value, metrics, new = built.loss(
            {**variables, "params": params}, batch, jax.random.key(1), True
        )
        return value, (metrics, new)

    return _jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


# Points and voxels ------------------------------------------------------------------------------


def test_points_lie_in_the_voxels_that_a_backbone_makes_of_them():
    """The feature at each point is the mean over all points of its cell; those beyond have none."""
    rng = np.random.default_rng(0)
    size, capacity = 0.25, 20
    xyz = rng.uniform(-1, 1, (2, 50, 3)).astype(np.float32)
    xyz[0, :10] = np.round(xyz[0, :10] / size) * size  # on the borders of cells
    feat = rng.normal(size=(2, 50, 4)).astype(np.float32)
    mask = rng.random((2, 50)) < 0.9
    xyz[~mask] = np.nan
    rows = _jit(model.point_rows, static_argnums=(1, 2, 3))(
        backbones.PointBatch(*map(jnp.asarray, (xyz, feat, mask))), size, capacity, 1024
    )
    ids, placed = np.asarray(rows.ids), np.asarray(rows.placed)
    sites = _jit(voxel_sites.from_points, static_argnums=(1, 2, 3, 4))(
        rows.points, 4, size, capacity, "test"
    )
    for b in range(2):
        low = np.floor(xyz[b][mask[b]].min(0) / size) * size
        cells = {i: tuple(np.floor((xyz[b, i] - low) / size)) for i in np.flatnonzero(mask[b])}
        assert len(set(cells.values())) > capacity  # some find no place
        by_row = {}
        for i, cell in cells.items():
            if placed[b, i]:
                assert by_row.setdefault(ids[b, i], cell) == cell
                mine = [j for j in cells if cells[j] == cell]
                np.testing.assert_allclose(
                    sites.feat[b, ids[b, i]], feat[b, mine].mean(0), atol=1e-5
                )
        assert len(by_row) == capacity and not placed[b][~mask[b]].any()
        assert (ids[b][~placed[b]] == capacity).all()
        assert int(sites.dropped[b]) == len(set(cells.values())) - capacity


@pytest.mark.parametrize("backbone", ["sparse_unet", pytest.param("ptv3", marks=pytest.mark.slow)])
def test_loss_has_gradients_everywhere_and_labels_are_answers(backbone):
    built = base.build(tiny.config(f"quick,backbone={backbone}", loss__lovasz=0.5))
    variables = tiny.variables(built)
    batch = tiny.batch(built)
    (value, (metrics, new)), grads = _gradients(built, variables, batch)
    assert np.isfinite(value) and "backbone" in new["batch_stats"]
    assert float(metrics["dropped"]) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    names = ("backbone", "logits")
    assert all(max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads[n])) > 0 for n in names)
    found = _jit(built.predict_fns["labels"])(variables, batch)
    label, predicted = np.asarray(found["label"]), np.asarray(found["predicted"])
    there = np.asarray(batch["mask"])
    assert predicted.shape == (4, 256) and (predicted[there] > 0).all()
    counted = there & np.asarray(batch["scored"]) & (np.asarray(batch["parts"]) > 0)
    np.testing.assert_array_equal(label, np.where(counted, batch["parts"], -1))
    assert (label[there] == -1).any()  # unknown labels, and points that another crop scores


def test_points_beyond_the_capacity_leave_the_loss_and_count_as_wrong():
    config = tiny.config()
    config.model.backbone_changes.voxels = 16
    built = base.build(config)
    batch = tiny.batch(built)

    @_jit
    def everything(variables):
        loss, metrics, _ = built.loss(variables, batch, jax.random.key(1), False)
        return (
            loss,
            metrics,
            *(built.predict_fns[n](variables, batch) for n in ("labels", "confusion")),
        )

    value, metrics, found, counts = jax.tree.map(np.asarray, everything(tiny.variables(built)))
    assert np.isfinite(value)
    label, said = found["label"], found["predicted"]
    lost = (label > 0) & (said == 0)
    assert float(metrics["dropped"]) == pytest.approx(100 * lost.sum() / (label > 0).sum())
    assert float(metrics["dropped"]) > 10
    # The accuracy is of the points that have a voxel; the counts are of all.
    expected = np.zeros((4, 4, 4), int)
    rows, points = np.nonzero(label >= 0)
    np.add.at(expected, (rows, label[rows, points], said[rows, points]), 1)
    np.testing.assert_array_equal(counts["confusion"], expected)
    np.testing.assert_array_equal(counts["confusion"][:, :, 0].sum(1), lost.sum(1))
    ceiling = counts["ceiling"]
    np.testing.assert_array_equal(ceiling[:, :, 0], counts["confusion"][:, :, 0])
    np.testing.assert_array_equal(ceiling.sum(2), counts["confusion"].sum(2))
    right = lambda table: np.trace(table, axis1=1, axis2=2)  # noqa: E731
    assert (right(ceiling) >= right(counts["confusion"])).all()
    assert (right(ceiling) > 0).all()


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_statistics():
    built = base.build(tiny.config("quick,frozen"))
    variables = tiny.variables(built)
    (_, (_, new)), grads = _gradients(built, variables, tiny.batch(built))
    assert all((x == 0).all() for x in jax.tree.leaves(grads["backbone"]))
    assert float(jnp.abs(grads["logits"]["kernel"]).max()) > 0
    old = variables["batch_stats"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, old, new["batch_stats"]["backbone"])
    assert built.param_rules[0].lr_scale == 0


# Sides ------------------------------------------------------------------------------------------


def _scenes(built, side):
    return {int(e["index"]) for e in built.eval_data(side)}


def test_sides_do_not_overlap_and_fewer_scenes_lie_within_more():
    built = {n: base.build(tiny.config(data__fit_scenes=n)) for n in (0, 1, 3)}
    whole = built[0]
    assert len(_scenes(whole, "fit")) == 6 and len(_scenes(whole, "val")) == 2
    assert not _scenes(whole, "fit") & _scenes(whole, "val")
    assert _scenes(built[1], "fit") < _scenes(built[3], "fit") < _scenes(whole, "fit")
    for n, one in built.items():
        assert one.info["num_fit"] == len(_scenes(one, "fit")) == (n or 6)
        assert _scenes(one, "val") == _scenes(whole, "val")
    half = base.build(tiny.config(data__fraction=0.5))
    assert _scenes(half, "fit") == _scenes(built[3], "fit")
    other = tiny.config(data__fraction=0.5)
    other.seed = 7
    assert _scenes(base.build(other), "fit") == _scenes(half, "fit")
    assert whole.info["class_names"] == ["", *tiny.LABELS]


@pytest.mark.parametrize(
    "arg, overrides, message",
    [
        ("quick,backbone=transformer", {}, "'transformer' has no voxels.*known: ptv3, sparse_unet"),
        ("quick", dict(data__fit_scenes=7), "data.fit_scenes: expected 0 .* to 6, the scenes that"),
        ("quick", dict(data__crop="random"), "crop: unknown 'random'; known: sphere, box"),
    ],
)
def test_wrong_settings_are_refused(arg, overrides, message):
    config = tiny.config(arg, **overrides)
    if "transformer" in arg:
        config.model.backbone_changes = {}
    with pytest.raises(ValueError, match=message):
        base.build(config).train_data()


def test_a_misspelt_task_is_told_of_scenes():
    config = tiny.config()
    config.task = "scene"
    with pytest.raises(ValueError, match="unknown 'scene'; known: classify, parts, scenes"):
        base.build(config)


# Transfer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["quick", "", "paper"])
@pytest.mark.parametrize("backbone", ["sparse_unet", "ptv3"])
def test_every_size_has_the_backbone_of_its_pre_training(backbone, size):
    """Settings that must agree do, and so do the names and shapes of all arrays."""
    arg = ",".join(filter(None, [size, f"backbone={backbone}"]))
    one, two = finetune_scenes.get_config(arg).model, unipre3d_scene.get_config(arg).model
    for name in ("backbone", "backbone_size", "backbone_changes", "features"):
        assert one[name] == two[name], name


@pytest.mark.parametrize("backbone", ["sparse_unet", "ptv3"])
def test_the_backbone_has_the_arrays_of_its_pre_training(backbone):
    def arrays(module, *args):
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
        flat = state_lib.flat(variables).items()
        return {n: x.shape for n, x in flat if n.split("/")[1] == "backbone"}

    config = unipre3d_scene.get_config(f"quick,backbone={backbone},fusion=none")
    changes = {n: backbones.plain(v) for n, v in config.model.backbone_changes.items()}
    points = backbones.PointBatch(
        jnp.zeros((1, 64, 3)), jnp.zeros((1, 64, 6)), jnp.ones((1, 64), bool)
    )
    labeller = model.VoxelLabeller(backbones.build(backbone, "small", channels=6, **changes), 4)
    found = arrays(labeller, points)
    assert len(found) > 20 and found == arrays(unipre3d.build(config), points, None)


def _file(folder, built, config, **changes):
    """A file as `gsjax export-backbone` writes it, with other numbers than a fresh model's."""
    flat = state_lib.flat(tiny.variables(built))
    arrays = {n: np.asarray(x) + 1 for n, x in flat.items() if transfer.is_backbone(n)}
    settings = {**json.loads(config.to_json_best_effort())["model"], **changes}
    about = dict(system="unipre3d", step=3, model=settings)
    path = folder / "backbone.safetensors"
    safetensors_file.save_arrays(path, arrays, {"gsjax_backbone": json.dumps(about)})
    return path, arrays


def test_a_backbone_moves_whole_or_not_at_all(tmp_path):
    config = tiny.config()
    built = base.build(config)
    fresh = jax.eval_shape(built.init, jax.random.key(0))
    path, arrays = _file(tmp_path, built, config)
    found = transfer.backbone_arrays(fresh, path, config.model)
    assert sorted(found) == sorted(arrays)
    for name in arrays:
        np.testing.assert_array_equal(found[name], arrays[name])
    changes = {**config.model.backbone_changes.to_dict(), "voxel_size": 0.1}
    path, _ = _file(tmp_path, built, config, backbone_changes=changes)
    with pytest.raises(ValueError, match="other settings; model.backbone_changes: found .*0.1"):
        transfer.backbone_arrays(fresh, path, config.model)
    path, _ = _file(tmp_path, built, config, features=["rgb", "normal"])
    with pytest.raises(ValueError, match="other settings; model.features"):
        transfer.backbone_arrays(fresh, path, config.model)


def _cheap(built, start: float):
    """The system with a loss that compiles at once, the mean square of its backbone's parameters, whose
    first value is about ``start`` squared."""

    def init(rng):
        del rng
        shapes = jax.eval_shape(built.init, jax.random.key(0))
        return jax.tree.map(lambda x: jnp.full(x.shape, start, x.dtype), shapes)

    def loss(variables, batch, rng, train):
        del batch, rng, train
        leaves = jax.tree.leaves(variables["params"]["backbone"])
        total = sum(jnp.sum(jnp.square(x)) for x in leaves) / sum(x.size for x in leaves)
        return total, {}, {name: x for name, x in variables.items() if name != "params"}

    return dataclasses.replace(built, init=init, loss=loss)


def _first_loss(config, folder, start):
    loop.run(config, folder, system=_cheap(base.build(config), start))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return next(row["loss"] for row in rows if "loss" in row)


@pytest.mark.slow
def test_a_run_starts_from_a_pre_training_run_and_from_its_export(tmp_path):
    """Through configs, checkpoints and the training loop; networks are not run."""
    before = unipre3d_scene.get_config("quick,fusion=none")
    before.data.dir = str(tmp_path / "sets")
    before.data.num_objects, before.data.stored_points, before.data.num_points = 1, 400, 300
    before.data.num_frames, before.data.height, before.data.width = 4, 6, 8
    before.train.batch_size = 1
    before.train.num_steps = before.train.save_every = 2
    before.optim.lr, before.optim.ema = 0.0, 0.0
    after = finetune_scenes.get_config("quick")
    after.data.num_objects = 8
    after.train.num_steps = after.train.save_every = 1
    for config in (before, after):
        config.mesh.data = 1
        config.train.compilation_cache = "off"
        config.eval.evaluators, config.eval.show = {}, False
    _first_loss(before, tmp_path / "before", 3.0)
    transfer.export(tmp_path / "before", tmp_path / "b.safetensors")
    assert _first_loss(after, tmp_path / "scratch", 1.0) == pytest.approx(1.0)
    for start in ("before", "b.safetensors"):
        after.init_backbone = str(tmp_path / start)
        assert _first_loss(after, tmp_path / f"after {start}", 1.0) == pytest.approx(9.0)
    after.model.backbone_changes.voxel_size = 0.1
    with pytest.raises(ValueError, match="pre-trained with other settings; model.backbone_changes"):
        _first_loss(after, tmp_path / "wrong", 1.0)


# Scores -----------------------------------------------------------------------------------------


def _evaluated(built, confusion, **options):
    """The evaluator's results if ``confusion`` is what the system predicts."""
    system = dataclasses.replace(built, predict_fns=dict(confusion=confusion))
    evaluator = scene_segmentation.Evaluator(system, options)
    put = lambda batch: {k: jnp.asarray(v) for k, v in batch.items()}  # noqa: E731
    return evaluator.run({}, put), evaluator.details


def _says(label_of):
    """Predicts ``label_of(labels)`` for every scored point; 'lost' points lie at x < -0.5."""

    def predict(variables, batch):
        true = batch["parts"]
        counted = batch["valid"][:, None] & batch["scored"] & (true > 0)
        said = jnp.where(batch["xyz"][..., 0] < -0.5, 0, label_of(true))

        def table(said):
            hot = lambda x: jax.nn.one_hot(x, 4, dtype=jnp.int32)  # noqa: E731
            return jnp.einsum("bni,bnj->bij", hot(true) * counted[..., None], hot(said))

        return dict(
            confusion=table(said), ceiling=table(true), index=batch["index"], valid=batch["valid"]
        )

    return predict


def test_scores_of_a_known_predictor_over_scenes_with_an_absent_class():
    built = base.build(tiny.config())
    found, details = _evaluated(built, _says(lambda true: jnp.full_like(true, 1)), bootstrap=200)
    labels = np.concatenate([e["parts"][e["scored"]] for e in built.eval_data("test")])
    lost = np.concatenate([(e["xyz"][:, 0] < -0.5)[e["scored"]] for e in built.eval_data("test")])
    known = labels > 0
    assert found["num_scenes"] == 3 and found["num_points"] == known.sum() == 3 * 588
    assert found["num_classes"] == 2  # 'high' is in no held-out scene, and nobody is blamed for it
    assert "iou/high" not in found
    floor = 100 * (known & ~lost & (labels == 1)).sum() / (known & ((labels == 1) | ~lost)).sum()
    assert found["iou/floor"] == pytest.approx(floor) and found["iou/low"] == 0
    assert found["miou"] == pytest.approx(floor / 2)
    assert found["miou_low"] <= found["miou"] <= found["miou_high"]
    assert found["dropped"] == pytest.approx(100 * (lost & known).sum() / known.sum())
    assert found["dropped"] > 1 and found["ceiling_miou"] == 100
    assert found["accuracy"] == pytest.approx(100 * ((labels == 1) & ~lost).sum() / known.sum())
    assert details["index"].tolist() == [0, 1, 2] and details["confusion"].shape == (3, 4, 4)
    assert found["scene_miou"] == pytest.approx(details["iou"].mean())


def test_a_single_scene_has_no_interval_and_other_tasks_are_refused():
    built = base.build(tiny.config(data__num_test=1))
    found, _ = _evaluated(built, _says(lambda true: true))
    assert found["num_scenes"] == 1 and "miou_low" not in found
    other = dataclasses.replace(built, predict_fns={})
    with pytest.raises(ValueError, match="points of objects are scored by 'segmentation'"):
        scene_segmentation.Evaluator(other, {})


def test_examples_match_the_specification():
    built = base.build(tiny.config())
    assert set(built.batch_spec) == set(scene_data.batch_spec(tiny.config()))
    for example in (built.train_data()[0], built.eval_data("val")[0]):
        assert set(example) == set(built.batch_spec)
        for name, spec in built.batch_spec.items():
            assert example[name].shape == spec.shape and example[name].dtype == spec.dtype, name
    assert built.train_data()[0]["rgb"].max() <= 1
