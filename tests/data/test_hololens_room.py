"""The recorded room: time blocks, dropped poses, z up, and a cloud that held-out frames agree with."""

import json

import numpy as np
import pytest
from PIL import Image

from gsjax.data import clouds, hololens_room, scenes


def _tree(root, frames=24, lost=()):
    """A camera that moves along x over the plane y = -2 of a y-up world, looking down at it."""
    (root / "images").mkdir(parents=True)
    (root / "depth").mkdir()
    entries = []
    for number in range(frames):
        pose = np.eye(4)
        pose[:3, :3] = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # camera z is world -y
        pose[0, 3] = 0.05 * number
        if number in lost:
            pose[1, 1] = np.nan
        name = f"{3 * number:05d}"
        y, x = np.mgrid[:12, :16] + 0.5
        place = 0.05 * number + 2 * (x - 8) / 20
        grey = np.clip(100 + 40 * place, 0, 255).astype(np.uint8)
        Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(root / "images" / f"{name}.jpg")
        depth = np.full((12, 16), 2000, np.uint16)
        depth[:3] = 0
        Image.fromarray(depth).save(root / "depth" / f"{name}.png")
        entries.append(
            dict(file_path=f"images/{name}.jpg", depth_path=f"depth/{name}.png",
                 camera_to_world=pose.tolist())
        )  # fmt: skip
    meta = dict(fl_x=20.0, fl_y=20.0, cx=8.0, cy=6.0, w=16, h=12, depth_scale_m=0.001)
    (root / "cameras.json").write_text(json.dumps({**meta, "frames": entries}))
    pairs = [dict(i=i, j=i + 2, visible=0.8, baseline_m=0.1) for i in range(frames - 2)]
    (root / "pairs.json").write_text(json.dumps(pairs))


def _eyes(viewmats):
    return -np.einsum("fji,fj->fi", viewmats[:, :3, :3], viewmats[:, :3, 3])


def test_blocks_hold_out_whole_stretches_with_a_gap():
    train, held = hololens_room.time_blocks(20, block=3, every=3, gap=1)
    np.testing.assert_array_equal(held, [6, 7, 8, 15, 16, 17])
    np.testing.assert_array_equal(train, [0, 1, 2, 3, 4, 10, 11, 12, 13, 19])
    train, held = hololens_room.time_blocks(8, block=2, every=2, gap=0)
    np.testing.assert_array_equal(np.sort([*train, *held]), np.arange(8))
    with pytest.raises(ValueError, match="choose shorter blocks"):
        hololens_room.time_blocks(5, block=4, every=4)
    with pytest.raises(ValueError, match="every >= 2"):
        hololens_room.time_blocks(50, every=1)


def test_frames_without_a_pose_are_dropped_and_z_is_up(tmp_path):
    _tree(tmp_path, lost=(3, 10))
    room = hololens_room.HololensRoom(tmp_path, "all", block=4)
    assert room.num_frames == 22 and not {3, 10} & set(room.frame_numbers)
    eyes = _eyes(room.viewmats)
    np.testing.assert_allclose(eyes[:, 0], 0.05 * room.frame_numbers, atol=1e-9)
    view = room.view(4)
    assert view.label is None and view.image.shape == (12, 16, 3)
    assert not view.depth[:3].any() and (view.depth[3:] == 2).all()
    points = clouds.back_project(view.depth, view.viewmat, view.K)[3:]
    np.testing.assert_allclose(points[..., 2], -2, atol=1e-6)  # the floor lies below, in z
    # Pairs are numbered as in the file, lost frames included.
    place = {number: i for i, number in enumerate(room.frame_numbers)}
    assert room.neighbours(place[5]).tolist() == [place[7]]
    assert room.neighbours(place[6]).tolist() == [place[4], place[8]]


