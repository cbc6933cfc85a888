"""The ScanNet reader on a small tree in both layouts: intrinsics, lost tracking, missing files."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from gsjax.data import clouds, scannet, scenes
from tests.data.scene_cases import WallScene

# ScanNet's own numbers: pixel centres at whole numbers.
COLOR_K = np.array([[1170.0, 0, 640.0], [0, 1165.0, 470.0], [0, 0, 1]])
DEPTH_K = np.array([[577.9, 0, 310.5], [0, 578.5, 244.5], [0, 0, 1]])
SIZES = {"color": (81, 60), "depth": (64, 48)}


def _write(path, matrix):
    full = np.eye(4)
    full[: len(matrix), : len(matrix)] = matrix
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, full)


def _folder(root, kind, name, layout):
    folder = root / kind / name if layout == "kinds" else root / name / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tree(tmp_path, layout="kinds", names=("scene0000_00",), frames=6, lost=(2,)):
    wall = WallScene(num_frames=frames)
    points, raw = tmp_path / "points", tmp_path / "raw"
    for name in names:
        for number in range(frames):
            for kind, K in (("color", COLOR_K), ("depth", DEPTH_K)):
                full = (1296, 968) if kind == "color" else (640, 480)
                ratio = np.array([SIZES[kind][0] / full[0], SIZES[kind][1] / full[1], 1])
                centred = K.copy()
                centred[:2, 2] += 0.5
                centred = centred * ratio[:, None]
                flat = np.full(SIZES[kind][::-1], 4.0)
                seen = clouds.back_project(flat, wall.viewmats[number], centred)
                folder = _folder(raw, kind, name, layout)
                if kind == "color":
                    Image.fromarray(wall.paint(seen)).save(folder / f"{number * 20}.png")
                else:
                    # Not planar depth, but a known function of the ray: 3 + x / 10 of the wall point.
                    depth = np.rint(1000 * (3 + seen[..., 0] / 10)).astype(np.uint16)
                    Image.fromarray(depth).save(folder / f"{number * 20}.png")
            pose = np.linalg.inv(wall.viewmats[number])
            if number in lost:
                pose = np.full((4, 4), -np.inf)
            np.savetxt(_folder(raw, "pose", name, layout) / f"{number * 20}.txt", pose)
        for kind, K in (("color", COLOR_K), ("depth", DEPTH_K)):
            _write(_folder(raw, "intrinsic", name, layout) / f"intrinsic_{kind}.txt", K)
        cloud = wall.cloud()
        folder = points / "train" / name
        folder.mkdir(parents=True)
        np.save(folder / "coord.npy", cloud.xyz)
        np.save(folder / "color.npy", cloud.rgb)
        np.save(folder / "normal.npy", cloud.normal)
        np.save(folder / "segment20.npy", cloud.label.astype(np.int64)[:, None])
    return wall, points, raw


@pytest.mark.parametrize("layout", ["kinds", "scenes"])
def test_frames_are_read_with_their_own_intrinsics(tmp_path, layout):
    wall, points, raw = _tree(tmp_path, layout)
    scene = scannet.ScanNet(points, raw)[0]
    assert (scene.name, scene.num_frames, scene.neighbours(0)) == ("scene0000_00", 5, None)
    kept = [0, 1, 3, 4, 5]  # frame 2 lost tracking; 100 comes after 20, not after 10
    np.testing.assert_allclose(scene.viewmats, wall.viewmats[kept], atol=1e-9)
    view = scene.view(2)
    assert view.image.shape == (60, 81, 3) and view.label is None
    ratio = np.array([[81 / 1296], [60 / 968], [1]])
    expected = (COLOR_K + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]) * ratio
    np.testing.assert_allclose(view.K, expected)
    # Colour: the wall at depth 4 through these intrinsics.
    seen = clouds.back_project(np.full((60, 81), 4.0), view.viewmat, view.K)
    assert np.abs(view.image.astype(int) - wall.paint(seen)).max() <= 1
    # Depth was drawn by the depth camera; along this pixel's ray it is the same function of the ray.
    known = view.depth > 0
    assert known.mean() > 0.9
    step = 4.0 / (577.9 * 64 / 640)  # metres of wall a depth pixel covers
    error = np.abs(view.depth - (3 + seen[..., 0] / 10))[known]
    assert error.max() <= 0.1 * step / 2 + 1e-3 + 1e-6


def test_depth_of_another_camera_is_looked_up_along_the_rays():
    depth = np.arange(12.0).reshape(3, 4) + 1
    K = np.array([[2.0, 0, 2], [0, 2, 1.5], [0, 0, 1]])
    np.testing.assert_array_equal(scannet.depth_along(depth, K, K, (3, 4)), depth)
    double = K * np.array([[2], [2], [1]])
    large = scannet.depth_along(depth, K, double, (6, 8))
    np.testing.assert_array_equal(large, np.kron(depth, np.ones((2, 2))))
    wide = K.copy()
    wide[:2, 2] += 1  # one column and row more on the low side: nothing is known there
    shifted = scannet.depth_along(depth, K, wide, (4, 5))
    assert not shifted[0].any() and not shifted[:, 0].any()
    np.testing.assert_array_equal(shifted[1:, 1:], depth)


def test_clouds_and_strides(tmp_path):
    wall, points, raw = _tree(tmp_path)
    scene = scannet.ScanNet(points, raw, stride=2)[0]
    np.testing.assert_allclose(scene.viewmats, wall.viewmats[[0, 4]], atol=1e-9)
    cloud = scene.cloud()
    np.testing.assert_array_equal(cloud.xyz, wall.cloud().xyz)
    np.testing.assert_array_equal(cloud.label, wall.cloud().label)
    np.testing.assert_array_equal(cloud.rgb, wall.cloud().rgb)
    # No such labels stored: unknown, not an error (the test split has none).
    other = scannet.ScanNet(points, raw, labels="segment200")[0].cloud()
    assert (other.label == clouds.NO_LABEL).all()


def test_examples_come_from_the_reader(tmp_path):
    wall, points, raw = _tree(tmp_path, frames=9)
    spec = scenes.SceneSpec(num_points=200, height=24, width=32, runs=2, distance=3)
    example = scenes.scene_examples(scannet.ScanNet(points, raw), spec, seed=0, train=False)[0]
    pixels, depth = clouds.project(
        example["xyz"].astype(float), example["viewmats"][0], example["Ks"][0]
    )
    inside = ((pixels >= 0) & (pixels < (32, 24))).all(-1)
    column, row = np.floor(pixels[inside]).astype(int).T
    error = np.abs(example["images"][0][row, column].astype(int) - example["rgb"][inside])
    assert inside.sum() > 20 and error.max() <= 6
    assert (example["semantic"] == -1).all()


def test_scenes_of_pth_files_are_read_without_running_them(tmp_path):
    wall, points, raw = _tree(tmp_path)
    folder = points / "train" / "scene0000_00"
    shutil.rmtree(folder)
    file = points / "train" / "scene0000_00.pth"
    file.write_bytes(b"not a checkpoint")
    scene = scannet.ScanNet(points, raw)[0]
    with pytest.raises(ValueError, match="save them again as .npy"):
        scene.cloud()


def test_what_is_missing_is_named(tmp_path):
    wall, points, raw = _tree(tmp_path, names=("scene0000_00", "scene0001_00"))
    with pytest.raises(FileNotFoundError, match="points_root.*coord.npy"):
        scannet.ScanNet(tmp_path / "nowhere", raw)
    with pytest.raises(FileNotFoundError, match="frames_root: .* is no folder"):
        scannet.ScanNet(points, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="names: not in .*'scene9'"):
        scannet.ScanNet(points, raw, names=["scene9"])
    with pytest.raises(ValueError, match="split: unknown 'valid'"):
        scannet.ScanNet(points, raw, "valid")
    with pytest.raises(ValueError, match="stride"):
        scannet.ScanNet(points, raw, stride=0)
    with pytest.raises(ValueError, match="segment20"):
        scannet.ScanNet(points, raw, labels="segment")
    (points / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no scenes"):
        scannet.ScanNet(points, raw, "val")
    shutil.rmtree(raw / "color" / "scene0001_00")
    assert len(scannet.ScanNet(points, raw)) == 1
    with pytest.raises(FileNotFoundError, match="no colour frames for 1 of 1"):
        scannet.ScanNet(points, raw, names=["scene0001_00"])
    scene = scannet.ScanNet(points, raw)[0]
    (raw / "intrinsic" / "scene0000_00" / "intrinsic_depth.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no intrinsics; looked for"):
        scene.view(0)
    (points / "train" / "scene0000_00" / "normal.npy").unlink()
    with pytest.raises(FileNotFoundError, match="no normal"):
        scene.cloud()
    shutil.rmtree(raw / "pose" / "scene0000_00")
    with pytest.raises(FileNotFoundError, match="no folder of pose frames"):
        _ = scannet.ScanNet(points, raw)[0].num_frames


def test_damaged_files_are_named(tmp_path):
    wall, points, raw = _tree(tmp_path, lost=range(6))
    with pytest.raises(ValueError, match="none of 6 frames has a finite pose"):
        _ = scannet.ScanNet(points, raw)[0].num_frames
    (raw / "pose" / "scene0000_00" / "0.txt").write_text("1 2 three")
    with pytest.raises(ValueError, match="0.txt: expected numbers"):
        _ = scannet.ScanNet(points, raw)[0].num_frames
    np.savetxt(raw / "pose" / "scene0000_00" / "0.txt", np.eye(4))
    scene = scannet.ScanNet(points, raw)[0]
    assert scene.num_frames == 1
    (raw / "depth" / "scene0000_00" / "0.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="0.png: not a readable picture"):
        scene.view(0)
    (points / "train" / "scene0000_00" / "coord.npy").write_bytes(json.dumps([1]).encode())
    with pytest.raises(ValueError, match="coord.npy: unreadable"):
        scene.cloud()


def test_a_frame_at_a_smaller_size_is_the_frame_made_smaller(tmp_path):
    _, points, raw = _tree(tmp_path)
    scene = scannet.ScanNet(points, raw)[0]
    for height, width in ((30, 40), (17, 23), (60, 81), (70, 90)):
        expected = scenes.resized(scene.view(1), height, width)
        found = scene.sized_view(1, height, width)
        for name in ("image", "depth", "viewmat", "K"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def test_blocks_of_a_jpeg_have_the_means_of_their_pixels(tmp_path, monkeypatch):
    _, points, raw = _tree(tmp_path, frames=1, lost=())
    monkeypatch.setitem(SIZES, "color", (648, 484))
    (raw / "color/scene0000_00/0.png").unlink()
    file = raw / "color/scene0000_00/0.jpg"
    y, x = np.mgrid[:484, :648] / 648
    waves = np.stack([np.sin(20 * x + 3 * y), np.cos(15 * y), np.sin(9 * (x - y))], -1)
    Image.fromarray(np.uint8(127 + 100 * waves)).save(file, quality=90)
    scene = scannet.ScanNet(points, raw)[0]
    expected = scenes.resized(scene.view(0), 60, 80)
    with Image.open(file) as picture:
        picture.draft("RGB", (80, 60))
        assert picture.size == (81, 61)  # of 1/8: the way is the quick one
    found = scene.sized_view(0, 60, 80)
    difference = np.abs(found.image.astype(int) - expected.image)
    assert difference.mean() < 1.5 and np.percentile(difference, 99) <= 6
    np.testing.assert_array_equal(found.depth, expected.depth)
    np.testing.assert_array_equal(found.K, expected.K)


def test_examples_read_frames_at_their_size_and_keep_those(tmp_path):
    _, points, raw = _tree(tmp_path)
    kept = scenes.Kept(scannet.ScanNet(points, raw))
    first = scenes.sized(kept[0], 1, 30, 40)
    assert first.image.shape == (30, 40, 3) and scenes.sized(kept[0], 1, 30, 40) is first
    assert scenes.sized(kept[0], 1, 15, 20).image.shape == (15, 20, 3)


def test_means_by_area_take_shares_of_pixels():
    values = np.asarray([[[10.0]], [[20.0]], [[40.0]]])  # three rows of one pixel
    # [0, 2.5] in two parts: 10 and a quarter of 20; three quarters of 20 and a half of 40.
    expected = [(10 + 0.25 * 20) / 1.25, (0.75 * 20 + 0.5 * 40) / 1.25]
    np.testing.assert_allclose(scannet._means_along(values, 0, 2, 2.5)[:, 0, 0], expected)
    flat = np.full((61, 81, 3), 7, np.uint8)
    assert (scannet._area_means(flat, 60, 80, (81, 60.5)) == 7).all()
