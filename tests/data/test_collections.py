"""Public collections: tiny ones in the layouts of the real ones, to items, records and embeddings."""

import gzip
import json
import logging
import pickle
import zipfile

import numpy as np
import pytest

from gsjax import assets
from gsjax.data import collections, collections_labels, collections_names, folder, prepare, store
from gsjax.io import formats, gaussian_array

CONFIG = dict(num_gaussians=46, views=3, view_size=24)
HASH = "d388617a719f23a191d0dff7aea42471"  # names in ShapeNet are such


def _cloud(seed=0, count=90):
    rng = np.random.default_rng(seed)
    return {
        "means": rng.normal(size=(count, 3)).astype(np.float32) * (1, 3, 1),
        "quats": rng.normal(size=(count, 4)).astype(np.float32),
        "log_scales": np.full((count, 3), -1.5, np.float32),
        "logit_opacities": np.full(count, 3.0, np.float32),
        "sh": rng.normal(size=(count, 1, 3)).astype(np.float32) * 0.3,
    }


def _save(root, *names, seed=0):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        formats.save_gaussians(root / name, _cloud(seed + number))
    return root


def _touch(root, *names):
    """Empty files: listing opens no PLY."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def _pickle(root, uid, **changes):
    """A record as UniGS's make_datasets.py writes it with torch.save."""
    content = {
        "machine_prompt": f"machine text of {uid}",
        "human_prompt": [f"human text of {uid}"],
        "name": uid,
        "label_count": 0,
        "dataset": "objaverse",
        "label": "arctic_(type_of_shoe)",
        "3dgs": gaussian_array.to_table(_cloud(sum(map(ord, uid)))),
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path = root / "objects" / f"{uid}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{uid}/data.pkl", pickle.dumps(content, 2))
    return root


MODELNET = (
    *(
        "airplane/train/airplane_0001/point_cloud.ply",
        "airplane/train/airplane_0002/point_cloud.ply",
    ),
    *(
        "airplane/test/airplane_0627/point_cloud.ply",
        "flower_pot/train/flower_pot_0001/point_cloud.ply",
    ),
    "flower_pot/test/flower_pot_0150/point_cloud.ply",
)


def test_modelnet_takes_category_and_split_from_its_folders(tmp_path):
    items = collections.list_items("modelnet_splats", _touch(tmp_path, *MODELNET))
    assert [(o.uid, o.category, o.split) for o in items] == [
        ("airplane_0001", "airplane", "train"),
        ("airplane_0002", "airplane", "train"),
        ("airplane_0627", "airplane", "test"),
        ("flower_pot_0001", "flower_pot", "train"),
        ("flower_pot_0150", "flower_pot", "test"),
    ]
    assert items[0].captions == ("a 3D model of an airplane",)
    assert items[4].captions == ("a 3D model of a flower pot",)
    assert items[4].name == "flower pot"
    assert items[0].path == tmp_path / MODELNET[0]


def test_layouts_that_unpacking_may_leave_are_understood(tmp_path):
    """A folder twice, no folder around the object, the folders and points of a fit, a Mac's files."""
    _touch(
        tmp_path,
        "bed/bed/train/bed_0001/point_cloud.ply",
        "bed/bed/train/bed_0001/input.ply",
        "chair/test/chair_0900.ply",
        "night stand/test/night_stand_0201/point_cloud/iteration_7000/point_cloud.ply",
        "night stand/test/night_stand_0201/point_cloud/iteration_15000/point_cloud.ply",
        "night stand/test/night_stand_0201/cameras.json",
        "__MACOSX/bed/train/._bed_0001.ply",
        "README.md",
        "bed.zip",
    )
    items = collections.list_items("modelnet_splats", tmp_path)
    assert [(o.uid, o.category, o.split) for o in items] == [
        ("bed_0001", "bed", "train"),
        ("chair_0900", "chair", "test"),
        ("night_stand_0201", "night_stand", "test"),
    ]
    assert "iteration_15000" in str(items[2].path)  # the later one, though it sorts first


