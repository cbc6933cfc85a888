"""Chunk files: read as they were written, hostile ones refused, cameras checked."""

import json

import numpy as np
import pytest

from gsjax.io import scene_chunks
from tests.io import chunk_files as c
from tests.io import programs as p

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 255, (12, 20, 3), dtype=np.uint8) for _ in range(3)]
JPEGS = [c.jpeg(picture) for picture in PICTURES]


def _turn(angle):
    s, co = np.sin(angle), np.cos(angle)
    return np.array([[co, 0, s], [0, 1, 0], [-s, 0, co]])


def _rows(n=3):
    return np.stack([c.row(pose=np.c_[_turn(0.1 * i), [0.2 * i, -1, 3.0]]) for i in range(n)])


def _chunk(path, key="abc", rows=None, images=JPEGS, **more):
    storages = c.Storages()
    rows = _rows(len(images)) if rows is None else rows
    scenes = [c.scene(storages, key, rows, images, **more), c.scene(storages, "two", rows, images)]
    return c.write(path / "000000.torch", storages, *scenes)


def test_scenes_come_back_as_they_were_written(tmp_path):
    found = scene_chunks.read(_chunk(tmp_path))
    assert [scene.key for scene in found] == ["abc", "two"]
    scene = found[0]
    assert scene.url == "https://example.org/video"
    np.testing.assert_array_equal(scene.cameras, _rows())
    np.testing.assert_array_equal(scene.timestamps, [0, 33_000, 66_000])
    assert [bytes(image) for image in scene.images] == JPEGS
    assert scene_chunks.picture_size(scene.images[0], "x") == (12, 20)
    decoded = scene_chunks.decode_picture(scene.images[0], "x")
    assert decoded.shape == (12, 20, 3)


def test_cameras_are_normalised_world_to_camera():
    Ks, viewmats = scene_chunks.parse_cameras(_rows(), "abc")
    np.testing.assert_allclose(Ks[0], [[0.9, 0, 0.5], [0, 1.6, 0.5], [0, 0, 1]], rtol=1e-6)
    # The camera's place c satisfies R c + t = 0; a point at c + R^T (0, 0, 2) is 2 ahead of it.
    rotation, shift = _turn(0.2), np.array([0.4, -1, 3])
    ahead = -rotation.T @ shift + rotation.T @ [0, 0, 2]
    np.testing.assert_allclose(viewmats[2] @ [*ahead, 1], [0, 0, 2, 1], atol=1e-6)
    np.testing.assert_allclose(scene_chunks.pack_cameras(Ks, viewmats), _rows(), atol=1e-6)
    exact = viewmats[:, :3, :3] @ np.swapaxes(viewmats[:, :3, :3], 1, 2)
    np.testing.assert_allclose(exact, np.tile(np.eye(3), (3, 1, 1)), atol=1e-14)


@pytest.mark.parametrize(
    "place, value, message",
    [
        (0, 480.0, "focal lengths outside 0.2 to 3.0; they must be shares"),
        (1, 0.1, "focal lengths"),
        (2, 240.0, "principal point outside"),
        (4, 0.1, "another layout"),
        (6, 1.2, r"not rigid.*frame 1 \(found 1\.2"),
        (6, -1.0, "not rigid"),  # a mirror
        (9, np.nan, "NaN or infinite"),
        (9, 1.1e3, "a translation beyond 1000"),
        (9, -1.1e3, "a translation beyond 1000"),  # released code tests the positive side alone
    ],
)
def test_unusable_cameras_are_named(place, value, message):
    rows = np.stack([c.row(), c.row(), c.row()])
    rows[1, place] = value
    with pytest.raises(scene_chunks.SceneChunkError, match=rf"abc: 1 of 3 cameras.*{message}"):
        scene_chunks.parse_cameras(rows, "abc")


