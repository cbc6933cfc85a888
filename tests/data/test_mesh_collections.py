"""Collections of meshes: what is found in a folder, and what it is called."""

import os
import pathlib

import pytest

from gsjax.data import mesh_collections
from gsjax.io import meshes

TETRAHEDRON = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"


def _write(path, header="OFF\n4 4 0\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + TETRAHEDRON)


@pytest.fixture
def modelnet(tmp_path):
    """Five objects laid out as the archive of ModelNet10 is, with what else lies in it."""
    root = tmp_path / "ModelNet10"
    for name in (
        "night_stand/train/night_stand_0001", "night_stand/test/night_stand_0201",
        "bed/train/bed_0001", "bed/train/bed_0002", "bed/test/bed_0516",
    ):  # fmt: skip
        _write(root / f"{name}.off")
    (root / "README.txt").write_text("ModelNet10\n")
    double = root / "bed" / "train" / "._bed_0001.off"  # what a Mac adds to an archive
    double.write_bytes(b"\x00\x05\x16\x07")
    return root


def test_modelnet10_has_category_and_split_from_its_folders(modelnet):
    items, _ = mesh_collections.load(str(modelnet))
    assert [item.number for item in items] == list(range(5))
    found = {item.about["uid"]: item.about for item in items}
    assert set(found) == {
        "bed/test/bed_0516", "bed/train/bed_0001", "bed/train/bed_0002",
        "night_stand/test/night_stand_0201", "night_stand/train/night_stand_0001",
    }  # fmt: skip
    assert found["night_stand/test/night_stand_0201"] == {
        "uid": "night_stand/test/night_stand_0201", "name": "night stand",
        "category": "night_stand", "captions": ["a night stand"], "colored": False,
        "split": "test",
    }  # fmt: skip
    assert found["bed/train/bed_0002"]["split"] == "train"
    sides = [item.about["split"] for item in items]
    assert (sides.count("train"), sides.count("test")) == (3, 2)


def test_an_item_reads_its_own_file(modelnet):
    pytest.importorskip("trimesh")
    _write(modelnet / "bed" / "train" / "bed_0002.off", "OFF\n5 4 0\n9 9 9\n")
    for item in mesh_collections.load(str(modelnet))[0]:
        expected = 5 if item.about["uid"].endswith("bed_0002") else 4
        assert len(item.mesh().vertices) == expected


@pytest.mark.parametrize("header", ["OFF4 4 0\n", "OFF 4 4 0\n", "OFF\n4 4 0\n", "OFF4 4 0\r\n"])
def test_headers_as_they_occur_in_modelnet_are_read(tmp_path, header):
    pytest.importorskip("trimesh")
    _write(tmp_path / "bed" / "train" / "bed_0001.off", header)
    (item,), _ = mesh_collections.load(str(tmp_path))
    mesh = item.mesh()
    assert mesh.vertices.shape == (4, 3) and mesh.area == pytest.approx(1.5 + 0.75**0.5)


def test_the_identity_changes_with_the_files(modelnet):
    _, before = mesh_collections.load(str(modelnet))
    assert mesh_collections.load(str(modelnet))[1] == before and before.startswith("modelnet ")
    _write(modelnet / "bed" / "train" / "bed_0003.off")
    assert mesh_collections.load(str(modelnet))[1] != before


def test_other_folders_are_files_with_names(tmp_path):
    _write(tmp_path / "lamps" / "desk_lamp.off")
    _write(tmp_path / "test" / "vase.off")
    items, identity = mesh_collections.load(str(tmp_path))
    assert identity.startswith("files ")
    lamp, vase = (item.about for item in items)
    assert (lamp["name"], lamp["category"], lamp["split"]) == ("desk lamp", "lamps", "train")
    assert (vase["category"], vase["split"]) == (mesh_collections.NO_CATEGORY, "test")
    # One file out of the layout, and the folder is no ModelNet.
    _write(tmp_path / "bed" / "train" / "bed_0001.off")
    assert mesh_collections.load(str(tmp_path))[1].startswith("files ")


def test_a_folder_without_meshes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither index.jsonl nor mesh files"):
        mesh_collections.load(str(tmp_path))


def test_models_of_modelnet10_are_read():
    pytest.importorskip("trimesh")
    folder = pathlib.Path(os.environ.get("GSJAX_DATA", "")) / "modelnet10_partial" / "off"
    if not os.environ.get("GSJAX_DATA") or not folder.exists():
        pytest.skip("needs $GSJAX_DATA/modelnet10_partial")
    items, _ = mesh_collections.load(str(folder))
    assert len(items) == 9
    for item in items:
        counts = (folder / f"{item.about['uid']}.off").read_text().split()[1:3]
        mesh = item.mesh()
        assert isinstance(mesh, meshes.Mesh) and len(mesh.vertices) == int(counts[0])
        assert len(mesh.faces) >= int(counts[1])  # polygons become triangles