@pytest.mark.parametrize(
    "name, files, message",
    [
        ("modelnet_splats", (), "holds no .ply file .found: nothing.*airplane/train"),
        ("modelnet_splats", ("bed.zip", "sofa.zip"), "2 x .zip.; unpack the archives"),
        ("modelnet_splats", ("lamp.ply", MODELNET[0]), "1 of 2 files .*lamp.ply.*airplane/train"),
        ("modelnet_splats", ("train/airplane_0001/point_cloud.ply",), "1 of 1 files"),
        ("modelnet_splats", ("zebra/train/zebra_1.ply",), "zebra_1.ply.*categories of ModelNet40"),
        (
            "modelnet_splats",
            ("bed/train/bed_1.ply", "bed/train/bed_1/point_cloud.ply"),
            "two files of the object 'bed_1'",
        ),
        ("modelnet_splats", ("bed/train/a.ply", "sofa/test/a.ply"), "two files of the object 'a'"),
        ("shape_splats", (MODELNET[0],), "not where ShapeSplats has them.*03001627-"),
        ("shape_splats", (f"99999999-{HASH}.ply",), "1 of 1 files"),
        (
            "shape_splats",
            (f"03001627-{HASH}.ply", f"03001627/{HASH}.ply"),
            f"two files of the object '03001627-{HASH}'",
        ),
        ("unigs_objaverse", ("a.txt", "b.txt"), "no .pkl or .npy or .ply file .found: 2 x .txt"),
        ("unigs_objaverse", ("a.npy", "objects/a.pkl"), "two files of the object 'a'"),
        ("unigs_objaverse", ("a/a.npy", "b/a.npy"), "two files of the object 'a'"),
    ],
)
def test_other_layouts_are_refused(tmp_path, name, files, message):
    with pytest.raises(ValueError, match="data.source: .*" + message):
        collections.list_items(name, _touch(tmp_path, *files))


@pytest.mark.parametrize("name", collections.NAMES)
def test_an_absent_folder_says_where_the_collection_is(tmp_path, monkeypatch, name):
    known = collections.COLLECTIONS[name]
    with pytest.raises(
        ValueError, match="data.source: .*nowhere.*https://huggingface.co/"
    ) as error:
        collections.list_items(name, tmp_path / "nowhere")
    assert known.licence in str(error.value) and known.layout in str(error.value)
    monkeypatch.delenv("GSJAX_DATA", raising=False)
    with pytest.raises(ValueError, match="data.source: '' is no folder"):
        prepare.plan(dict(CONFIG, name=name))
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path}/{name}' is no folder"):
        prepare.plan(dict(CONFIG, name=name))


def test_names_are_those_of_the_data_sets():
    names = collections_names.MODELNET40
    assert len(names) == 40 and list(names) == sorted(names)
    assert (
        len(collections_names.SHAPENET55) == len(set(collections_names.SHAPENET55.values())) == 55
    )


@pytest.mark.parametrize("form", ["{0}-{1}.ply", "{0}/{1}.ply", "{0}_1/{1}/point_cloud.ply"])
def test_shapenet_objects_are_known_by_offset(tmp_path, form):
    _touch(tmp_path, form.format("03001627", HASH), form.format("02747177", "1a2b"))
    items = collections.list_items("shape_splats", tmp_path)
    assert [(o.uid, o.category, o.split) for o in items] == [
        ("02747177-1a2b", "trash bin", ""),
        (f"03001627-{HASH}", "chair", ""),
    ]
    assert items[0].captions == ("a 3D model of a trash bin",)


def test_shapenet_lists_give_the_split_and_without_them_hashes_do(tmp_path, caplog):
    names = [f"03001627-{i:032x}.ply" for i in range(20)]
    _touch(tmp_path, *names)
    sides = folder.assign_splits(collections.list_items("shape_splats", tmp_path))
    assert {side: len(chosen) for side, chosen in sides.items()} == {"train": 18, "test": 2}
    (tmp_path / "test.txt").write_text("\n".join(names[:3]))
    (tmp_path / "train.txt").write_text("\n".join((*names[3:19], "03001627-not_there.ply")) + "\n")
    with caplog.at_level(logging.WARNING, logger="absl"):
        items = collections.list_items("shape_splats", tmp_path)
    assert [o.split for o in items] == ["test"] * 3 + ["train"] * 16
    assert "1 objects are in no list" in caplog.text
    (tmp_path / "test.txt").write_text("")
    (tmp_path / "train.txt").write_text("02691156-ff.ply\n")
    with pytest.raises(ValueError, match="none of the 20 objects"):
        collections.list_items("shape_splats", tmp_path)


