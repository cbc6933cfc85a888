"""transforms.json: conventions by hand, every optional key, and one clear error for each fault."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from gsjax.io import nerf_json, posed_checks
from tests.io import posed_scenes

CLOUD = """ply
format ascii 1.0
element vertex 2
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
0 0 0.5 255 0 1
1 0 0 2 3 4
"""


def test_opengl_axes_by_hand(tmp_path):
    """A camera at z = 4 with OpenGL's own axes looks down -z with y up and x to the right."""
    pose = np.eye(4)
    pose[2, 3] = 4
    frame = {"file_path": "a.png", "transform_matrix": pose.tolist()}
    posed_scenes.picture(tmp_path / "a.png", (20, 10))
    meta = {"fl_x": 8.0, "cx": 10.0, "cy": 5.0, "w": 20, "h": 10, "frames": [frame]}
    images = nerf_json.read(posed_scenes.write(tmp_path / "t.json", meta))
    point = images.viewmats[0] @ [1, 0.5, 0, 1]
    np.testing.assert_allclose(point[:3], [1, -0.5, 4])
    u, v, w = images.Ks[0] @ point[:3]
    assert (u / w, v / w) == (10 + 8 / 4, 5 - 8 * 0.5 / 4)  # to the right, and up in the picture
    assert images.viewmats.dtype == images.Ks.dtype == np.float64


def test_opencv_axes_are_taken_as_they_are(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path)
    by_gl = nerf_json.read(path)
    np.testing.assert_allclose(by_gl.viewmats, np.linalg.inv(posed_scenes.ring(5)), atol=1e-12)
    by_cv = nerf_json.read(path, axes="opencv")
    np.testing.assert_allclose(by_cv.viewmats, posed_scenes.FLIP @ by_gl.viewmats, atol=1e-12)


def test_the_files_convention_counts_unless_the_caller_says_otherwise(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path, convention="camera-to-world, OpenCV camera axes")
    said, gl, cv = (nerf_json.read(path, axes=a).viewmats for a in (None, "opengl", "opencv"))
    np.testing.assert_array_equal(said, cv)
    assert np.abs(said - gl).max() > 0.5
    posed_scenes.edit(path, lambda m: m.update(convention="blender"))
    with pytest.raises(ValueError, match=r"convention: .*found 'blender'.*\['opencv', 'opengl'\]"):
        nerf_json.read(path)
    with pytest.raises(ValueError, match=r"axes: expected one of .*found 'gl'"):
        nerf_json.read(path, axes="gl")


def test_frames_come_back_in_the_order_of_their_names(tmp_path):
    images = nerf_json.read(posed_scenes.nerfstudio(tmp_path))
    assert images.names == ("000.png", "001.png", "002.png", "003.png", "004.png")
    assert images.image_paths[3] == tmp_path / "images" / "003.png"
    np.testing.assert_allclose(images.centers, posed_scenes.ring(5)[:, :3, 3], atol=1e-12)
    np.testing.assert_array_equal(images.Ks[0], [[10, 0, 6.5], [0, 11, 3.5], [0, 0, 1]])
    assert images.width.tolist() == [12] * 5 and images.height.tolist() == [8] * 5
    assert images.splits is None and images.points is None and images.mask_paths is None


def test_a_frames_intrinsics_win(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path)
    posed_scenes.edit(path, lambda m: m["frames"][0].update(fl_x=20.0, cx=1.0, w=24, h=16))
    images = nerf_json.read(path)  # the first frame in the file is the last by name
    np.testing.assert_array_equal(images.Ks[4], [[20, 0, 1], [0, 11, 3.5], [0, 0, 1]])
    assert images.Ks[3, 0, 0] == 10 and images.width.tolist() == [12, 12, 12, 12, 24]


