"""Posed photographs: recognising sources, pixels against cameras, holding out, wrong axes."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gsjax.io import posed, posed_checks, posed_pixels
from tests.io import posed_scenes


def test_folders_and_files_are_recognised(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path / "a")
    posed_scenes.blender(tmp_path / "b", {"train": 3, "test": 1})
    path.rename(tmp_path / "a" / "my_cameras.json")
    assert len(posed.load_posed(tmp_path / "a" / "my_cameras.json")) == 5
    (tmp_path / "a" / "my_cameras.json").rename(path)
    assert posed.load_posed(str(tmp_path / "a")).splits is None
    assert sorted(posed.load_posed(tmp_path / "b").splits) == ["test", "train"]
    with pytest.raises(FileNotFoundError, match=r"not recognised; .*sparse/0.*transforms.json"):
        posed.load_posed(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        posed.load_posed(tmp_path / "nowhere")


def test_pixels_are_those_of_the_files_in_order_of_names(tmp_path):
    posed_scenes.nerfstudio(tmp_path, 3)
    images = posed.load_posed(tmp_path)
    for i, found in enumerate(posed.load_images(images)):
        expected = posed_scenes.picture(tmp_path / "again.png", (12, 8), seed=i)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
    assert not images.alpha


def test_alpha_is_kept_or_laid_on_a_background(tmp_path):
    posed_scenes.blender(tmp_path, {"train": 2})
    images = posed.load_posed(tmp_path)
    rgba = posed.load_images(images)[1]
    assert images.alpha and rgba.shape == (10, 10, 4)
    on_blue = posed.load_images(images, background=(0, 0, 1))[1]
    share = rgba[..., 3:] / 255.0
    expected = rgba[..., :3] * share + np.array([0, 0, 255]) * (1 - share)
    assert on_blue.shape == (10, 10, 3) and np.abs(on_blue - expected).max() <= 0.5001
    for bad in ((0, 0, 2), (1, 1), (np.nan, 0, 0)):
        with pytest.raises(ValueError, match="background: expected three numbers from 0 to 1"):
            posed.load_images(images, background=bad)


def test_smaller_stored_pictures_scale_the_intrinsics(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path, 3, size=(6, 4))  # the file says 12 x 8
    images = posed.load_posed(path)
    np.testing.assert_allclose(images.Ks[1], [[5, 0, 3.25], [0, 5.5, 1.75], [0, 0, 1]])
    assert images.width.tolist() == [6] * 3
    assert posed.load_images(images)[0].shape == (4, 6, 3)


@pytest.mark.parametrize("size", [(12, 4), (8, 12), (13, 8), (12, 7)])
def test_pictures_of_another_shape_are_refused(tmp_path, size):
    path = posed_scenes.nerfstudio(tmp_path, 3, size=size)
    message = rf"000.png: picture of {size[0]} x {size[1]} pixels, but its camera is for 12 x 8"
    with pytest.raises(ValueError, match=message) as caught:
        posed.load_posed(path)
    assert ("turned by 90 degrees" in str(caught.value)) == (size == (8, 12))


def test_sizes_that_were_rounded_are_one_shape():
    assert posed_pixels.same_shape((1297, 840), (5187, 3361))
    assert posed_pixels.same_shape((5187, 3361), (1296, 840))
    assert not posed_pixels.same_shape((1297, 850), (5187, 3361))
    assert not posed_pixels.same_shape((100, 50), (100, 51))


def test_downscale_averages_blocks(tmp_path):
    posed_scenes.nerfstudio(tmp_path, 3)
    images = posed.load_posed(tmp_path, downscale=2)
    assert (images.width[0], images.height[0]) == (6, 4)
    np.testing.assert_allclose(images.Ks[0, :2, 2], [3.25, 1.75])
    full = posed.load_images(posed.load_posed(tmp_path))[0].astype(float)
    blocks = full.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(posed.load_images(images)[0] - blocks).max() <= 1
    for bad in (0, 1.5):
        with pytest.raises(ValueError, match="downscale: expected a whole number"):
            posed.load_posed(tmp_path, downscale=bad)


def test_downscale_takes_the_smaller_folder_where_there_is_one(tmp_path):
    posed_scenes.nerfstudio(tmp_path, 3)
    for i in range(3):
        posed_scenes.picture(tmp_path / "images_2" / f"{i:03d}.jpg", (6, 4), seed=i)
    images = posed.load_posed(tmp_path, downscale=2)
    assert images.image_paths[0] == tmp_path / "images_2" / "000.jpg"
    assert images.names[0] == "000.png" and images.Ks[0, 0, 0] == 5
    (tmp_path / "images_2" / "001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 3 image files are missing: .*images_2/001"):
        posed.load_posed(tmp_path, downscale=2)


def test_masks_and_depth_follow_the_size(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path, 3, depth_scale_m=0.5)
    mask, depth = np.zeros((8, 12), np.uint8), np.arange(96, dtype=np.uint16).reshape(8, 12) * 300
    mask[:, 6:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(depth).save(tmp_path / "depth.png")
    np.save(tmp_path / "depth.npy", np.where(depth == 300, np.nan, depth).astype(np.float32))

    def change(meta):
        for i, frame in enumerate(meta["frames"]):
            frame.update(mask_path="mask.png", depth_path=f"depth.{'npy' if i else 'png'}")

    posed_scenes.edit(path, change)
    images = posed.load_posed(tmp_path)
    assert (posed.load_masks(images)[0] == (mask > 0)).all()
    depths = posed.load_depths(images)
    np.testing.assert_array_equal(depths[2], depth * 0.5)
    np.testing.assert_array_equal(depths[0], np.where(depth == 300, 0, depth * 0.5))
    np.testing.assert_array_equal(posed.load_depths(images, scale=2)[2], depth * 2.0)
    half = posed.load_posed(tmp_path, downscale=2)
    np.testing.assert_array_equal(posed.load_masks(half)[0], mask[1::2, 1::2] > 0)
    np.testing.assert_array_equal(posed.load_depths(half)[2], depth[1::2, 1::2] * 0.5)
    with pytest.raises(ValueError, match="scale: expected a positive number"):
        posed.load_depths(images, scale=0)
    np.save(tmp_path / "depth.npy", np.zeros((8, 11), np.float32))
    with pytest.raises(ValueError, match="depth map of 11 x 8 pixels, but its camera is for 12"):
        posed.load_depths(images)
    posed_scenes.picture(tmp_path / "depth.png")
    with pytest.raises(ValueError, match=r"depth map of shape \[8, 12, 3\]; expected \[H, W\]"):
        posed.load_depths(images.subset([2]))


def test_absent_masks_and_depth_are_none(tmp_path):
    images = posed.load_posed(posed_scenes.nerfstudio(tmp_path, 3))
    assert posed.load_masks(images) is None and posed.load_depths(images) is None


def test_truncated_and_foreign_pictures(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path, 3)
    images = posed.load_posed(path)
    target = tmp_path / "images" / "001.png"
    data = target.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="001.png: truncated or damaged picture"):
        posed.load_images(images)
    target.write_bytes(b"<html>not found</html>")
    for read in (posed.load_images, posed_pixels.fit_to_files):
        with pytest.raises(ValueError, match="001.png: not a readable picture"):
            read(images)
    Image.fromarray(np.zeros((8, 12), np.uint16)).save(target)
    with pytest.raises(ValueError, match="001.png: one channel of more than 8 bits"):
        posed.load_images(images)
    target.unlink()
    with pytest.raises(FileNotFoundError, match="1 of 3 image files are missing: .*001.png"):
        posed.load_images(images)


def test_pictures_that_shrank_since_are_refused(tmp_path):
    images = posed.load_posed(posed_scenes.nerfstudio(tmp_path, 3))
    posed_scenes.picture(tmp_path / "images" / "002.png", (6, 4))
    with pytest.raises(ValueError, match="6 x 4 pixels, smaller than its camera's 12 x 8"):
        posed.load_images(images)


def test_every_eighth_is_held_out(tmp_path):
    images = posed.load_posed(posed_scenes.nerfstudio(tmp_path, 10))
    train, test = posed.holdout(images)
    assert test.tolist() == [0, 8] and train.tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
    assert posed.holdout(images, every=3)[1].tolist() == [0, 3, 6, 9]
    train, test = posed.holdout(images, every=0)
    assert train.tolist() == list(range(10)) and not len(test)
    for bad in (1, -8):
        with pytest.raises(ValueError, match="every: expected 0"):
            posed.holdout(images, every=bad)
    with pytest.raises(ValueError, match="none of the 1 photographs is left"):
        posed.holdout(images.subset([4]))


def test_the_files_own_splits_win(tmp_path):
    posed_scenes.blender(tmp_path, {"train": 4, "val": 1, "test": 2})
    images = posed.load_posed(tmp_path)
    train, test = posed.holdout(images)
    assert [images.names[i] for i in test] == ["test/r_0.png", "test/r_1.png"]
    assert [images.names[i][:5] for i in train] == ["train"] * 4
    only = dataclasses.replace(images, splits={"val": np.array([1, 5])})
    train, test = posed.holdout(only)
    assert test.tolist() == [1, 5] and train.tolist() == [0, 2, 3, 4, 6]
    both = dataclasses.replace(images, splits={"train": np.array([0, 1]), "test": np.array([1])})
    with pytest.raises(ValueError, match="in train and test alike: 'test/r_1.png'"):
        posed.holdout(both)


def test_wrong_axes_are_found_without_points(tmp_path):
    path = posed_scenes.nerfstudio(tmp_path, 8)
    with pytest.raises(ValueError, match="behind 8 of 8 cameras: the axes convention looks wrong"):
        posed.load_posed(path, axes="opencv")
    assert len(posed.load_posed(path, axes="opencv", check_axes=False)) == 8


def test_wrong_axes_are_found_by_points_even_for_cameras_in_a_row():
    """Parallel viewing lines decide nothing; points do."""
    viewmats = np.tile(np.eye(4), (6, 1, 1))
    viewmats[:, 0, 3] = np.arange(6)
    points = np.random.default_rng(0).normal(size=(100, 3)) + [0, 0, 9.0]
    posed_checks.check_points_in_front(viewmats, None, "here")
    posed_checks.check_points_in_front(viewmats, points, "here")
    flipped = posed_scenes.FLIP @ viewmats
    posed_checks.check_points_in_front(flipped, None, "here")
    with pytest.raises(ValueError, match="here: the scene's points lie behind 6 of 6 cameras"):
        posed_checks.check_points_in_front(flipped, points, "here")
    # A few wrong cameras, or a scene all around, are no wrong convention.
    mixed = np.concatenate([viewmats, flipped])
    posed_checks.check_points_in_front(mixed, points, "here")
    posed_checks.check_points_in_front(flipped, points - [0, 0, 9.0], "here")


def test_the_meeting_point_by_hand():
    centers = np.array([[0.0, 0, 0], [2, 5, 0]])
    directions = np.array([[1.0, 0, 0], [0, 1, 0]])
    point, off = posed_checks.meeting_point(centers, directions)
    np.testing.assert_allclose(point, [2, 0, 0], atol=1e-12)
    assert off < 1e-12
    point, off = posed_checks.meeting_point(centers + [[0, 0, 1], [0, 0, -1]], directions)
    np.testing.assert_allclose([*point, off], [2, 0, 0, 1], atol=1e-12)


def _record(**changes):
    fields = {
        "names": ("a.png", "b.png"),
        "image_paths": ("a.png", "b.png"),
        "viewmats": np.tile(np.eye(4), (2, 1, 1)),
        "Ks": np.tile(np.diag([5.0, 5, 1]), (2, 1, 1)),
        "width": np.array([4, 4]),
        "height": np.array([3, 3]),
    }
    return posed.PosedImages(**fields | changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"names": ()}, "lists no photographs"),
        ({"names": ("b.png", "a.png")}, "ascending order"),
        ({"names": ("a.png", "a.png")}, "listed more than once: 'a.png'"),
        ({"image_paths": ("a.png",)}, "image_paths: expected one for each of the 2 names, found 1"),
        ({"mask_paths": ()}, "mask_paths: expected one for each of the 2 names, found 0"),
        ({"viewmats": np.eye(4)[None]}, r"viewmats: expected shape \[2, 4, 4\] for 2 names"),
        ({"Ks": np.zeros((2, 3, 3))}, r"Ks: expected \[\[fx, s, cx\]"),
        ({"width": np.array([4])}, r"width: expected shape \[2\]"),
        ({"height": np.array([3, 0])}, "'b.png': expected a positive size, found 4 x 0"),
        ({"viewmats": np.full((2, 4, 4), np.nan)}, "pose of 'a.png': NaN"),
        ({"points": np.zeros((5, 2))}, r"points: expected shape \[M, 3\], found \[5, 2\]"),
        ({"points": np.full((5, 3), np.inf)}, "points: 5 of 5 are NaN or infinite"),
        ({"point_colors": np.zeros((5, 3), np.uint8)}, "the shape of points, None, found"),
        ({"splits": {"test": np.array([2])}}, r"splits\['test'\]: expected indices in 0 .. 1"),
    ],
)
def test_inconsistent_records_cannot_be_made(changes, message):
    _record()
    with pytest.raises(ValueError, match=message):
        _record(**changes)


def test_from_unsorted_moves_everything_along():
    pose = np.tile(np.eye(4), (3, 1, 1))
    pose[:, 0, 3] = [3, 1, 2]
    images = posed.PosedImages.from_unsorted(
        names=["c", "a", "b"],
        image_paths=["pc", "pa", "pb"],
        depth_paths=["dc", "da", "db"],
        viewmats=pose,
        Ks=[np.diag([f, f, 1]) for f in (3, 1, 2)],
        width=[3, 1, 2],
        height=[3, 1, 2],
        splits={"train": [0, 1], "test": [2]},
    )
    assert images.names == ("a", "b", "c") and images.image_paths == ("pa", "pb", "pc")
    assert images.depth_paths == ("da", "db", "dc") and images.width.tolist() == [1, 2, 3]
    assert images.viewmats[:, 0, 3].tolist() == images.Ks[:, 0, 0].tolist() == [1, 2, 3]
    assert {k: v.tolist() for k, v in images.splits.items()} == {"train": [0, 2], "test": [1]}
    part = images.subset([2, 0])
    assert part.names == ("a", "c") and part.depth_paths == ("da", "dc") and part.splits is None
    with pytest.raises(ValueError, match="indices: expected some of 0 .. 2"):
        images.subset([3])


def test_fox_pictures(gsjax_data):
    folder = gsjax_data / "scenes" / "fox"
    if not folder.is_dir():
        pytest.skip("scenes/fox is not in GSJAX_DATA")
    images = posed.load_posed(folder, downscale=4)
    assert (images.width[0], images.height[0]) == (68, 120)
    np.testing.assert_allclose(images.Ks[0, 0, 0], 343.88 * 68 / 270)
    pictures = posed.load_images(images)
    assert len(pictures) == 44 and all(p.shape == (120, 68, 3) for p in pictures)
    assert [len(part) for part in posed.holdout(images)] == [38, 6]
    with pytest.raises(ValueError, match="axes convention looks wrong"):
        posed.load_posed(folder, axes="opencv")


def test_reading_imports_neither_jax_nor_pycolmap():
    code = (
        "import sys; from gsjax.io import colmap, nerf_json, posed;"
        "sys.exit(bool({'jax', 'pycolmap'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