def test_unigs_records_bring_label_and_captions(tmp_path):
    _pickle(tmp_path, "0a")
    _pickle(tmp_path, "0b", human_prompt=None, label="")
    _pickle(tmp_path, "0c", human_prompt=None, machine_prompt=None, label="owl")
    items = collections.list_items("unigs_objaverse", tmp_path)
    assert [(o.uid, o.category, o.captions) for o in items] == [
        ("0a", "arctic_(type_of_shoe)", ("human text of 0a", "machine text of 0a")),
        ("0b", folder.NO_CATEGORY, ("machine text of 0b",)),
        ("0c", "owl", ("a 3D model of an owl",)),
    ]
    _pickle(tmp_path, "0d", human_prompt=None, machine_prompt=None, label="")
    with pytest.raises(ValueError, match="0d.pkl: neither category nor caption.*captions_csv"):
        collections.list_items("unigs_objaverse", tmp_path)
    _pickle(tmp_path, "0d", **{"3dgs": np.zeros((4, 12), np.float32)})
    assert len(collections.list_items("unigs_objaverse", tmp_path)) == 4
    with pytest.raises(ValueError, match=r"0d.pkl: .*\(4, 12\).*\[N, 14\]"):
        formats.load_gaussians(tmp_path / "objects" / "0d.pkl")


def test_unigs_lists_give_the_split(tmp_path):
    for uid in ("0a", "0b", "0c"):
        _pickle(tmp_path, uid)
    lists = {"train": ["/far/away/objects/0b.pkl"], "val": ["0c.pkl"], "test": ["x/0a.pkl"]}
    (tmp_path / "file_paths.json").write_text(json.dumps({"original": lists, "all": []}))
    items = collections.list_items("unigs_objaverse", tmp_path)
    assert [o.split for o in items] == ["test", "train", "train"]
    lists = {"train": ["0a.pkl", "0b.pkl"], "test": ["0c.pkl"], "all": []}
    (tmp_path / "sample_all.json").write_text(json.dumps(lists))  # goes first
    items = collections.list_items("unigs_objaverse", tmp_path)
    assert [o.split for o in items] == ["train", "train", "test"]
    (tmp_path / "sample_all.json").write_text(json.dumps({"all": ["0a.pkl"]}))
    with pytest.raises(ValueError, match="sample_all.json: found all; expected lists"):
        collections.list_items("unigs_objaverse", tmp_path)


@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_tables_of_objaverse_name_the_objects_of_arrays(tmp_path, ending):
    _touch(tmp_path, "10k/0a.npy", "10k/0b.npy", "10k/0c.ply")
    with pytest.raises(ValueError, match="neither category nor caption.*lvis-annotations"):
        collections.list_items("unigs_objaverse", tmp_path)
    annotations = {"arctic_(type_of_shoe)": ["0a", "ff"], "owl": ["0b"]}
    for content in (
        annotations,
        [{"uid": uid, "category": key} for key, uids in annotations.items() for uid in uids],
    ):
        data = json.dumps(content).encode()
        (tmp_path / f"lvis{ending}").write_bytes(gzip.compress(data) if "gz" in ending else data)
        items = collections.list_items("unigs_objaverse", tmp_path, f"lvis{ending}")
        assert [(o.uid, o.category, o.captions[0]) for o in items] == [
            ("0a", "arctic_(type_of_shoe)", "a 3D model of an arctic (type of shoe)"),
            ("0b", "owl", "a 3D model of an owl"),
        ]  # 0c is in no table


