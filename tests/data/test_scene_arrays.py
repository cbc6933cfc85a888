"""S3DIS and ScanNet as folders of arrays: values, splits, labels, and what is refused."""

import shutil

import numpy as np
import pytest

from gsjax.data import clouds, scene_arrays, scene_labels, scenes


def _write(folder, rng, count=12, **segments):
    """A scene of random points; ``segments``: name -> number of classes. Returns its arrays."""
    folder.mkdir(parents=True)
    normal = rng.normal(size=(count, 3))
    arrays = dict(
        coord=rng.normal(size=(count, 3)).astype(np.float32),
        color=rng.integers(0, 256, (count, 3)).astype(np.uint8),
        normal=(normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32),
        instance=np.zeros((count, 1), np.int16),
    )
    for name, classes in segments.items():
        arrays[name] = rng.integers(-1, classes, (count, 1)).astype(np.int16)
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", value)
    return arrays


def _s3dis(root):
    rng = np.random.default_rng(0)
    return {
        f"Area_{k}/{room}": _write(root / f"Area_{k}" / room, rng, segment=13)
        for k in scene_arrays.S3DIS_AREAS
        for room in ("hallway_1", "office_1")
    }


def _scannet(root):
    rng = np.random.default_rng(1)
    made = {}
    for split, name in (
        ("train", "scene0000_00"),
        ("val", "scene0011_00"),
        ("test", "scene0707_00"),
    ):
        segments = {} if split == "test" else dict(segment20=20, segment200=200)
        made[split] = _write(root / split / name, rng, **segments)
    return made


def _same(cloud, arrays, labels):
    np.testing.assert_array_equal(cloud.xyz, arrays["coord"])
    np.testing.assert_array_equal(cloud.rgb, arrays["color"])
    np.testing.assert_array_equal(cloud.normal, arrays["normal"])
    np.testing.assert_array_equal(cloud.label, arrays[labels][:, 0])
    assert cloud.label.dtype == np.int32


@pytest.mark.parametrize("held_out", [5, 2])
def test_one_area_of_s3dis_is_held_out(tmp_path, held_out):
    made = _s3dis(tmp_path)
    options = {} if held_out == 5 else dict(held_out=held_out)
    train, test = (scene_arrays.s3dis(tmp_path, side, **options) for side in ("train", "test"))
    assert train.class_names == scene_labels.S3DIS_13 and len(train.class_names) == 13
    assert test.names == (f"Area_{held_out}/hallway_1", f"Area_{held_out}/office_1")
    assert sorted(train.names + test.names) == sorted(made) and len(train) == 10
    for scene in (*train, *test):
        _same(scene.cloud(), made[scene.name], "segment")


@pytest.mark.parametrize("labels, number", [("segment20", 20), ("segment200", 200)])
def test_scannet_has_20_or_200_classes(tmp_path, labels, number):
    made = _scannet(tmp_path)
    for split in ("train", "val"):
        found = scene_arrays.scannet(tmp_path, split, labels=labels)
        assert len(found.class_names) == len(set(found.class_names)) == number
        assert len(found) == 1
        _same(found[0].cloud(), made[split], labels)
    hidden = scene_arrays.scannet(tmp_path, "test", labels=labels)[0].cloud()
    assert (hidden.label == clouds.NO_LABEL).all()


def test_scenes_have_the_members_of_a_scene_but_no_frames(tmp_path):
    _s3dis(tmp_path)
    found = scene_arrays.s3dis(tmp_path, "test")
    for scene in (found[0], scenes.Kept(found)[0]):
        assert scene.num_frames == 0 and scene.viewmats.shape == (0, 4, 4)
        assert scene.neighbours(0) is None and len(scene.cloud()) == 12
        with pytest.raises(ValueError, match="has no frames, asked for 3"):
            scene.view(3)
    with pytest.raises(ValueError, match="none of 2 has 4 frames"):
        scenes.long_enough(found, 4)


