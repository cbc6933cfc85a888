"""ShapeNetPart from small files in its published layout: splits, parts, and what is refused."""

import json

import numpy as np
import pytest

from gsjax.data import labelled_clouds, shapenetpart
from gsjax.data.shapenetpart import ShapeNetPart
from tests.data import cloud_cases


def test_parts_are_numbered_over_all_categories():
    assert len(shapenetpart.CATEGORIES) == 16 and len(shapenetpart.PARTS) == 50
    own = dict(zip(shapenetpart.CATEGORIES, shapenetpart.CATEGORY_PARTS))
    # Numbers of the published evaluation code.
    assert own["airplane"] == (0, 1, 2, 3) and own["car"] == (8, 9, 10, 11)
    assert own["motorbike"] == (30, 31, 32, 33, 34, 35) and own["table"] == (47, 48, 49)
    assert [part for parts in own.values() for part in parts] == list(range(50))
    assert shapenetpart.PARTS[35] == "motorbike 5" and len(set(shapenetpart.PARTS)) == 50


@pytest.mark.parametrize("split", shapenetpart.SPLITS)
def test_objects_come_in_the_order_of_the_list(tmp_path, split):
    made = cloud_cases.shapenetpart_root(tmp_path)
    found = ShapeNetPart(tmp_path, split)
    file = tmp_path / shapenetpart.FOLDER / f"train_test_split/shuffled_{split}_file_list.json"
    assert [f"shape_data/{name}" for name in found.names] == json.loads(file.read_text())
    assert len(found) == 32 and np.bincount(found.labels).tolist() == [2] * 16
    for index in (0, 31):
        cloud, rows = found[index], made[found.names[index]]
        np.testing.assert_allclose(cloud.xyz, rows[:, :3], atol=1e-6)
        np.testing.assert_allclose(cloud.normal, rows[:, 3:6], atol=1e-6)
        np.testing.assert_array_equal(cloud.parts, rows[:, 6])
        assert cloud.category == found.labels[index]
        assert shapenetpart.SYNSETS[cloud.category] == cloud.name.split("/")[0]


def test_records_count_parts_from_one_and_keep_an_even_subset(tmp_path):
    made = cloud_cases.shapenetpart_root(tmp_path)
    sides = [ShapeNetPart(tmp_path, split) for split in ("train", "val")]
    joined = labelled_clouds.Joined(sides)
    assert len(joined) == 64 and joined.has_normals
    np.testing.assert_array_equal(joined.labels, np.concatenate([side.labels for side in sides]))
    assert joined[40].name == sides[1].names[8]
    with pytest.raises(IndexError):
        joined[64]
    records = labelled_clouds.Records(joined, first=100, max_points=6)
    record, rows = records[40], made[sides[1].names[8]]
    assert record["index"] == 140 and record["uid"] == sides[1].names[8]
    kept = [0, 4, 8, 12, 16, 20]
    np.testing.assert_allclose(record["means"], rows[kept, :3], atol=1e-6)
    np.testing.assert_allclose(record["normals"], rows[kept, 3:6], atol=1e-6)
    np.testing.assert_array_equal(record["parts"], rows[kept, 6] + 1)
    assert not record["sh0"].any() and record["category"] == sides[1].labels[8]
    with pytest.raises(ValueError, match="max_points"):
        labelled_clouds.Records(joined, max_points=-1)


def test_what_is_missing_is_named(tmp_path):
    made = cloud_cases.shapenetpart_root(tmp_path)
    folder = tmp_path / shapenetpart.FOLDER
    with pytest.raises(FileNotFoundError, match="is no folder; expected <root>/synsetoffset2cat"):
        ShapeNetPart(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split: unknown 'trainval'; known: train, val, test"):
        ShapeNetPart(tmp_path, "trainval")
    name = next(iter(made))
    (folder / f"{name}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 32 point files are missing: '{name}.txt'"):
        ShapeNetPart(folder)
    (folder / "train_test_split/shuffled_val_file_list.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no train_test_split/shuffled_val_file_list"):
        ShapeNetPart(tmp_path, "val")
    (folder / "synsetoffset2category.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no synsetoffset2category.txt;"):
        ShapeNetPart(folder, "test")


def test_lists_and_categories_of_another_form_are_refused(tmp_path):
    cloud_cases.shapenetpart_root(tmp_path)
    folder = tmp_path / shapenetpart.FOLDER
    file = folder / "train_test_split/shuffled_train_file_list.json"
    for text, message in (
        ("[", "not readable JSON"),
        ("{}", "expected a list"),
        ("[]", "expected a list"),
        ('["shape_data/00000000/a"]', "one of the 16 synsets, found 'shape_data/00000000/a'"),
        ("[3]", "found 3"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"train_file_list.json: .*{message}"):
            ShapeNetPart(tmp_path)
    titles = folder / "synsetoffset2category.txt"
    titles.write_text(titles.read_text().replace("02691156", "02691157"))
    with pytest.raises(ValueError, match="the 16 categories .*'Airplane 02691156'"):
        ShapeNetPart(tmp_path)


@pytest.mark.parametrize(
    "row, message",
    [
        ("0 0 0 0 0 1 50", "part: expected labels 0 to 49, found .50."),
        ("0 0 0 0 0 1 1.5", "part: expected whole numbers, found 1.5"),
        ("0 0 0 0 0 1 {}", "part: expected .* of the category '.*', found"),
        ("0 0 0 0 0 1", "expected 7 numbers in each line"),
        ("0 0 0 0 0 inf 1", "NaN or infinite"),
        ("0 0 0 0 0 one 1", "expected 7 numbers in each line"),
    ],
)
def test_wrong_rows_are_named_by_their_file(tmp_path, row, message):
    cloud_cases.shapenetpart_root(tmp_path)
    found = ShapeNetPart(tmp_path)
    stranger = (found.category_parts[found.labels[0]][-1] + 1) % 50
    path = tmp_path / shapenetpart.FOLDER / f"{found.names[0]}.txt"
    path.write_text(row.format(stranger) + "\n")
    with pytest.raises(ValueError, match=f"{found.names[0]}.txt: {message}"):
        found[0]