def test_a_table_of_captions_spares_opening_records(tmp_path):
    _touch(tmp_path, "objects/0a.pkl")
    _pickle(tmp_path, "0b")
    table = tmp_path / "texts.csv"
    table.write_text(
        "uid,caption,category,split\n"
        "0a,one shoe,shoe,test\n0a,two shoes,,\n0b,,boot,train\n0z,unknown,x,\n"
    )
    items = collections.list_items("unigs_objaverse", tmp_path, table)
    assert [(o.uid, o.category, o.captions, o.split) for o in items] == [
        ("0a", "shoe", ("one shoe", "two shoes"), "test"),
        ("0b", "boot", ("human text of 0b", "machine text of 0b"), "train"),
    ]


def test_a_table_gives_modelnet_captions_but_no_other_categories(tmp_path):
    _touch(tmp_path, *MODELNET)
    (tmp_path / "texts.csv").write_text("uid,caption,category\nairplane_0627,a jet,bird\n")
    items = collections.list_items("modelnet_splats", tmp_path, "texts.csv")
    assert len(items) == 5
    assert (items[2].captions, items[2].category) == (("a jet",), "airplane")
    assert items[0].captions == ("a 3D model of an airplane",)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("t.csv", "name,caption\na,b\n", "columns .*'file', 'uid'"),
        ("t.csv", "uid,caption\n", "holds no rows"),
        ("t.csv", "uid,split\na,val\n", "line or entry 2: uid 'a' and split 'val'"),
        ("t.csv", "uid,caption\nother,b\n", "captions_csv: none of the 1 uids .*airplane_0001"),
        ("t.json", "{", "t.json: not readable JSON"),
        ("t.json", '{"a": 3}', "found dict of a"),
        ("t.json", "[]", "holds no rows"),
        ("t.json", '[{"category": "x"}]', "entry 0: uid ''"),
        ("t.json.gz", "not zipped", "not readable JSON"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        collections.list_items("modelnet_splats", _touch(tmp_path, *MODELNET), tmp_path / name)
    with pytest.raises(ValueError, match="data.captions_csv: no file"):
        collections.list_items("modelnet_splats", tmp_path, "absent.csv")


def test_a_limit_keeps_the_same_objects_of_all_kinds():
    items = [folder.Item(f"{c}_{i}", None, ("a",), c, "") for c in "abcd" for i in range(50)]
    kept = collections.thin(items, 40)
    assert len(kept) == 40 and {o.category for o in kept} == set("abcd")
    assert kept == [o for o in items if o in kept]
    assert collections.thin(items, 0) == items
    fewer = {o.uid for o in collections.thin(items, 20)}
    assert fewer < {o.uid for o in kept}  # growing the limit drops none


def test_the_limit_and_the_sides_are_part_of_a_set(tmp_path):
    names = [f"03001627-{i:02x}.ply" for i in range(12)]
    base = dict(CONFIG, name="shape_splats", source=str(_touch(tmp_path, *names)))
    whole, some = prepare.plan(base), prepare.plan(dict(base, limit=3))
    assert (whole.splits, some.splits) == ({"train": 11, "test": 1}, {"train": 3, "test": 1})
    assert whole.identity != some.identity and whole.identity["up_axis"] == "z"
    held_out = next(
        o.uid
        for o in folder.assign_splits(collections.list_items("shape_splats", tmp_path))["test"]
    )
    others = [n for n in names if n[:-4] != held_out]
    (tmp_path / "test.txt").write_text(f"{held_out}.ply\n")
    (tmp_path / "train.txt").write_text("\n".join(others))
    assert prepare.plan(base).identity == whole.identity  # the same sides, by lists
    (tmp_path / "test.txt").write_text(others[0])
    (tmp_path / "train.txt").write_text("\n".join(n for n in names if n != others[0]))
    assert prepare.plan(base).identity != whole.identity


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="modelnet_splats.*shape_splats.*unigs_objaverse"):
        collections.list_items("objaverse", "")
    with pytest.raises(ValueError, match="data.name: .*unigs_objaverse"):
        prepare.settings(dict(name="objaverse"))