def test_splits_share_no_frame_and_clouds_no_held_out_pixel(tmp_path):
    _tree(tmp_path)
    options = dict(block=4, every=3, gap=1, voxel=0.1, stride=1)
    train = hololens_room.HololensRoom(tmp_path, "train", **options)
    held = hololens_room.HololensRoom(tmp_path, "held_out", **options)
    assert not set(train.frame_numbers) & set(held.frame_numbers)
    assert all(max(near, default=0) < train.num_frames for near in map(train.neighbours, range(9)))
    cloud = train.cloud()
    np.testing.assert_array_equal(cloud.xyz, held.cloud().xyz)
    np.testing.assert_allclose(cloud.xyz[:, 2], -2, atol=1e-5)
    np.testing.assert_allclose(cloud.normal, np.tile([0, 0, 1], (len(cloud), 1)), atol=1e-5)
    for number in held.frame_numbers:  # their pictures become noise: the cloud must not change
        Image.fromarray(np.full((12, 16, 3), 255, np.uint8)).save(
            tmp_path / "images" / f"{3 * number:05d}.jpg"
        )
    again = hololens_room.HololensRoom(tmp_path, "held_out", **options).cloud()
    np.testing.assert_array_equal(cloud.rgb, again.rgb)


def test_wrong_folders_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="cameras.json: no such file; root must be"):
        hololens_room.HololensRoom(tmp_path)
    _tree(tmp_path / "a", lost=range(24))
    with pytest.raises(ValueError, match="none of 24 frames has a finite pose"):
        hololens_room.HololensRoom(tmp_path / "a")
    with pytest.raises(ValueError, match="split: unknown 'val'"):
        hololens_room.HololensRoom(tmp_path / "a", "val")
    _tree(tmp_path / "b")
    (tmp_path / "b/depth/00006.png").unlink()
    with pytest.raises(FileNotFoundError, match="00006.png"):
        hololens_room.HololensRoom(tmp_path / "b")
    (tmp_path / "b/cameras.json").write_text('{"frames": []}')
    with pytest.raises(ValueError, match="damaged, or of another format"):
        hololens_room.HololensRoom(tmp_path / "b")
    (tmp_path / "b/pairs.json").unlink()


@pytest.fixture(scope="module")
def root(gsjax_data):
    folder = gsjax_data / "scenes" / "hololens_room"
    if not folder.is_dir():
        pytest.skip("GSJAX_DATA has no scenes/hololens_room")
    return folder


def test_the_recording_agrees_with_itself(root):
    train = hololens_room.HololensRoom(root, "train", voxel=0.03, stride=4)
    held = hololens_room.HololensRoom(root, "held_out", voxel=0.03, stride=4)
    assert train.num_frames + held.num_frames > 100 and held.num_frames >= 20
    assert (train.viewmats[:, 1, 2] < 0).mean() > 0.95  # pictures' down is the world's -z
    cloud = train.cloud()
    assert 30_000 < len(cloud) < 400_000
    np.testing.assert_allclose(np.linalg.norm(cloud.normal, axis=-1), 1, atol=1e-4)
    # Held-out depth lies on the fused cloud, and its colours are those of the cloud.
    error, colour, mixed = [], [], []
    rng = np.random.default_rng(0)
    for number in range(0, held.num_frames, 6):
        view = held.view(number)
        pixels, depth = clouds.project(cloud.xyz.astype(float), view.viewmat, view.K)
        height, width = view.depth.shape
        inside = (depth > 0.2) & ((pixels >= 0) & (pixels < (width, height))).all(-1)
        column, row = np.floor(pixels[inside]).astype(int).T
        seen = view.depth[row, column]
        error.append((depth[inside] - seen)[seen > 0])
        near = np.abs(depth[inside] - seen) < 0.05
        difference = view.image[row, column][near].astype(int) - cloud.rgb[inside][near]
        colour.append(np.abs(difference).mean())
        order = rng.permutation(near.sum())
        difference = view.image[row, column][near][order].astype(int) - cloud.rgb[inside][near]
        mixed.append(np.abs(difference).mean())
    error = np.abs(np.concatenate(error))
    assert np.median(error) < 0.05
    assert np.mean(colour) < 0.7 * np.mean(mixed)


def test_the_recording_gives_examples(root):
    room = scenes.Kept([hololens_room.HololensRoom(root, "train", voxel=0.05, stride=6)])
    spec = scenes.SceneSpec(num_points=4000, height=60, width=90, runs=4)
    example = scenes.scene_examples(room, spec, seed=0, train=True)[0]
    assert example["mask"].all() and example["images"].shape == (8, 60, 90, 3)
    assert 0.1 < (example["depths"] > 0).mean() < 0.95
    assert not set(example["frames"][:4]) & set(example["frames"][4:])
    np.testing.assert_allclose(example["Ks"][0, 0, 0], 495.5678 / 6, rtol=1e-4)