def test_normals_may_be_done_without_if_that_is_asked_for(tmp_path):
    _s3dis(tmp_path)
    (tmp_path / "Area_5/office_1/normal.npy").unlink()
    with pytest.raises(FileNotFoundError, match="office_1: no normal; .* --parse_normal"):
        scene_arrays.s3dis(tmp_path, "test")[1].cloud()
    without = scene_arrays.s3dis(tmp_path, "test", normals=False)
    assert not without[1].cloud().normal.any() and without[0].cloud().normal.any()


def test_rooms_in_pickles_are_refused_with_a_remedy(tmp_path):
    _s3dis(tmp_path)
    shutil.rmtree(tmp_path / "Area_3/office_1")
    (tmp_path / "Area_3/office_1.pth").write_bytes(b"anything")
    with pytest.raises(ValueError, match="Area_3: .*'office_1.pth'.*save them again as .npy"):
        scene_arrays.s3dis(tmp_path)
    assert len(scene_arrays.s3dis(tmp_path, "test")) == 2
    (tmp_path / "Area_5/office_1.pth").write_bytes(b"beside its folder: not read")
    assert len(scene_arrays.s3dis(tmp_path, "test")) == 2
    _scannet(tmp_path)
    (tmp_path / "val/scene0012_00.pth").write_bytes(b"anything")
    scene = scene_arrays.scannet(tmp_path, "val")[1]
    with pytest.raises(ValueError, match="scene0012_00.pth.*save them again as .npy"):
        scene.cloud()


def test_what_is_missing_is_named(tmp_path):
    _s3dis(tmp_path)
    with pytest.raises(ValueError, match="split: unknown 'val'; known: train, test"):
        scene_arrays.s3dis(tmp_path, "val")
    with pytest.raises(ValueError, match="held_out: expected an area from 1 to 6, found 7"):
        scene_arrays.s3dis(tmp_path, held_out=7)
    (tmp_path / "Area_5/office_1/segment.npy").unlink()
    (tmp_path / "Area_5/hallway_1/coord.npy").unlink()
    test = scene_arrays.s3dis(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="hallway_1: no coord; expected"):
        test[0].cloud()
    with pytest.raises(FileNotFoundError, match="office_1: no segment; expected a class"):
        test[1].cloud()
    shutil.rmtree(tmp_path / "Area_2")
    (tmp_path / "Area_2").mkdir()
    with pytest.raises(FileNotFoundError, match="Area_2: no rooms; expected"):
        scene_arrays.s3dis(tmp_path)
    shutil.rmtree(tmp_path / "Area_6")
    with pytest.raises(FileNotFoundError, match="has no folder Area_6; expected <root>/Area_<1"):
        scene_arrays.s3dis(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere/train is no folder"):
        scene_arrays.scannet(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="labels: unknown 'segment'; known: segment20, segment200"):
        scene_arrays.scannet(tmp_path, labels="segment")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("segment", np.full(12, 13), r"segment: expected -1 \(none\) to 12, found \[13\]"),
        ("segment", np.full((12, 1), -100), r"found \[-100\]"),
        ("segment", np.zeros((12, 2), int), r"segment: expected whole numbers \[12\], found"),
        ("segment", np.zeros(12), "segment: expected whole numbers .* found float64"),
        ("color", np.zeros((11, 3)), r"color: expected \[12, 3\], .* found \[11, 3\]"),
        ("normal", np.zeros((12, 4)), r"normal: expected \[12, 3\]"),
        ("coord", np.zeros((0, 3)), r"coord: expected \['P', 3\]|color: expected"),
        ("coord", np.full((12, 3), np.inf), "coord: NaN or infinite"),
        ("coord", np.asarray([{}] * 12), "coord.npy: unreadable or truncated"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, name, value, message):
    _s3dis(tmp_path)
    np.save(tmp_path / f"Area_5/office_1/{name}.npy", value)
    with pytest.raises(ValueError, match=message) as error:
        scene_arrays.s3dis(tmp_path, "test")[1].cloud()
    assert "Area_5/office_1" in str(error.value)