def test_the_folder_set_keeps_its_identity(tmp_path):
    """'' is y for files of one's own; sets prepared before the choice existed are found again."""
    _save(tmp_path, "a.ply", "b.ply")
    (tmp_path / "captions.csv").write_text("file,caption\na.ply,one\nb.ply,two\n")
    base = dict(CONFIG, name="folder", source=str(tmp_path))
    plans = [prepare.plan(dict(base, **o)) for o in ({}, dict(up_axis=""), dict(up_axis="y"))]
    assert plans[0].identity == plans[1].identity == plans[2].identity
    assert plans[0].identity["up_axis"] == "y" and plans[0].identity["version"] == folder.VERSION


def test_records_of_unigs_become_a_set(tmp_path):
    source = tmp_path / "unigs"
    for uid in ("0a", "0b"):
        _pickle(source, uid)
    np.save(source / "0c.npy", gaussian_array.to_table(_cloud(7)))
    _touch(source, "test.txt")
    table = {"boot": ["0a", "0b"], "owl": ["0c"]}
    (source / "lvis.json").write_text(json.dumps(table))
    made = prepare.ensure(
        dict(
            CONFIG,
            name="unigs_objaverse",
            source=str(source),
            captions_csv="lvis.json",
            dir=str(tmp_path / "sets"),
        )
    )
    assert store.category_names(made) == ["boot", "owl"]
    found = {}
    for split in store.split_sizes(made):
        records = store.open_split(made, split, fields=store.ALL_FIELDS)
        found |= {records[i]["uid"]: records[i] for i in range(len(records))}
    assert set(found) == {"0a", "0b", "0c"} and found["0c"]["name"] == "owl"
    assert found["0a"]["captions"] == ["human text of 0a", "machine text of 0a"]
    expected = _cloud(7)["means"][:, [0, 2, 1]] * (1, 1, -1)  # z up, as UniGS's points are
    np.testing.assert_allclose(
        sorted(map(tuple, found["0c"]["means"])), sorted(map(tuple, expected)), atol=1e-4
    )


def test_modelnet_reaches_the_quick_config(tmp_path):
    """Files to records, views, embeddings and training batches by the names of a real run."""
    from configs import clip_gs
    from gsjax.systems.clip_gs import data

    config = clip_gs.get_config("quick,data=modelnet_splats")
    assert config.data.name == "modelnet_splats"
    config.data.source = str(_save(tmp_path / "modelnet", *MODELNET))
    config.data.dir = str(tmp_path / "sets")
    config.data.towers = str(next(iter(assets.__path__))) + "/toy_clip_procedural.npz"
    config.data.update(CONFIG)
    config.data.views_per_step = 2
    config.model.num_group = 8
    source = data.load(config)
    assert source.class_names == ("airplane", "flower pot")
    assert {split: len(source.uids(split)) for split in ("train", "test")} == dict(train=3, test=2)
    assert source.num_views == 3 and source.class_embeds["modelnet40_64"].shape == (2, source.dim)
    batch = [source.train()[i] for i in range(3)]
    assert {int(e["category"]) for e in batch} == {0, 1}
    for example in batch:
        assert example["means"].shape == (46, 3)
        norms = np.linalg.norm(example["image_embed"].astype(np.float32), axis=-1)
        np.testing.assert_allclose(norms, 1.0, atol=2e-3)
    held_out = source.evaluate("test")
    texts = [held_out[i]["text_embed"].astype(np.float32) for i in range(2)]
    assert np.abs(texts[0] - texts[1]).max() > 1e-3  # the captions differ by category


def test_the_paper_setting_takes_a_collection():
    from configs import clip_gs

    assert clip_gs.get_config("paper").data.name == "folder"
    config = clip_gs.get_config("paper,data=unigs_objaverse")
    assert (config.data.name, config.data.views, config.data.up_axis) == ("unigs_objaverse", 36, "")


def test_labels_of_several_rows_are_merged(tmp_path):
    (tmp_path / "t.csv").write_text("file,caption,category\nx/0a.pkl,one,boot\n0a.pkl,one,\n")
    found = collections_labels.read(tmp_path / "t.csv")
    assert list(found) == ["0a"] and found["0a"].captions == ("one",)
    assert found["0a"].category == "boot"
