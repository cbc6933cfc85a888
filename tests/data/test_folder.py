"""Your own folder of splats: end to end, and every way to get it wrong."""

import numpy as np
import pytest

from gsjax.data import features, folder, prepare, store
from gsjax.io import formats

# All clouds have 81 to 96 Gaussians: one compilation of the renderer serves every test.
CONFIG = dict(name="folder", num_gaussians=46, views=3, view_size=24)


def _cloud(count, seed, degree=0, far=0.0):
    rng = np.random.default_rng(seed)
    return {
        "means": rng.normal(size=(count, 3)).astype(np.float32) * (1, 3, 1) + far,
        "quats": rng.normal(size=(count, 4)).astype(np.float32),
        "log_scales": np.full((count, 3), -1.5, np.float32),
        "logit_opacities": np.full(count, 3.0, np.float32),
        "sh": rng.normal(size=(count, (degree + 1) ** 2, 3)).astype(np.float32) * 0.3,
    }


@pytest.fixture
def objects(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    formats.save_gaussians(source / "red_chair.ply", _cloud(96, 0))
    formats.save_gaussians(source / "lamp.ply", _cloud(90, 1, far=50.0))
    formats.save_gaussians(source / "mug.splat", _cloud(90, 2))
    (source / "captions.csv").write_text(
        "file,caption,category\n"
        'red_chair.ply,"a red chair, tall",chair\n'
        "red_chair.ply,a seat,chair\n"
        "lamp.ply,a lamp,light\n"
        "mug.splat,a mug,cup\n"
    )
    return source


def _prepare(source, **options):
    return prepare.ensure(
        {**CONFIG, "source": str(source), "dir": str(source.parent / "sets"), **options}
    )


def _table(source, text):
    (source / "captions.csv").write_text(text)
    return source


def test_a_folder_becomes_a_set(objects):
    made = _prepare(objects)
    assert store.split_sizes(made) == {"train": 2, "test": 1}
    assert store.category_names(made) == ["chair", "cup", "light"]
    found = {}
    for split in ("train", "test"):
        records = store.open_split(made, split, fields=store.ALL_FIELDS)
        found |= {records[i]["uid"]: records[i] for i in range(len(records))}
    assert set(found) == {"red_chair", "lamp", "mug"}
    chair, lamp = found["red_chair"], found["lamp"]
    assert chair["captions"] == ["a red chair, tall", "a seat"] and chair["name"] == "red chair"
    assert len(chair["means"]) == 92 and len(lamp["means"]) == 90  # twice num_gaussians at most
    original = _cloud(90, 1, far=50.0)["means"]
    assert {tuple(m) for m in lamp["means"]} == {tuple(m) for m in original.astype(np.float32)}
    np.testing.assert_allclose(np.linalg.norm(lamp["quats"].astype(float), axis=1), 1, atol=2e-3)
    for record in found.values():  # wherever it lies and however large, it fills the picture
        for png in record["views"]:
            covered = np.any(features.decode_png(png) < 240, axis=-1)
            assert 0.1 < covered.mean() < 0.95
    assert _prepare(objects) == made


def test_uid_column_splits_and_up_axis(objects):
    _table(
        objects,
        "uid,caption,split\nlamp,a lamp,test\nmug,a mug,train\nred_chair,a chair,train\n",
    )
    made = _prepare(objects, up_axis="z")
    assert store.read_uids(made, "test") == ["lamp"]
    assert store.category_names(made) == [folder.NO_CATEGORY]
    means = store.open_split(made, "test")[0]["means"]
    expected = _cloud(90, 1, far=50.0)["means"][:, [0, 2, 1]] * (1, 1, -1)
    np.testing.assert_allclose(sorted(map(tuple, means)), sorted(map(tuple, expected)), atol=1e-4)


def test_arrays_are_read_where_they_are_named_and_do_not_get_in_the_way(objects):
    formats.save_gaussians(objects / "lamp.npy", _cloud(90, 5))  # beside lamp.ply
    _table(objects, "uid,file,caption\nlamp,,a lamp\narray,lamp.npy,an array\n")
    items = {item.uid: item for item in folder.read_captions(objects)}
    assert items["lamp"].path.name == "lamp.ply" and items["array"].path.name == "lamp.npy"
    found = folder.load(items["array"], up_axis="y", on_bad_rows="error")
    np.testing.assert_array_equal(found["means"], _cloud(90, 5)["means"].astype(np.float32))


def test_changed_captions_and_files_are_another_set(objects):
    first = folder.digest(folder.read_captions(objects))
    table = (objects / "captions.csv").read_text()
    _table(objects, table.replace("a mug", "a cup"))
    second = folder.digest(folder.read_captions(objects))
    formats.save_gaussians(objects / "lamp.ply", _cloud(90, 9))
    third = folder.digest(folder.read_captions(objects))
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("name,caption\nlamp.ply,a\n", "'file', 'uid'"),
        ("file,text\nlamp.ply,a\n", "'caption'"),
        ("", "columns"),
        ("file,caption\n", "no captions"),
        ("file,caption\nlamp.ply,\n", "line 2: the caption of 'lamp.ply' is empty"),
        ("file,caption\nlamp.ply,a\nlamp.ply,a\n", "line 3: duplicate row for 'lamp'"),
        ("file,caption\nghost.ply,a\n", "line 2: no file for 'ghost.ply'"),
        ("file,caption\nlamp.ply,a lamp, tall\n", "double quotes"),
        ("file,caption,category\nlamp.ply,a,x\nlamp.ply,b,y\n", "category of 'lamp' is 'y'"),
        ("file,caption,split\nlamp.ply,a,val\n", "'train' or 'test'"),
    ],
)
def test_bad_tables_are_refused_by_line(objects, text, message):
    with pytest.raises(ValueError, match=message):
        folder.read_captions(_table(objects, text))