def test_a_shear_of_determinant_one_is_not_rigid():
    pose = np.c_[[[1, 0.01, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0]]
    with pytest.raises(scene_chunks.SceneChunkError, match="not rigid"):
        scene_chunks.parse_cameras(c.row(pose=pose)[None], "abc")
    small = np.c_[[[1, 0.001, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0]]
    scene_chunks.parse_cameras(c.row(pose=small)[None], "abc")  # as text files round


def test_angles_of_view():
    Ks, _ = scene_chunks.parse_cameras(c.row(fx=0.5, fy=0.5 / np.tan(0.5), cx=0.5)[None], "abc")
    np.testing.assert_allclose(scene_chunks.fields_of_view(Ks), [[90, np.rad2deg(1.0)]], rtol=1e-6)


def test_whole_scenes_are_checked(tmp_path):
    scene = scene_chunks.read(_chunk(tmp_path))[0]
    found = scene_chunks.check_scene(scene, decode=True)
    assert found["Ks"].shape == (3, 3, 3) and found["size"].tolist() == [12, 20]
    with pytest.raises(scene_chunks.SceneChunkError, match=r"expected 360 x 640.*found \(12, 20\)"):
        scene_chunks.check_scene(scene, size=(360, 640))
    with pytest.raises(scene_chunks.SceneChunkError, match="angle of view above 50 degrees"):
        scene_chunks.check_scene(scene, widest=50)
    other = [JPEGS[0], c.jpeg(PICTURES[0][:8]), JPEGS[2]]
    scene = scene_chunks.read(_chunk(tmp_path, images=other))[0]
    with pytest.raises(scene_chunks.SceneChunkError, match="image 1: expected 12 x 20"):
        scene_chunks.check_scene(scene)
    scene = scene_chunks.read(_chunk(tmp_path, images=[JPEGS[0], b"no picture", JPEGS[2]]))[0]
    with pytest.raises(scene_chunks.SceneChunkError, match="image 1: 10 bytes that are no picture"):
        scene_chunks.check_scene(scene)
    cut = JPEGS[1][:-30]
    scene = scene_chunks.read(_chunk(tmp_path, images=[JPEGS[0], cut, JPEGS[2]]))[0]
    scene_chunks.check_scene(scene)  # headers alone say nothing
    with pytest.raises(scene_chunks.SceneChunkError, match="image 1: a damaged picture"):
        scene_chunks.check_scene(scene, decode=True)


@pytest.mark.parametrize(
    "code, name",
    [
        (b"cposix\nsystem\n" + p.several(p.text("touch pwned")) + p.REDUCE, "posix.system"),
        (p.name("builtins", "eval") + p.several(p.text("1")) + p.REDUCE, "builtins.eval"),
        (p.name("numpy.core.multiarray", "_reconstruct"), "numpy.core.multiarray._reconstruct"),
    ],
)
def test_programs_that_ask_for_more_are_refused(tmp_path, monkeypatch, code, name):
    monkeypatch.chdir(tmp_path)
    path = _chunk(tmp_path, extra=code)
    with pytest.raises(
        scene_chunks.SceneChunkError, match=rf"{name}.*refused, nothing of it was run"
    ):
        scene_chunks.read(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000000.torch"]


def test_other_files_are_refused_by_what_they_are(tmp_path):
    path = tmp_path / "000000.torch"
    with pytest.raises(scene_chunks.SceneChunkError, match="there is no such chunk"):
        scene_chunks.read(path)
    path.write_bytes(c.legacy_head())
    with pytest.raises(scene_chunks.SceneChunkError, match="legacy stream format.*save it again"):
        scene_chunks.read(path)
    p.write(path, p.program(p.mapping(w=p.tensor())), {"0": bytes(16)})
    with pytest.raises(
        scene_chunks.SceneChunkError, match="expected a list of scenes, found a dict"
    ):
        scene_chunks.read(path)
    path.write_bytes(_chunk(tmp_path).read_bytes()[:-200])
    with pytest.raises(scene_chunks.SceneChunkError, match="damaged"):
        scene_chunks.read(path)


def test_scenes_of_another_layout_are_refused(tmp_path):
    def refused(message, **changes):
        storages = c.Storages()
        parts = dict(
            key=p.text("abc"), cameras=storages.tensor(_rows(1)),
            images=p.EMPTY_LIST + storages.tensor(np.zeros(4, np.uint8)) + p.APPEND,
        )  # fmt: skip
        parts = {k: v for k, v in {**parts, **changes}.items() if v is not None}
        c.write(tmp_path / "x.torch", storages, p.mapping(**parts))
        with pytest.raises(scene_chunks.SceneChunkError, match=f"scene 0.*{message}"):
            scene_chunks.read(tmp_path / "x.torch")

    refused("cameras missing", cameras=None)
    refused("key: expected a name", key=p.number(3))
    refused("images: expected 1 pictures", images=p.EMPTY_LIST)
    refused(r"cameras: expected shape \[n, 18\]", cameras=p.text("no"))
    refused("image 0: expected a uint8 tensor", images=p.EMPTY_LIST + p.text("a") + p.APPEND)
    refused("timestamps", timestamps=p.text("now"))


def test_index_names_chunks_of_its_folder(tmp_path):
    _chunk(tmp_path)
    index = tmp_path / "index.json"
    with pytest.raises(
        scene_chunks.SceneChunkError, match="there is no such file; name the folder"
    ):
        scene_chunks.read_index(tmp_path)
    index.write_text(json.dumps({"abc": "000000.torch", "two": "000000.torch"}))
    found = scene_chunks.read_index(tmp_path)
    assert list(found) == ["abc", "two"] and found["two"] == tmp_path / "000000.torch"
    for name, message in (
        ("000001.torch", "1 of 2 chunks are missing, the first is 000001.torch"),
        ("../000000.torch", "no file name of this folder"),
        ("/etc/passwd", "no file name of this folder"),
    ):
        index.write_text(json.dumps({"abc": "000000.torch", "two": name}))
        with pytest.raises(scene_chunks.SceneChunkError, match=message):
            scene_chunks.read_index(tmp_path)
    for text in ("{", "[1]", '{"a": 3}'):
        index.write_text(text)
        with pytest.raises(scene_chunks.SceneChunkError, match="index.json"):
            scene_chunks.read_index(tmp_path)
