"""Scenes as records: chunks converted byte by byte, rooms stored with exact depth, sets by name."""

import json
import pickle

import ml_collections
import numpy as np
import pytest

from gsjax.data import (
    posed_examples,
    posed_sets,
    record_shards,
    scene_records,
    view_draws,
    view_fit,
    view_index,
)
from gsjax.data.rooms import layout
from gsjax.io import scene_chunks
from tests.data import scene_cases
from tests.io import chunk_files as c

RNG = np.random.default_rng(0)
JPEGS = [c.jpeg(RNG.integers(0, 255, (18, 32, 3), dtype=np.uint8)) for _ in range(6)]


def _rows(count, start=0.0):
    eye = np.eye(4)[:3]
    shift = [np.r_[start + 0.1 * i, 0, 0] for i in range(count)]
    return np.stack([c.row(pose=np.c_[eye[:, :3], s]) for s in shift])


def _chunks(folder, **bad_rows):
    """Two chunks of scenes a (6 frames), b (5) and d (6); ``bad_rows`` replaces cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {"d": "1.torch", "a": "0.torch", "b": "0.torch"}
    (folder / "index.json").write_text(json.dumps(index))
    counts = {"a": 6, "b": 5, "d": 6, "unlisted": 6}
    for name in ("0.torch", "1.torch"):
        storages = c.Storages()
        inside = [k for k in counts if index.get(k, "1.torch") == name]
        scenes = [
            c.scene(storages, k, bad_rows.get(k, _rows(counts[k], counts[k])), JPEGS[: counts[k]])
            for k in inside
        ]
        c.write(folder / name, storages, *scenes)
    return folder


def test_converted_chunks_give_pictures_and_cameras(tmp_path):
    out = tmp_path / "records"
    count = scene_records.convert_chunks(_chunks(tmp_path / "train"), out)
    assert count == dict(kept=3, excluded=0, dropped=0)
    found = scene_records.SceneRecords(out)
    assert found.names == ["d", "a", "b"] and found.lengths == [6, 6, 5]  # the index's order
    assert found.place_of("b") == 2 and found.place_of("unlisted") is None
    scene = pickle.loads(pickle.dumps(found))[2]
    assert scene.name == "b" and scene.num_frames == 5 and scene.neighbours(0) is None
    np.testing.assert_array_equal(scene.times, np.arange(5) * 33_000)
    np.testing.assert_allclose(scene.viewmats[:, 0, 3], 5 + 0.1 * np.arange(5), rtol=1e-6)
    view = scene.view(3)
    np.testing.assert_array_equal(view.image, scene_chunks.decode_picture(JPEGS[3], "x"))
    np.testing.assert_allclose(view.K[:2], [[0.9 * 32, 0, 16], [0, 1.6 * 18, 9]], rtol=1e-6)
    assert (view.depth == 0).all()
    with pytest.raises(FileExistsError, match="finished set"):
        scene_records.convert_chunks(tmp_path / "train", out)


def test_scenes_are_excluded_and_dropped_and_counted(tmp_path):
    rows = _rows(5)
    rows[2, 6] = 3.0
    source = _chunks(tmp_path / "train", b=rows)
    with pytest.raises(scene_chunks.SceneChunkError, match="b: 1 of 5 .*not rigid.*on_bad='drop'"):
        scene_records.convert_chunks(source, tmp_path / "one")
    out = tmp_path / "two"
    count = scene_records.convert_chunks(source, out, exclude=("a",), on_bad="drop")
    assert count == dict(kept=1, excluded=1, dropped=1)
    assert scene_records.SceneRecords(out).names == ["d"]
    with pytest.raises(ValueError, match="on_bad: expected 'error' or 'drop'"):
        scene_records.convert_chunks(source, tmp_path / "three", on_bad="skip")


def test_scenes_that_their_chunk_lacks_are_named(tmp_path):
    source = _chunks(tmp_path / "train")
    index = json.loads((source / "index.json").read_text())
    (source / "index.json").write_text(json.dumps({**index, "z": "0.torch"}))
    with pytest.raises(ValueError, match=r"0\.torch: 1 scenes.*the first is 'z'"):
        scene_records.convert_chunks(source, tmp_path / "out")


def test_the_converter_runs_from_the_command_line(tmp_path, capsys):
    source, out = _chunks(tmp_path / "train"), tmp_path / "out"
    (tmp_path / "benchmark.txt").write_text("a\n")
    scene_records.main(
        [str(source), str(out), "--height=18", "--width=32", "--decode",
         f"--exclude={tmp_path / 'benchmark.txt'}"]
    )  # fmt: skip
    assert "2 kept, 1 excluded, 0 dropped" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"expected 20 x 32.*found \(18, 32\)"):
        scene_records.main([str(source), str(tmp_path / "x"), "--height=20", "--width=32"])


def test_evaluation_indices_find_scenes_of_records(tmp_path):
    scene_records.convert_chunks(_chunks(tmp_path / "test"), tmp_path / "out")
    found = scene_records.SceneRecords(tmp_path / "out")
    path = tmp_path / "index.json"
    entries = {"b": {"context": [0, 4], "target": [2]}, "a": {"context": [1, 3], "target": [2]}}
    path.write_text(json.dumps({**entries, "d": None}))
    samples = posed_examples.indexed_samples(found, view_index.read(path))
    assert [place for place, _ in samples] == [2, 1]
    made = posed_examples.eval_examples(found, posed_examples.PosedSpec(16, 16, 1, 10), samples)[0]
    np.testing.assert_allclose(made["context_Ks"][0][0, 0], 0.9 * 28 / 16, rtol=1e-6)
    np.testing.assert_allclose(made["context_c2ws"][:, 0, 3], [-5, -5.4], rtol=1e-6)


def test_stored_scenes_come_back_exactly_and_parts_share_the_work(tmp_path):
    walls = [
        scene_cases.WallScene(f"wall {i}", num_frames=4, near=lambda f: [f, 0]) for i in range(5)
    ]
    for part in ((1, 2), (0, 2)):  # the last to end seals
        with pytest.raises(ValueError, match="no finished set"):
            scene_records.SceneRecords(tmp_path)
        scene_records.store(walls, tmp_path, {"walls": 5}, part=part)
    found = scene_records.SceneRecords(tmp_path)
    assert [found[i].name for i in range(5)] == [wall.name for wall in walls]
    for frame in (0, 3):
        one, two = walls[3].view(frame), found[3].view(frame)
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.depth, two.depth)
        np.testing.assert_array_equal(one.viewmat, two.viewmat)
        np.testing.assert_allclose(one.K, two.K, rtol=1e-15)
    assert found[3].neighbours(2).tolist() == [2, 0]


def test_interrupted_stores_go_on_and_other_sets_are_refused(tmp_path):
    class Failing(list):
        def __getitem__(self, place):
            if place == 66:
                raise RuntimeError("stop")
            return super().__getitem__(place)

    walls = [scene_cases.WallScene(f"w{i}", num_frames=1, width=4, height=3) for i in range(67)]
    with pytest.raises(RuntimeError, match="stop"):
        scene_records.store(Failing(walls), tmp_path, {"walls": 1}, quiet=True)
    asked = []

    class Counting(list):
        def __getitem__(self, place):
            asked.append(place)
            return super().__getitem__(place)

    with pytest.raises(ValueError, match="another set.*walls is 1, not 2"):
        scene_records.store(walls, tmp_path, {"walls": 2})
    scene_records.store(Counting(walls), tmp_path, {"walls": 1}, quiet=True)
    assert asked == [64, 65, 66]  # a whole shard of 64 was kept
    assert len(scene_records.SceneRecords(tmp_path)) == 67
    next(tmp_path.glob("*-00001-*.array_record")).unlink()
    with pytest.raises(ValueError, match="1 shards are missing"):
        scene_records.SceneRecords(tmp_path)


def test_two_processes_may_make_one_set(tmp_path):
    walls = [scene_cases.WallScene(f"w{i}", num_frames=1, width=4, height=3) for i in range(5)]
    identity = {"kind": scene_records.KIND, "count": 5}
    with record_shards.Writer(tmp_path, identity, shard_records=2) as one:
        for i in range(3):  # one shard is whole, another begun
            one.add(f"{i:06d}", scene_records._stored(walls[i])[0], frames=1, order=i)
        scene_records.store(walls, tmp_path, {"count": 5}, quiet=True)
        for i in range(3, 5):
            one.add(f"{i:06d}", scene_records._stored(walls[i])[0], frames=1, order=i)
    found = scene_records.SceneRecords(tmp_path)
    assert [found[i].name for i in range(5)] == [f"w{i}" for i in range(5)]
    assert not list(tmp_path.glob("*.part"))


def test_depth_that_is_not_a_number_is_not_stored(tmp_path):
    class Broken(scene_cases.WallScene):
        def view(self, frame):
            view = super().view(frame)
            view.depth[1, 1] = np.nan
            return view

    with pytest.raises(ValueError, match="wall: frame 0: depth is nan at row 1, column 1"):
        scene_records.store([Broken()], tmp_path, {})


def test_records_of_another_kind_are_refused(tmp_path):
    with record_shards.Writer(tmp_path, {"kind": "other"}) as writer:
        writer.add("a", b"b")
    record_shards.seal(tmp_path, {"kind": "other"})
    with pytest.raises(ValueError, match="kind 'other' found; 1 and 'posed scenes' expected"):
        scene_records.SceneRecords(tmp_path)


def _config(tmp_path, **changes):
    fields = dict(
        name="rooms", dir=str(tmp_path), source="", seed=0, height=16, width=16, num_objects=2,
        num_test=1, num_frames=4, supersample=1,
    )  # fmt: skip
    return ml_collections.ConfigDict({**fields, **changes})


def test_rooms_are_made_once_with_families_held_out(tmp_path):
    config = _config(tmp_path)
    found = {split: posed_sets.open_split(config, split) for split in posed_sets.SPLITS}
    assert [len(found[split]) for split in posed_sets.SPLITS] == [2, 1, 1]
    names = [found[split][0].name for split in posed_sets.SPLITS]
    assert len(set(names)) == 3
    sources = {
        split: posed_sets.rooms_source.RoomScene(
            0, seed=0, split=split,
            recipe=posed_sets.dataclasses.replace(
                posed_sets.recipe(height=16, width=16, num_frames=4, supersample=1),
                families=posed_sets._FAMILIES[split],
            ),
        )
        for split in posed_sets.SPLITS
    }  # fmt: skip
    for split, scene in found.items():
        one, two = scene[0].view(2), sources[split].view(2)
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.depth, two.depth)
    held = set(sources["test"].caster.room.names)
    assert not held & set(layout.SEEN) and held & set(layout.UNSEEN)
    before = sorted(tmp_path.rglob("*.array_record"))
    stamps = [path.stat().st_mtime_ns for path in before]
    posed_sets.open_split(config, "train")
    assert [path.stat().st_mtime_ns for path in before] == stamps and len(before) == 3


def test_sets_by_name(tmp_path, gsjax_data):
    with pytest.raises(ValueError, match="data.name: unknown set 'x'; known: rooms"):
        posed_sets.open_split(_config(tmp_path, name="x"), "train")
    with pytest.raises(ValueError, match="split: unknown 'val'"):
        posed_sets.open_split(_config(tmp_path), "val")
    with pytest.raises(ValueError, match="data.source: the set records"):
        posed_sets.open_split(_config(tmp_path, name="records"), "train")
    scene_records.convert_chunks(_chunks(tmp_path / "chunks"), tmp_path / "set" / "train")
    records = _config(tmp_path, name="records", source=str(tmp_path / "set"))
    assert len(posed_sets.open_split(records, "train")) == 3
    source = str(gsjax_data / "scenes" / "hololens_room")
    room = _config(tmp_path, name="hololens_room", source=source)
    for split in ("train", "test"):
        (scene,) = posed_sets.open_split(room, split)
        view = view_fit.fit(scene.view(0), 64, 64)
        assert view.image.shape == (64, 64, 3) and (view.depth > 0).any()
        sample = view_draws.paired(scene, 0, np.random.default_rng(0))
        assert sample.context[1] in scene.neighbours(int(sample.context[0]))
    with pytest.raises(ValueError, match="split: unknown 'test_seen'"):
        posed_sets.open_split(room, "test_seen")


def test_rooms_from_the_command_line(tmp_path, capsys):
    options = ["--count=1", "--size=8", "--num_frames=2", "--supersample=1", f"--dir={tmp_path}"]
    posed_sets.main([*options, "--part=0/2"])
    posed_sets.main([*options, "--part=1/2"])
    assert capsys.readouterr().out.endswith("1 rooms of split train\n")