def test_missing_folder_and_table_are_named(objects, tmp_path):
    with pytest.raises(ValueError, match="data.source: .*nowhere"):
        folder.read_captions(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="data.source"):
        prepare.ensure(dict(CONFIG, source=""))
    with pytest.raises(ValueError, match="data.captions_csv: no file .*other.csv"):
        folder.read_captions(objects, "other.csv")
    (objects / "captions.csv").write_bytes(b"file,caption\nlamp.ply,\xff\xfe\n")
    with pytest.raises(ValueError, match="UTF-8"):
        folder.read_captions(objects)


def test_no_training_object_is_refused(objects):
    _table(objects, "file,caption,split\nlamp.ply,a,test\n")
    with pytest.raises(ValueError, match="no object for training"):
        _prepare(objects)


def test_a_bad_file_is_named_and_leaves_no_set(objects):
    data = (objects / "lamp.ply").read_bytes()
    (objects / "lamp.ply").write_bytes(data[:-7])
    with pytest.raises(ValueError, match="lamp.ply"):
        _prepare(objects)
    assert not list((objects.parent / "sets").rglob(store.META_FILE))


def test_rows_with_nan_stop_or_are_dropped_on_request(objects):
    cloud = _cloud(90, 3)
    good = dict(cloud)
    formats.save_gaussians(objects / "lamp.ply", good)
    data = bytearray((objects / "lamp.ply").read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()  # last column of the last row
    (objects / "lamp.ply").write_bytes(bytes(data))
    with pytest.raises(ValueError, match="lamp.ply"):
        _prepare(objects)
    made = _prepare(objects, on_bad_rows="drop")
    counts = {}
    for split in ("train", "test"):
        records = store.open_split(made, split)
        counts |= {records[i]["uid"]: len(records[i]["means"]) for i in range(len(records))}
    assert counts["lamp"] == 89


def test_higher_sh_is_seen_in_pictures(objects):
    """Degree 1 changes the picture; what is stored is degree 0."""
    cloud = _cloud(90, 4, degree=1)
    cloud["sh"][:, 1:] = 0.0
    formats.save_gaussians(objects / "lamp.ply", cloud)
    plain = _prepare(objects)
    cloud["sh"][:, 2] = 0.8
    formats.save_gaussians(objects / "lamp.ply", cloud)
    bright = _prepare(objects)
    pictures, stored = [], []
    for made in (plain, bright):
        for split in ("train", "test"):
            records = store.open_split(made, split, fields=store.ALL_FIELDS)
            for i in range(len(records)):
                if records[i]["uid"] == "lamp":
                    pictures.append(features.decode_png(records[i]["views"][1]).astype(int))
                    stored.append(records[i]["sh0"])
    np.testing.assert_array_equal(stored[0], stored[1])
    assert np.abs(pictures[0] - pictures[1]).mean() > 2


def test_all_objects_in_one_row_each_keep_one_for_testing():
    items = [folder.Item(f"o{i}", None, ("a",), "x", "") for i in range(25)]
    sides = folder.assign_splits(items)
    assert {side: len(chosen) for side, chosen in sides.items()} == {"train": 23, "test": 2}
    assert folder.assign_splits(items[:1]) == {"train": items[:1]}
