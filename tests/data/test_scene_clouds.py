"""Crops of labelled scenes: what training draws, and that evaluation scores every point once."""

import ml_collections
import numpy as np
import pytest

from gsjax.data import clouds, scene_cloud_sets, scene_clouds
from gsjax.data.rooms import source as rooms


class _Line:
    """A long strip of points; the label is the place in the strip."""

    def __init__(self, name, count):
        rng = np.random.default_rng(count)
        xyz = rng.uniform((0, 0, 0), (8, 1, 0.2), (count, 3)).astype(np.float32)
        rgb = np.stack([np.arange(count) % 256, np.arange(count) // 256, 0 * xyz[:, 0]], -1)
        self.name = name
        self._cloud = clouds.Cloud(
            xyz, rgb.astype(np.uint8), np.zeros_like(xyz), np.arange(count, dtype=np.int32)
        )

    def cloud(self):
        return self._cloud


SCENES = [_Line("a", 500), _Line("b", 90), _Line("c", 333)]


@pytest.mark.parametrize("kind", scene_clouds.CROPS)
@pytest.mark.parametrize("count", [1, 50, 100, 101, 700])
def test_crops_of_a_cover_hold_every_point_and_own_it_once(kind, count):
    xyz = np.random.default_rng(count).uniform(size=(count, 3)) * [5, 2, 1]
    found = scene_clouds.cover(xyz, 100, kind)
    assert found.owner.shape == (count,)
    assert sorted(set(found.owner)) == list(range(len(found.centers)))
    assert (len(found.centers) == 1) == (count <= 100)
    for k, center in enumerate(found.centers):
        rows, _ = clouds.crop(xyz, 100, kind, center=center, rng=None)
        assert set(np.flatnonzero(found.owner == k)) <= set(rows)


def test_more_equal_points_than_a_crop_holds_are_refused():
    assert len(scene_clouds.cover(np.zeros((10, 3)), 10, "sphere").centers) == 1
    with pytest.raises(ValueError, match="more than 10 points lie at .* thin the cloud"):
        scene_clouds.cover(np.zeros((25, 3)), 10, "sphere")


def test_points_belong_to_the_crop_whose_middle_is_nearest():
    xyz = np.random.default_rng(0).uniform(size=(400, 3)) * [8, 1, 0.1]
    found = scene_clouds.cover(xyz, 150, "sphere")
    reach = []
    for center in found.centers:
        _, region = clouds.crop(xyz, 150, "sphere", center=center, rng=None)
        reach.append(region.reach)
    share = np.linalg.norm(xyz[:, None] - found.centers, axis=-1) / np.asarray(reach)
    np.testing.assert_allclose(share[np.arange(400), found.owner], share.min(1), rtol=1e-6)


def test_evaluation_scores_every_point_once_and_does_not_change():
    spec = scene_clouds.CloudSpec(num_points=120)
    made = scene_clouds.eval_examples(SCENES, spec, seed=0)
    seen = {0: [], 1: [], 2: []}
    for example in made:
        assert example["xyz"].shape == (120, 3) and example["scored"].dtype == bool
        assert not (example["scored"] & ~example["mask"]).any()
        assert (example["label"][~example["mask"]] == clouds.NO_LABEL).all()
        mean = example["xyz"][example["mask"]].mean(0)
        np.testing.assert_allclose(mean, 0, atol=1e-5)
        seen[int(example["index"])] += example["label"][example["scored"]].tolist()
    assert {k: sorted(v) for k, v in seen.items()} == {
        k: list(range(len(scene.cloud()))) for k, scene in enumerate(SCENES)
    }
    again = scene_clouds.eval_examples(SCENES, spec, seed=0)
    for one, two in zip(made, again, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_columns_stay_together_and_rows_choose_scenes():
    spec = scene_clouds.CloudSpec(num_points=100)
    for example in scene_clouds.eval_examples(SCENES, spec, seed=0, rows=[2]):
        assert example["index"] == 2
        cloud, there = SCENES[2].cloud(), example["mask"]
        rows = example["label"][there]
        np.testing.assert_array_equal(example["rgb"][there], cloud.rgb[rows])
        shift = cloud.xyz[rows] - example["xyz"][there]
        np.testing.assert_allclose(shift, np.broadcast_to(shift[:1], shift.shape), atol=1e-5)


def test_training_draws_crops_anew_by_the_seed():
    spec = scene_clouds.CloudSpec(num_points=60, voxel=0.05)

    def labels(seed):
        made = scene_clouds.train_examples(SCENES, spec, seed=seed, rows=[0, 1]).repeat(2)
        assert len(made) == 4
        examples = [made[i] for i in range(4)]
        assert [int(e["index"]) for e in examples] == [0, 1, 0, 1]
        assert all((e["scored"] == e["mask"]).all() for e in examples)
        return [e["label"].tolist() for e in examples]

    one = labels(0)
    assert one == labels(0) and one != labels(1)
    assert one[0] != one[2]


def test_thinning_keeps_one_point_a_voxel():
    spec = scene_clouds.CloudSpec(num_points=1000, voxel=0.25)
    (example,) = scene_clouds.eval_examples([SCENES[0]], spec, seed=0)
    cells = {tuple(c) for c in np.floor(SCENES[0].cloud().xyz / 0.25).astype(int)}
    assert example["mask"].sum() == example["scored"].sum() == len(cells)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(num_points=0), "CloudSpec.num_points: expected 1 or more, found 0"),
        (dict(voxel=-1.0), "CloudSpec.voxel: expected metres above 0"),
        (dict(crop="random"), "CloudSpec.crop: unknown 'random'; known: sphere, box"),
    ],
)
def test_impossible_examples_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        scene_clouds.CloudSpec(**{"num_points": 5, **changes})


