"""A prepared set end to end: written once, read at random, made into examples."""

import os
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gsjax.core import cameras
from gsjax.data import discs, examples, features, loader, prepare, procedural, store, transforms

POINTS, STORED = 64, 96
CONFIG = dict(
    name="procedural",
    num_objects=30,
    num_test=5,
    num_gaussians=POINTS,
    stored_gaussians=STORED,
    views=3,
    view_size=24,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return prepare.ensure(dict(CONFIG, dir=str(tmp_path_factory.mktemp("sets"))))


def test_second_call_finds_the_set_and_makes_nothing(made):
    before = {p.name: p.stat().mtime for p in made.iterdir()}
    assert prepare.ensure(dict(CONFIG, dir=str(made.parent.parent))) == made
    assert {p.name: p.stat().mtime for p in made.iterdir()} == before
    assert [p.name for p in made.parent.iterdir()] == [made.name]  # no scratch left behind


def test_other_settings_are_another_set(made):
    plans = [
        prepare.plan(dict(CONFIG, **change))
        for change in ({}, {"seed": 1}, {"views": 4}, {"num_objects": 31}, {"num_threads": 9})
    ]
    folders = [str(prepare.dataset_dir(CONFIG, plan.identity)) for plan in plans]
    assert len(set(folders)) == 4 and folders[0] == folders[4]


def test_the_same_settings_give_the_same_fingerprint(made, tmp_path):
    again = prepare.ensure(dict(CONFIG, dir=str(tmp_path)))
    assert again != made
    assert store.fingerprint(again) == store.fingerprint(made)


def test_an_interrupted_run_leaves_no_data_set(tmp_path, monkeypatch):
    config = dict(CONFIG, dir=str(tmp_path), seed=8)
    real = procedural.generate

    def failing(index, **options):
        if index == 20:
            raise KeyboardInterrupt
        return real(index, **options)

    monkeypatch.setattr(procedural, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare.ensure(config)
    assert not any((tmp_path / "procedural").iterdir())


def test_records_hold_what_was_generated(made):
    assert store.split_sizes(made) == {"train": 30, "test": 5}
    records = store.open_split(made, "train", fields=store.ALL_FIELDS)
    assert len(records) == 30
    original = procedural.generate(7, seed=0, num_gaussians=STORED, fps_length=POINTS)
    record = records[7]
    assert record["uid"] == original.uid and record["name"] == original.name
    assert record["captions"] == list(original.captions)
    assert record["category"] == 7 and record["index"] == 7 and record["colored"] is True
    np.testing.assert_array_equal(record["means"], original.gaussians["means"])
    for name in ("quats", "log_scales", "logit_opacities", "sh0"):
        assert record[name].dtype == np.float16
        np.testing.assert_allclose(record[name], original.gaussians[name], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(record["parts"], original.gaussians["parts"])
    assert set(store.part_names(made)) == set(procedural.PARTS)


def test_index_is_unique_over_splits_and_uids_differ(made):
    index, uids = [], []
    for split in store.split_sizes(made):
        records = store.open_split(made, split, fields=("index", "uid"))
        index += [records[i]["index"] for i in range(len(records))]
        uids += store.read_uids(made, split)
    assert index == list(range(35))
    assert len(set(uids)) == 35


def test_category_names_are_words(made):
    assert store.category_names(made) == list(procedural.CATEGORIES)


def test_views_show_the_object_on_white_and_cameras_look_at_it(made):
    record = store.open_split(made, "test", fields=store.ALL_FIELDS)[0]
    assert len(record["views"]) == 3
    for png, viewmat, K in zip(record["views"], record["viewmats"], record["Ks"]):
        image = features.decode_png(png)
        assert image.shape == (24, 24, 3) and image.dtype == np.uint8
        assert np.all(image[0, 0] > 250)  # the corner is background
        assert np.mean(np.any(image < 240, axis=-1)) > 0.05  # and something is in view
        points = record["means"] @ viewmat[:3, :3].T + viewmat[:3, 3]
        pixels = points[:, :2] / points[:, 2:] * K[0, 0] + K[:2, 2]
        assert np.all(points[:, 2] > 0) and np.all((pixels > 0) & (pixels < 24))
        # Where Gaussians project to, the picture is not white.
        column, row = np.round(np.median(pixels, axis=0) - 0.5).astype(int)
        assert image[row - 2 : row + 3, column - 2 : column + 3].min() < 240
    centers = np.asarray(cameras.camera_centers(record["viewmats"]))
    assert centers[1, 1] > centers[0, 1] > 0 > centers[2, 1]  # elevations 40, 10, -20


def test_a_prefix_is_a_farthest_point_subset(made):
    means = store.open_split(made, "train")[0]["means"]
    rng = np.random.default_rng(0)

    def spread(rows):
        gaps = np.linalg.norm(means[rows][:, None] - means[rows][None], axis=-1)
        return np.min(gaps + 9 * np.eye(len(rows)), axis=1).min()

    random = max(spread(rng.permutation(STORED)[:16]) for _ in range(20))
    assert spread(np.arange(16)) > 1.5 * random


def _examples(made, train=True, split="train", **options):
    options = {"num_points": POINTS, "seed": 0, **options}
    fields = store.ALL_FIELDS if "view" in options.get("fields", ()) else None
    return examples.gaussian_examples(
        store.open_split(made, split, fields=fields), train=train, **options
    )


def test_examples_have_the_documented_fields_and_types(made):
    example = _examples(made)[3]
    shapes = {
        name: (np.shape(v), np.asarray(v).dtype) for name, v in example.items() if name != "uid"
    }
    f32 = np.dtype(np.float32)
    assert shapes == {
        "index": ((), np.dtype(np.int32)),
        "valid": ((), np.dtype(bool)),
        "means": ((POINTS, 3), f32),
        "quats": ((POINTS, 4), f32),
        "log_scales": ((POINTS, 3), f32),
        "logit_opacities": ((POINTS,), f32),
        "sh0": ((POINTS, 3), f32),
        "mask": ((POINTS,), np.dtype(bool)),
        "category": ((), np.dtype(np.int32)),
    }
    assert example["index"] == 3 and example["mask"].all()


def test_training_draws_anew_each_epoch_and_evaluation_never_does(made):
    train, total = _examples(made), 30
    epochs = train.repeat()
    assert not np.array_equal(epochs[3]["means"], epochs[3 + total]["means"])
    np.testing.assert_array_equal(train[3]["means"], _examples(made)[3]["means"])
    still = _examples(made, train=False)
    np.testing.assert_array_equal(still[3]["means"], still.repeat()[3 + total]["means"])
    # The subset goes with the object, not with its place in the data set.
    moved = _examples(made, train=False)[2:]
    np.testing.assert_array_equal(moved[1]["means"], still[3]["means"])


def test_rows_of_an_example_belong_together(made):
    record = store.open_split(made, "train")[4]
    example = _examples(made, fields=("means", "quats", "sh0", "parts"))[4]
    where = [np.flatnonzero((record["means"] == m).all(1))[0] for m in example["means"]]
    assert len(set(where)) == POINTS
    for name in ("quats", "sh0", "parts"):
        np.testing.assert_array_equal(example[name], record[name][where])


def test_small_objects_are_repeated_or_padded(made):
    repeated = _examples(made, num_points=150)[0]
    assert repeated["mask"].all() and len(repeated["means"]) == 150
    padded = _examples(made, num_points=150, short="pad")[0]
    assert padded["mask"].sum() == STORED and not padded["means"][~padded["mask"]].any()


def test_prefix_subset_takes_the_stored_order(made):
    record = store.open_split(made, "train")[1]
    example = _examples(made, subset="prefix")[1]
    np.testing.assert_array_equal(example["means"], record["means"][:POINTS])


def test_anchors_stay_the_farthest_points_of_a_random_subset(made):
    record = store.open_split(made, "train")[1]
    one, two = (_examples(made, anchors=16).repeat()[i]["means"] for i in (1, 31))
    np.testing.assert_array_equal(one[:16], record["means"][:16])
    np.testing.assert_array_equal(two[:16], record["means"][:16])
    assert not np.array_equal(one[16:], two[16:])
    assert len(np.unique(one, axis=0)) == POINTS
    np.testing.assert_array_equal(discs.farthest_point_order(one, 16)[:16], np.arange(16))


def test_colours_that_mean_nothing_can_be_made_grey(made):
    class Grey:
        def __init__(self, records):
            self.records = records

        def __len__(self):
            return len(self.records)

        def __getitem__(self, i):
            return {**self.records[i], "colored": i != 0}

    source = Grey(store.open_split(made, "train"))
    found = examples.gaussian_examples(
        source, num_points=POINTS, seed=0, train=False, uncolored_rgb=0.4
    )
    np.testing.assert_allclose(0.5 + features.SH_C0 * found[0]["sh0"], 0.4, atol=1e-6)
    assert found[1]["sh0"].std() > 0 and _examples(made)[0]["sh0"].std() > 0


def test_tfds_reads_the_folder_without_this_package(made):
    source = tfds.builder_from_directory(str(made)).as_data_source("train")
    assert source[3]["uid"].decode() == store.open_split(made, "train")[3]["uid"]


def test_leftovers_of_killed_runs_are_removed_after_a_day(tmp_path):
    config = dict(CONFIG, dir=str(tmp_path), num_objects=2, num_test=1)
    plan = prepare.plan(config)
    folder = prepare.dataset_dir(config, plan.identity)
    old, new = (folder.parent / f".making-{folder.name}-{name}" for name in ("old", "new"))
    for scratch in (old, new):
        scratch.mkdir(parents=True)
    os.utime(old, (1, 1))
    assert prepare.ensure(config) == folder
    assert not old.exists() and new.exists()


def test_command_line_prepares_a_set(tmp_path, monkeypatch, capsys):
    words = "prepare --num_objects=2 --num_test=1 --num_gaussians=96 --views=3 --view_size=24"
    monkeypatch.setattr(sys, "argv", [*words.split(), f"--dir={tmp_path}"])
    prepare.main()
    assert "{'train': 2, 'test': 1} objects" in capsys.readouterr().out


def test_captions_and_views_on_request(made):
    fields = ("index", "caption", "view", "viewmat", "K", "colored")
    first = _examples(made, train=False, fields=fields)[2]
    record = store.open_split(made, "train", fields=store.ALL_FIELDS)[2]
    assert first["caption"] == record["captions"][0]
    np.testing.assert_array_equal(first["view"], features.decode_png(record["views"][0]))
    drawn = [_examples(made, fields=fields).repeat()[2 + 30 * k] for k in range(8)]
    assert len({d["caption"] for d in drawn}) > 1 and {d["caption"] for d in drawn} <= set(
        record["captions"]
    )
    assert len({d["viewmat"].tobytes() for d in drawn}) > 1


def test_batches_from_disk_with_threads(made):
    fields = tuple(f for f in examples.DEFAULT_FIELDS if f != "uid")
    iterator = loader.train_iterator(_examples(made, fields=fields), seed=0, global_batch=8)
    batches = [next(iterator) for _ in range(5)]
    iterator.close()
    assert batches[0]["means"].shape == (8, POINTS, 3)
    evaluation = list(
        loader.eval_batches(
            _examples(made, train=False, split="test", fields=fields), global_batch=4
        )
    )
    assert [int(b["valid"].sum()) for b in evaluation] == [4, 1]
    assert all(b["means"].shape == (4, POINTS, 3) for b in evaluation)


def test_records_travel_to_worker_processes(made):
    records = store.open_split(made, "train")
    records[0]
    copy = pickle.loads(pickle.dumps(records))
    np.testing.assert_array_equal(copy[5]["means"], records[5]["means"])


def test_normals_come_back_from_stored_discs(made):
    record = store.open_split(made, "train")[12]
    original = procedural.generate(12, seed=0, num_gaussians=STORED, fps_length=POINTS)
    np.testing.assert_allclose(
        transforms.disc_normals(record["quats"]),
        transforms.disc_normals(original.gaussians["quats"]),
        atol=3e-3,
    )


def test_bad_requests_name_what_there_is(made, tmp_path):
    with pytest.raises(ValueError, match="unknown split 'val'.*'test', 'train'"):
        store.open_split(made, "val")
    with pytest.raises(ValueError, match="unknown \\['colour'\\]"):
        store.open_split(made, "train", fields=("colour",))
    with pytest.raises(ValueError, match="no finished data set"):
        store.open_split(tmp_path, "train")
    with pytest.raises(IndexError):
        store.open_split(made, "test")[5]
    with pytest.raises(ValueError, match="unknown \\['colour'\\]"):
        _examples(made, fields=("colour",))
    with pytest.raises(ValueError, match="subset"):
        _examples(made, subset="best")
    with pytest.raises(ValueError, match="num_points"):
        _examples(made, num_points=0)
    with pytest.raises(ValueError, match="anchors=65"):
        _examples(made, anchors=POINTS + 1)
    with pytest.raises(ValueError, match="unknown set 'shapes'"):
        prepare.ensure(dict(name="shapes"))
    with pytest.raises(ValueError, match="data.views"):
        prepare.ensure(dict(name="procedural", views=0))


def test_a_damaged_description_is_reported(made, tmp_path):
    (tmp_path / store.META_FILE).write_text("{broken")
    with pytest.raises(ValueError, match="not readable JSON"):
        store.read_meta(tmp_path)
    (tmp_path / store.META_FILE).write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99"):
        store.read_meta(tmp_path)


def test_a_remote_set_is_copied_once(made, tmp_path, monkeypatch):
    """Object stores are stood in for by a local folder that is called remote."""
    monkeypatch.setattr(store, "is_remote", lambda folder: str(folder) == str(made))
    monkeypatch.setenv("GSJAX_CACHE", str(tmp_path))
    records = store.open_split(made, "test")
    local = store.localize(made)
    assert str(local).startswith(str(tmp_path)) and store.is_complete(local)
    stamp = (local / store.META_FILE).stat().st_mtime_ns
    assert len(records) == 5 and records[0]["uid"]
    assert store.localize(made) == local
    assert (local / store.META_FILE).stat().st_mtime_ns == stamp