@pytest.mark.parametrize(
    "keys, expected",
    [
        ({"camera_angle_x": 2 * math.atan(0.5)}, (12, 12, 6, 4)),
        ({"camera_angle_x": 2 * math.atan(0.5), "camera_angle_y": 2 * math.atan(0.25)}, (12, 16)),
        ({"camera_angle_x": 2 * math.atan(0.5), "fl_x": 9.0}, (9, 9)),
        ({"fl_y": 7.0}, (7, 7)),
        ({"fl_y": 7.0, "cx": 0.0}, (7, 7, 0, 4)),
    ],
)
def test_missing_intrinsics_are_completed(tmp_path, keys, expected):
    """Size from the picture's header (12 x 8), centre in its middle, one focal length for both."""
    path = posed_scenes.nerfstudio(tmp_path, 1)

    def change(meta):
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            del meta[key]
        meta.update(keys)

    images = nerf_json.read(posed_scenes.edit(path, change))
    found = images.Ks[0][[0, 1, 0, 1], [0, 1, 2, 2]]
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-14)
    assert (images.width[0], images.height[0]) == (12, 8)


def test_masks_depth_cloud_splits_and_transform(tmp_path):
    turn = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0.5], [0, 0, 0, 1]])
    path = posed_scenes.nerfstudio(
        tmp_path,
        ply_file_path="cloud.ply",
        train_filenames=["images/004.png", "./images/001.png"],
        val_filenames=["images/000.png"],
        applied_transform=turn[:3].tolist(),
        depth_scale_m=0.25,
    )
    (tmp_path / "cloud.ply").write_text(CLOUD)

    def change(meta):
        for frame in meta["frames"]:
            name = frame["file_path"][-7:]
            frame.update(mask_path=f"masks/{name}", depth_file_path=f"depth/{name}")
            for kind in ("masks", "depth"):
                (tmp_path / kind).mkdir(exist_ok=True)
                Image.new("L", (12, 8), 7).save(tmp_path / kind / name)

    images = nerf_json.read(posed_scenes.edit(path, change))
    assert images.points.tolist() == [[0, 0, 0.5], [1, 0, 0]]
    assert images.point_colors.tolist() == [[255, 0, 1], [2, 3, 4]]
    assert images.point_colors.dtype == np.uint8
    assert {k: v.tolist() for k, v in images.splits.items()} == {"train": [1, 4], "val": [0]}
    assert images.mask_paths[2] == tmp_path / "masks" / "002.png"
    assert images.depth_paths[2] == tmp_path / "depth" / "002.png"
    assert images.depth_scale == 0.25
    np.testing.assert_allclose(images.applied_transform, turn)


def test_blender_splits_and_field_of_view(tmp_path):
    posed_scenes.blender(tmp_path, {"train": 4, "val": 2, "test": 3})
    images = nerf_json.read_blender(tmp_path)
    assert images.names[0] == "test/r_0.png" and len(images) == 9
    for split, num in {"train": 4, "val": 2, "test": 3}.items():
        names = [images.names[i] for i in images.splits[split]]
        assert names == [f"{split}/r_{i}.png" for i in range(num)]
    np.testing.assert_allclose(images.Ks[0, 0, 0], 0.5 * 10 / math.tan(0.4))
    assert images.Ks[0, :2, 2].tolist() == [5, 5]
    first = images.splits["train"][0]
    np.testing.assert_allclose(images.centers[first], posed_scenes.ring(9)[0, :3, 3], atol=1e-12)


def test_blender_lists_may_share_photographs(tmp_path):
    posed_scenes.blender(tmp_path, {"train": 3, "test": 2})
    (tmp_path / "transforms_val.json").write_text((tmp_path / "transforms_test.json").read_text())
    images = nerf_json.read_blender(tmp_path)
    assert len(images) == 5
    np.testing.assert_array_equal(images.splits["val"], images.splits["test"])