def _rooms(folder, **changes):
    settings = dict(
        name="rooms", source="", dir=str(folder), seed=0, num_objects=2, num_test=1,
        stored_points=400, labels="segment20", held_out=5,
    )  # fmt: skip
    return scene_cloud_sets.load(ml_collections.ConfigDict({**settings, **changes}))


def test_rooms_have_the_points_that_they_have_with_frames(tmp_path):
    found = _rooms(tmp_path)
    assert (len(found.train), len(found.test)) == (2, 1)
    recipe = rooms.Recipe(num_frames=5, width=32, height=24, num_points=400)
    for side, scenes in (("train", found.train), ("test", found.test)):
        other = rooms.Rooms(2, seed=0, split=side, recipe=recipe)[0]
        assert scenes[0].name == other.name
        for name in ("xyz", "rgb", "normal", "label"):
            np.testing.assert_array_equal(
                getattr(scenes[0].cloud(), name), getattr(other.cloud(), name)
            )
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")}
    assert len(files) == 3
    _rooms(tmp_path)
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")}
    _rooms(tmp_path, num_objects=1, stored_points=300)
    assert len(list(tmp_path.rglob("*.npz"))) == 5


def test_a_damaged_file_says_so(tmp_path):
    path = tmp_path / "x.npz"
    cloud = SCENES[1].cloud()
    scene_cloud_sets.write(cloud, path)
    stored = scene_cloud_sets.StoredCloud("x", path)
    np.testing.assert_array_equal(stored.cloud().label, cloud.label)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="x.npz: missing or damaged"):
        stored.cloud()


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "hololens_room",
            "'hololens_room' has no labels; those with labels: rooms, scannet, s3dis",
        ),
        ("moon", "'moon' unknown set of scenes"),
    ],
)
def test_sets_without_labels_are_refused(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        _rooms(tmp_path, name=name)


def test_a_published_set_needs_a_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("GSJAX_DATA", raising=False)
    with pytest.raises(ValueError, match="data.source: the set s3dis is read from a folder"):
        _rooms(tmp_path, name="s3dis")
    with pytest.raises(FileNotFoundError, match="no folder Area_1"):
        _rooms(tmp_path, name="s3dis", source=str(tmp_path))


def _arrays(folder, label, file):
    folder.mkdir(parents=True)
    np.save(folder / "coord.npy", np.eye(3, dtype=np.float32))
    np.save(folder / "color.npy", np.full((3, 3), 255, np.uint8))
    np.save(folder / "normal.npy", np.eye(3, dtype=np.float32))
    np.save(folder / f"{file}.npy", np.asarray([label, 0, -1], np.int32))


def test_published_sets_are_read_by_their_sides(tmp_path):
    for area in range(1, 7):
        _arrays(tmp_path / "s3dis" / f"Area_{area}" / "office_1", area, "segment")
    found = _rooms(tmp_path, name="s3dis", source=str(tmp_path / "s3dis"), held_out=2)
    assert [scene.cloud().label[0] for scene in found.test] == [2]
    assert [scene.cloud().label[0] for scene in found.train] == [1, 3, 4, 5, 6]
    assert found.labels[0] == "ceiling" and len(found.labels) == 13
    for split, label in (("train", 7), ("val", 8)):
        _arrays(tmp_path / "scannet" / split / "scene0000_00", label, "segment200")
    found = _rooms(tmp_path, name="scannet", source=str(tmp_path / "scannet"), labels="segment200")
    assert found.train[0].cloud().label.tolist() == [7, 0, -1]
    assert found.test[0].cloud().label.tolist() == [8, 0, -1]
    assert len(found.labels) == 200
