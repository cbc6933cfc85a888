"""ModelNet from small files in both published layouts: values, labels, and what is refused."""

import importlib.util
import shutil

import numpy as np
import pytest

from gsjax.data import modelnet
from tests.data import cloud_cases

needs_h5 = pytest.mark.skipif(
    importlib.util.find_spec("h5py") is None, reason="h5py is not installed"
)


@needs_h5
@pytest.mark.parametrize("split", modelnet.SPLITS)
def test_arrays_are_joined_in_the_order_of_the_list(tmp_path, split):
    data, label, normal = cloud_cases.modelnet_h5_root(tmp_path)[split]
    found = modelnet.open_split(tmp_path, split)
    assert isinstance(found, modelnet.ModelNetArrays) and len(found) == 5
    np.testing.assert_array_equal(found.labels, label)
    for index in range(5):
        cloud = found[index]
        np.testing.assert_array_equal(cloud.xyz, data[index])
        np.testing.assert_array_equal(cloud.normal, normal[index])
        assert cloud.category == label[index]
    with pytest.raises(IndexError):
        found[5]


@needs_h5
def test_normals_are_there_only_if_every_file_has_them(tmp_path):
    cloud_cases.modelnet_h5_root(tmp_path, normals=False)
    found = modelnet.open_split(tmp_path / modelnet.FOLDERS["h5"], "test")
    assert not found.has_normals and found[0].normal is None


@pytest.mark.parametrize("name, number", [("modelnet40", 40), ("modelnet10", 10)])
def test_text_files_are_read_by_the_lists(tmp_path, name, number):
    made = cloud_cases.modelnet_text_root(tmp_path)
    for place, split in enumerate(modelnet.SPLITS, 1):
        found = modelnet.open_split(tmp_path, split, name=name)
        assert len(found) == len(found.categories) == number
        assert found.labels.tolist() == list(range(number))
        spelled = modelnet.CATEGORIES[name]
        assert list(found.names) == [f"{category}_{place:04d}" for category in spelled]
        cloud = found[found.names.index(f"night_stand_{place:04d}")]
        assert found.categories[cloud.category] == "night stand"
        rows = made[cloud.name]
        np.testing.assert_allclose(cloud.xyz, rows[:, :3], atol=1e-6)
        np.testing.assert_allclose(cloud.normal, rows[:, 3:], atol=1e-6)


@needs_h5
def test_two_layouts_in_one_folder_must_be_told_apart(tmp_path):
    cloud_cases.modelnet_h5_root(tmp_path)
    cloud_cases.modelnet_text_root(tmp_path)
    with pytest.raises(ValueError, match="layout: .* holds both h5 and text files"):
        modelnet.open_split(tmp_path)
    assert isinstance(modelnet.open_split(tmp_path, layout="text"), modelnet.ModelNetFiles)
    assert isinstance(modelnet.open_split(tmp_path, layout="h5"), modelnet.ModelNetArrays)
    assert len(modelnet.open_split(tmp_path, name="modelnet10")) == 10


@needs_h5
def test_h5_files_that_do_not_fit_are_named(tmp_path):
    cloud_cases.modelnet_h5_root(tmp_path)
    folder = tmp_path / modelnet.FOLDERS["h5"]
    data = np.zeros((2, 16, 3))

    def refused(message, error=ValueError, **arrays):
        cloud_cases.write_h5(folder / "ply_data_test1.h5", **arrays)
        with pytest.raises(error, match=message):
            modelnet.open_split(tmp_path, "test")

    refused(r"test1.h5: label: expected labels 0 to 39, found \[40\]", data=data, label=[1, 40])
    refused("test1.h5: data: expected 16 points .* found 4", data=data[:, :4], label=[1, 2])
    refused("test1.h5: normal: expected", data=data, label=[1, 2], normal=data[:1])
    refused("test1.h5: no array 'data'", label=[1, 2])
    (folder / "ply_data_test1.h5").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 HDF5 files are missing: .*test1.h5"):
        modelnet.open_split(tmp_path, "test")
    names = folder / "shape_names.txt"
    names.write_text(names.read_text().replace("xbox", "box"))
    with pytest.raises(ValueError, match="expected the 40 categories .*'box', 'xbox'"):
        modelnet.open_split(tmp_path)
    names.unlink()
    with pytest.raises(FileNotFoundError, match="has no shape_names.txt"):
        modelnet.open_split(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not hold the layout 'text'"):
        modelnet.open_split(tmp_path, layout="text")


def test_text_files_that_do_not_fit_are_named(tmp_path):
    cloud_cases.modelnet_text_root(tmp_path)
    folder = tmp_path / modelnet.FOLDERS["text"]
    found = modelnet.open_split(tmp_path, name="modelnet10")
    path = folder / "bathtub/bathtub_0001.txt"
    for text, message in (
        ("", r"expected 6 numbers in each line, found shape \[0"),
        ("1,2,3\n", r"expected 6 numbers in each line, found shape \[1, 3\]"),
        ("1 2 3 4 5 6\n", "expected 6 numbers in each line"),
        ("1,2,3,4,5,6\n1,2\n", "expected 6 numbers in each line"),
        ("1,2,3,4,5,nan\n", "NaN or infinite values"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"bathtub_0001.txt: {message}"):
            found[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="1 of 10 point files are missing"):
        modelnet.open_split(tmp_path, name="modelnet10")
    names = folder / "modelnet10_train.txt"
    names.write_text(names.read_text() + "\nlamp_0001\n")
    with pytest.raises(ValueError, match="unknown categories 'lamp'"):
        modelnet.open_split(tmp_path, name="modelnet10")
    names.write_text("\n")
    with pytest.raises(ValueError, match="found an empty file"):
        modelnet.open_split(tmp_path, name="modelnet10")
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="neither modelnet40_test.txt nor test_files.txt"):
        modelnet.open_split(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="is no folder; expected modelnet40_ply_hdf5_2048"):
        modelnet.open_split(folder)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(split="val"), "split: unknown 'val'; known: train, test"),
        (dict(name="modelnet"), "name: unknown 'modelnet'; known: modelnet40, modelnet10"),
        (dict(layout="ply"), "layout: unknown 'ply'; known: '', h5, text"),
    ],
)
def test_unknown_options_list_the_known_ones(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        modelnet.open_split(tmp_path, **options)