def test_poses_become_exact_rotations(tmp_path):
    """Six digits in the file; the world-to-camera rotation is orthonormal to rounding."""
    path = posed_scenes.nerfstudio(tmp_path)

    def change(meta):
        for frame in meta["frames"]:
            frame["transform_matrix"] = np.round(frame["transform_matrix"], 5).tolist()

    rotation = nerf_json.read(posed_scenes.edit(path, change)).viewmats[:, :3, :3]
    identity = rotation @ rotation.transpose(0, 2, 1)
    np.testing.assert_allclose(identity, np.tile(np.eye(3), (5, 1, 1)), atol=1e-14)


def _set_pose(value):
    def change(meta):
        frame = meta["frames"][1]
        matrix = np.array(frame["transform_matrix"])
        frame["transform_matrix"] = value(matrix).tolist()

    return change


def _entry(row, column, value):
    def edit(matrix):
        matrix[row, column] = value
        return matrix

    return _set_pose(edit)


BAD = {
    "empty frames": (lambda m: m.update(frames=[]), "'frames' is empty"),
    "no frames": (lambda m: m.pop("frames"), "expected an object with a list 'frames', found"),
    "no path": (lambda m: m["frames"][2].pop("file_path"), r"frames\[2\]: .*text 'file_path'"),
    "no pose": (
        lambda m: m["frames"][1].pop("transform_matrix"),
        "frame 'images/003.png' has no pose",
    ),
    "nan": (_entry(0, 3, np.nan), "pose of 'images/003.png': NaN or infinite"),
    "inf": (_entry(1, 1, np.inf), "pose of 'images/003.png': NaN or infinite"),
    "shape": (_set_pose(lambda m: m[:2]), r"expected shape \[3, 4\] or \[4, 4\], found \[2, 4\]"),
    "scaled": (
        _set_pose(lambda m: m @ np.diag([2, 2, 2, 1])),
        "'images/003.png': the 3x3 part is no rotation: it scales by 2",
    ),
    "sheared": (_entry(0, 0, 3.0), "no rotation: its singular values are"),
    "mirrored": (_set_pose(lambda m: m @ np.diag([1, 1, -1, 1])), "it mirrors"),
    "transposed": (_set_pose(lambda m: m.T), "last row 0 0 0 1.*transposed"),
    "distorted": (
        lambda m: m.update(k1=0.05, p2=-0.01),
        r"k1 = 0.05, p2 = -0.01.; gsjax fit takes .*pinhole.*radial_coeffs.*ns-process-data .*undistorter .*Without one",
    ),
    "fisheye": (lambda m: m.update(camera_model="OPENCV_FISHEYE"), "OPENCV_FISHEYE is no pinhole"),
    "is fisheye": (lambda m: m.update(is_fisheye=True), "fisheye is no pinhole"),
    "model": (lambda m: m.update(camera_model="LYTRO"), "unknown camera model 'LYTRO'; known are"),
    "no focal": (lambda m: (m.pop("fl_x"), m.pop("fl_y")), "no focal length; expected fl_x"),
    "negative focal": (lambda m: m.update(fl_x=-3.0), "positive focal lengths.*fx -3"),
    "focal text": (lambda m: m.update(fl_x="wide"), "fl_x: expected a finite number, found 'wide'"),
    "angle": (lambda m: (m.pop("fl_x"), m.update(camera_angle_x=40.0)), "radians.*found 40"),
    "size": (lambda m: m.update(w=0), "positive size, found 0 x 8"),
    "fraction": (lambda m: m.update(h=7.5), "whole pixels, found 12.0 x 7.5"),
    "twice": (
        lambda m: m["frames"][0].update(file_path="images/001.png"),
        "listed more than once: '001.png'",
    ),
    "split": (lambda m: m.update(test_filenames=["images/9.png"]), "test_filenames: 1 of 1 are in"),
    "half masked": (
        lambda m: m["frames"][0].update(mask_path="images/000.png"),
        "4 of 5 frames have no mask file while others have: 'images/003.png'.* and 1 more",
    ),
    "transform": (lambda m: m.update(applied_transform=[[1, 2]]), "applied_transform of .*shape"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_faults_have_their_own_errors(tmp_path, change, message):
    path = posed_scenes.nerfstudio(tmp_path)
    nerf_json.read(path)
    with pytest.raises(ValueError, match=message):
        nerf_json.read(posed_scenes.edit(path, change))


def test_a_relative_folder_may_list_absolute_paths(tmp_path, monkeypatch):
    path = posed_scenes.nerfstudio(tmp_path, 3)
    expected = nerf_json.read(path)
    whole = str(tmp_path / "images" / "001.png")
    posed_scenes.edit(path, lambda m: m["frames"][1].update(file_path=whole))
    monkeypatch.chdir(tmp_path)
    found = nerf_json.read("transforms.json")
    assert found.names == expected.names == ("000.png", "001.png", "002.png")
    np.testing.assert_array_equal(found.viewmats, expected.viewmats)
    assert all(place.is_file() for place in found.image_paths)


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path, 2)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert nerf_json.read(path).names == ("000.png", "001.png")


def test_vanishing_distortion_is_a_pinhole(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path, camera_model="OPENCV", k1=0, k2=1e-9, p1=0.0, p2=0)
    assert len(nerf_json.read(path)) == 5


@pytest.mark.parametrize("text", ['{"frames": [', "", "\xff"])
def test_broken_json(tmp_path, text):
    path = tmp_path / "transforms.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="not readable JSON"):
        nerf_json.read(path)


def test_another_json_layout(tmp_path):
    path = posed_scenes.write(tmp_path / "cameras.json", [{"id": 0}])
    with pytest.raises(ValueError, match="expected an object with a list 'frames', found a list"):
        nerf_json.read(path)


def test_missing_files_are_counted_and_named_up_to_three(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path)
    for i in range(4):
        (tmp_path / "images" / f"{i:03d}.png").unlink()
    with pytest.raises(FileNotFoundError, match="4 of 5 image files are missing: .* and 1 more"):
        nerf_json.read(path)
    for i in range(4):
        posed_scenes.picture(tmp_path / "images" / f"{i:03d}.png")
    posed_scenes.edit(path, lambda m: m.update(ply_file_path="cloud.ply"))
    with pytest.raises(FileNotFoundError, match="1 of 1 point cloud files are missing"):
        nerf_json.read(path)


def test_the_hand_held_room(gsjax_data):
    """A layout with 'camera_to_world', 'depth_path' and OpenCV axes by its convention."""
    path = gsjax_data / "scenes" / "hololens_room" / "cameras.json"
    if not path.is_file():
        pytest.skip("scenes/hololens_room is not in GSJAX_DATA")
    images = nerf_json.read(path)
    assert len(images) == 115 and images.depth_scale == 0.001 and images.depth_paths is not None
    pose = np.array(json.loads(path.read_text())["frames"][0]["camera_to_world"])
    np.testing.assert_allclose(images.viewmats[0] @ pose, np.eye(4), atol=1e-5)


def test_fox(gsjax_data):
    path = gsjax_data / "scenes" / "fox" / "transforms.json"
    if not path.is_file():
        pytest.skip("scenes/fox is not in GSJAX_DATA")
    images = nerf_json.read(path)
    assert len(images) == 44 and images.names[0] == "0001.jpg"
    assert (images.width[0], images.height[0]) == (270, 480)
    forward = images.viewmats[:, 2, :3]
    point, off = posed_checks.meeting_point(images.centers, forward)
    depths = np.einsum("vi,vi->v", forward, point - images.centers)
    assert off < 1 and (depths > 3).all()  # all look at the fox, from 4 to 6 units away
    up = -images.viewmats[:, 1, :3]  # the world's z is up, and so was the photographer
    assert (up[:, 2] > 0.7).all()
