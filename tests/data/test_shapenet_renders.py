"""The reader of rendered ShapeNet models on a small tree."""

import random
import shutil

import numpy as np
import pytest
from PIL import Image

from gsjax.data import clouds, shapenet_renders
from gsjax.data.shapenet_renders import ShapeNetRenders


def _pose(angle):
    """Camera-to-world: on a circle of radius 2 about z, looking at the origin."""
    eye = 2 * np.array([np.cos(angle), np.sin(angle), 0.0])
    forward = -eye / 2
    right = np.cross(forward, [0, 0, -1.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return pose


def _tree(root, models=(("02691156", "a"), ("02691156", "b"), ("03001627", "c")), views=3):
    rng = np.random.default_rng(0)
    for synset, model in models:
        easy = root / "image" / synset / model / "easy"
        easy.mkdir(parents=True)
        for view in range(views):
            pixels = rng.integers(0, 255, (16, 16, 4), np.uint8)
            Image.fromarray(pixels).save(easy / f"{view:02d}.png")
            np.savetxt(easy / f"{view:02d}.txt", _pose(2.0 * view))
        (easy / "rendering_metadata.txt").write_text("not a pose")
        pts = easy.parent / "pts"
        pts.mkdir()
        np.save(pts / f"{synset}-{model}.npy", rng.normal(size=(50, 3)) + 5)


@pytest.mark.parametrize("views", [3, 5])
def test_models_have_all_their_views(tmp_path, views):
    _tree(tmp_path, views=views)
    found = ShapeNetRenders(tmp_path, "all")
    assert found.names == ("02691156/a", "02691156/b", "03001627/c")
    model = found[2]
    assert (model.name, model.category, found.synsets) == (
        "03001627/c",
        1,
        ["02691156", "03001627"],
    )
    assert model.images.shape == (views, 16, 16, 4)
    stored = np.asarray(Image.open(tmp_path / "image/03001627/c/easy/01.png"))
    np.testing.assert_array_equal(model.images[1], stored)
    np.testing.assert_allclose(model.viewmats @ np.stack([_pose(2.0 * v) for v in range(views)]),
                               np.eye(4) + np.zeros((views, 1, 1)), atol=1e-12)  # fmt: skip
    # 35 mm lens on a 32 mm sensor: 17.5 pixels at a width of 16, the principal point in the middle.
    np.testing.assert_allclose(model.Ks[0], [[17.5, 0, 8], [0, 17.5, 8], [0, 0, 1]], rtol=1e-6)
    pixels, depth = clouds.project(np.zeros(3), model.viewmats[1], model.Ks[1])
    np.testing.assert_allclose(pixels, [8, 8], atol=1e-9)
    assert depth == pytest.approx(2)


def test_points_are_centred_and_turned_into_the_renders_axes(tmp_path):
    _tree(tmp_path)
    raw = np.load(tmp_path / "image/02691156/a/pts/02691156-a.npy")
    points = ShapeNetRenders(tmp_path, "all")[0].points
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-6)
    x, y, z = (raw - raw.mean(0)).T
    np.testing.assert_allclose(points, np.stack([-z, x, -y], -1), atol=1e-6)
    assert np.linalg.det(shapenet_renders.TO_RENDER_AXES) == pytest.approx(1)
    kept = ShapeNetRenders(tmp_path, "all", center=False)[0].points
    np.testing.assert_allclose(kept - kept.mean(0), points, atol=1e-5)
    assert np.abs(kept.mean(0)).min() > 4


def test_splits_are_the_released_shuffle(tmp_path):
    models = [("0", f"{i:02d}") for i in range(40)]
    for synset, model in models:
        (tmp_path / "image" / synset / model).mkdir(parents=True)
    parts = {
        split: ShapeNetRenders(tmp_path, split, seed=7).names for split in ("train", "val", "test")
    }
    assert [len(parts[split]) for split in parts] == [30, 8, 2]
    expected = [f"0/{i:02d}" for i in range(40)]
    random.Random(8).shuffle(expected)
    assert [*parts["train"], *parts["val"], *parts["test"]] == expected


def test_incomplete_models_are_named_or_left_out(tmp_path):
    _tree(tmp_path)
    image = tmp_path / "image"
    (image / "02691156/a/easy/01.txt").unlink()
    shutil.rmtree(image / "02691156/b/pts")
    found = ShapeNetRenders(tmp_path, "all")
    with pytest.raises(
        FileNotFoundError, match="02691156/a: lacks a picture or a pose of the views 01"
    ):
        found[0]
    with pytest.raises(FileNotFoundError, match="lacks pts"):
        found[1]
    assert ShapeNetRenders(tmp_path, "all", check=True).names == ("03001627/c",)
    shutil.rmtree(image / "03001627/c/easy")
    with pytest.raises(
        ValueError, match="no complete model; the first, 02691156/a, lacks a picture"
    ):
        ShapeNetRenders(tmp_path, "all", check=True)


def test_wrong_roots_and_damaged_files_are_named(tmp_path):
    _tree(tmp_path)
    assert len(ShapeNetRenders(tmp_path / "image", "all")) == 3  # the folder itself
    with pytest.raises(FileNotFoundError, match="is no folder; expected <root>/image"):
        ShapeNetRenders(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no folder 'image'"):
        ShapeNetRenders(tmp_path / "image" / "02691156")
    (tmp_path / "other" / "image").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no models"):
        ShapeNetRenders(tmp_path / "other")
    with pytest.raises(ValueError, match="split: unknown 'dev'"):
        ShapeNetRenders(tmp_path, "dev")
    with pytest.raises(ValueError, match="fov_degrees"):
        ShapeNetRenders(tmp_path, fov_degrees=0)
    found = ShapeNetRenders(tmp_path, "all")
    a = tmp_path / "image/02691156/a"
    np.save(a / "pts/02691156-a.npy", np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        found[0]
    np.save(a / "pts/02691156-a.npy", np.zeros(4))
    with pytest.raises(ValueError, match=r"expected points \[P, 3\]"):
        found[0]
    (a / "easy/00.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match="expected 16 numbers"):
        found[0]
    np.savetxt(a / "easy/00.txt", np.diag([2.0, 2, 2, 1]))
    with pytest.raises(ValueError, match="02691156/a/00.*no rotation"):
        found[0]
    (a / "easy/00.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="00.png: not a readable picture"):
        found[0]
