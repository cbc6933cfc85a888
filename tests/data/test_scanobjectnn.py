"""ScanObjectNN from small files in its published layout: values, variants, and what is refused."""

import sys

import numpy as np
import pytest

from gsjax.data import scanobjectnn
from gsjax.data.scanobjectnn import ScanObjectNN
from gsjax.io import hdf5
from tests.data import cloud_cases

h5py = pytest.importorskip("h5py", reason="h5py is not installed")


@pytest.mark.parametrize("variant", list(scanobjectnn.VARIANTS))
@pytest.mark.parametrize("split", list(scanobjectnn.SPLITS))
def test_each_variant_and_side_is_its_own_file(tmp_path, variant, split):
    made = cloud_cases.scanobjectnn_root(tmp_path)
    data, label, mask = made[variant, split]
    found = ScanObjectNN(tmp_path, split, variant=variant.upper())
    assert len(found) == 20
    np.testing.assert_array_equal(found.labels, label)
    np.testing.assert_array_equal(found.foreground, mask != -1)
    cloud = found[7]
    np.testing.assert_array_equal(cloud.xyz, data[7])
    assert (cloud.category, cloud.normal, cloud.parts) == (7, None, None)
    assert found.categories[cloud.category] == "door" and len(found.categories) == 15
    assert len({found[i].name for i in range(20)}) == 20


def test_the_folder_above_the_archive_is_understood_and_masks_may_be_absent(tmp_path):
    data = np.zeros((2, 4, 3))
    path = tmp_path / "h5_files/main_split/test_objectdataset.h5"
    cloud_cases.write_h5(path, data=data, label=np.asarray([[3], [14]]))
    found = ScanObjectNN(tmp_path, "test", variant="obj_bg")
    assert found.labels.tolist() == [3, 14] and found.foreground is None


def test_what_is_missing_is_named(tmp_path):
    cloud_cases.scanobjectnn_root(tmp_path, count=2)
    with pytest.raises(
        FileNotFoundError, match="is no folder; expected <root>/main_split/training_"
    ):
        ScanObjectNN(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split: unknown 'val'; known: train, test"):
        ScanObjectNN(tmp_path, "val")
    with pytest.raises(ValueError, match="variant: unknown 'hard'; known: obj_only, obj_bg, pb_"):
        ScanObjectNN(tmp_path, variant="hard")
    (tmp_path / "main_split/training_objectdataset_augmentedrot_scale75.h5").unlink()
    with pytest.raises(
        FileNotFoundError, match="has no training_.*scale75.h5, but test_objectdata"
    ):
        ScanObjectNN(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no folder 'main_split_nobg'"):
        ScanObjectNN(tmp_path / "main_split", variant="obj_only")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(label=None), "no array 'label'; it holds data"),
        (dict(data=np.zeros((2, 4))), r"data: expected shape \[n, P, 3\], found \[2, 4\]"),
        (dict(data=np.full((2, 4, 3), np.nan)), "data: NaN or infinite values in 2 rows"),
        (dict(label=[0, 15]), r"label: expected labels 0 to 14, found \[15\]"),
        (dict(label=[-1, 0]), r"label: expected labels 0 to 14, found \[-1\]"),
        (dict(label=[0, 1, 2]), r"label: expected \[2\] or \[2, 1\], found \[3\]"),
        (dict(label=[0.5, 1.0]), "label: expected whole numbers, found 0.5"),
        (dict(label=[b"a", b"b"]), "label: expected numbers, found"),
        (dict(mask=np.zeros((2, 5))), r"mask: expected \[2, 4\]"),
    ],
)
def test_other_shapes_and_labels_are_refused(tmp_path, changes, message):
    arrays = dict(data=np.zeros((2, 4, 3)), label=[0, 1]) | changes
    path = tmp_path / "main_split/training_objectdataset.h5"
    cloud_cases.write_h5(path, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        ScanObjectNN(tmp_path, variant="obj_bg")
    assert path.name in str(error.value)


def test_damaged_files_and_a_missing_package_are_named(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match="a.h5: no such file"):
        hdf5.read(path, ("data",))
    path.write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match="a.h5: not a readable HDF5 file"):
        hdf5.read(path, ("data",))
    cloud_cases.write_h5(path, data=np.arange(4000.0))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="or truncated"):
        hdf5.read(path, ("data",))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"needs h5py: pip install 'gsjax\[h5\]'"):
        hdf5.read(path, ("data",))
