"""Examples of scenes: disjoint frames, one shift for everything, views that see the points."""

import itertools

import numpy as np
import pytest

from gsjax.data import clouds, loader, scene_store, scenes
from gsjax.data.rooms import source
from tests.data.scene_cases import WallScene

SPEC = scenes.SceneSpec(num_points=300, height=20, width=32, runs=4, distance=3)


@pytest.mark.parametrize(
    "num_frames,runs,distance", [(16, 8, 5), (17, 8, 1), (64, 8, 5), (9, 4, 2)]
)
def test_references_are_near_and_never_supervised(num_frames, runs, distance):
    places = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        references, supervised = scenes.draw_frames(num_frames, rng, runs=runs, distance=distance)
        assert len(set(references) | set(supervised)) == 2 * runs  # all distinct
        assert (np.abs(references - supervised) <= distance).all()
        runs_of = np.array_split(np.arange(num_frames), runs)
        assert all(frame in run for frame, run in zip(supervised, runs_of))
        places |= set(supervised)
    assert places == set(range(num_frames))  # every frame is supervised at some time


def test_known_neighbours_are_preferred_and_may_repeat():
    rng = np.random.default_rng(0)
    # Everything is seen from frame 20 alone.
    references, supervised = scenes.draw_frames(
        24, rng, runs=4, neighbours=lambda frame: np.array([20])
    )
    assert set(references) == {20} or 20 in supervised
    references, supervised = scenes.draw_frames(
        24, rng, runs=4, distance=2, neighbours=lambda frame: np.array([], int)
    )
    assert (np.abs(references - supervised) <= 2).all() and not set(references) & set(supervised)
    assert scenes._distinct([np.array([1, 2]), np.array([1]), np.array([2, 3])]).tolist() == [
        2,
        1,
        3,
    ]


def test_impossible_draws_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="15 frames are too few for 8"):
        scenes.draw_frames(15, rng)
    with pytest.raises(ValueError, match="runs >= 1"):
        scenes.draw_frames(15, rng, runs=0)
    for bad, message in (
        (dict(num_points=0), "num_points"),
        (dict(num_points=1, crop="cube"), "unknown 'cube'"),
        (dict(num_points=1, center="middle"), "unknown 'middle'"),
    ):
        with pytest.raises(ValueError, match=message):
            scenes.SceneSpec(**bad)


def test_resizing_keeps_rays_and_off_centre_principal_points():
    scene = WallScene(width=48, height=30)
    view = scene.view(3)
    small = scenes.resized(view, 10, 24)
    np.testing.assert_allclose(small.K, [[15, 0, 7.1], [0, 9, 11.3 / 3], [0, 0, 1]])
    # A pixel of the small picture is the mean of the wall that it sees.
    points = clouds.back_project(small.depth, small.viewmat, small.K)
    assert np.abs(small.image.astype(int) - scene.paint(points)).max() <= 1
    assert small.label.shape == small.depth.shape == (10, 24)
    assert scenes.resized(view, 30, 48) is view
    large = scenes.resized(view, 60, 96)
    points = clouds.back_project(large.depth, large.viewmat, large.K)
    inner = np.abs(large.image.astype(int) - scene.paint(points))[2:-2, 2:-2]
    assert inner.max() <= 2
    np.testing.assert_allclose(large.K, view.K * [[2], [2], [1]])


@pytest.mark.parametrize("center", ["mean", "floor", "none"])
@pytest.mark.parametrize("crop", ["random", "sphere", "box"])
def test_points_and_cameras_move_together(center, crop):
    spec = scenes.SceneSpec(300, 20, 32, runs=4, distance=3, crop=crop, center=center)
    scene = WallScene()
    example = scenes.scene_examples([scene], spec, seed=0, train=True)[0]
    expected = {"mean": (0, 0, 0), "floor": (0, 0, None), "none": None}[center]
    if expected:
        np.testing.assert_allclose(example["xyz"].mean(0)[:2], expected[:2], atol=1e-5)
    if center == "floor":
        assert example["xyz"][:, 2].min() == pytest.approx(0, abs=1e-6)
    if center == "none":
        assert not example["shift"].any()
    # Each point, projected into each view, meets the picture's colour of that very point.
    checked = 0
    for view in range(8):
        pixels, depth = clouds.project(
            example["xyz"].astype(float), example["viewmats"][view], example["Ks"][view]
        )
        np.testing.assert_allclose(depth, 4, atol=1e-5)
        inside = ((pixels >= 0) & (pixels < (32, 20))).all(-1)
        column, row = np.floor(pixels[inside]).astype(int).T
        seen = example["images"][view][row, column].astype(int)
        # Half a pixel is 0.067 m or 2.7 grey levels across and 0.074 m or 3 levels down.
        assert np.abs(seen - example["rgb"][inside]).max() <= 4
        checked += inside.sum()
    assert checked > 500
    np.testing.assert_allclose(example["xyz"] + example["shift"], scene.cloud().xyz[
        [np.argmin(np.abs(scene.cloud().xyz - p).sum(-1)) for p in example["xyz"] + example["shift"]]
    ], atol=1e-5)  # fmt: skip


def test_the_pixel_mask_tells_which_pixels_the_crop_holds():
    scene = WallScene()
    spec = scenes.SceneSpec(200, 20, 32, runs=4, distance=3, crop="box", center="mean")
    example = scenes.scene_examples([scene], spec, seed=1, train=True)[0]
    mask = example["pixel_mask"]
    assert 0.02 < mask.mean() < 0.9
    low, high = example["xyz"].min(0), example["xyz"].max(0)
    for view in range(8):
        points = clouds.back_project(
            example["depths"][view], example["viewmats"][view], example["Ks"][view]
        )
        margin = 0.15  # a step of the cloud's grid
        wide = ((points >= low - margin) & (points <= high + margin))[..., [0, 2]].all(-1)
        assert not (mask[view] & ~wide).any()
    whole = scenes.scene_examples([scene], SPEC, seed=1, train=True)[0]
    all_points = scenes.SceneSpec(5000, 20, 32, runs=4, distance=3)
    assert scenes.scene_examples([scene], all_points, seed=1, train=True)[0]["pixel_mask"].all()
    assert not whole["pixel_mask"].all()


def test_examples_have_the_declared_fields_and_pad_short_clouds():
    spec = scenes.SceneSpec(num_points=2000, height=15, width=24, runs=3, distance=2, voxel=0.2)
    example = scenes.scene_examples([WallScene()], spec, seed=0, train=False)[0]
    shapes = {name: (np.shape(v), np.asarray(v).dtype.name) for name, v in example.items()}
    assert shapes == {
        "index": ((), "int32"), "valid": ((), "bool"), "xyz": ((2000, 3), "float32"),
        "rgb": ((2000, 3), "uint8"), "normal": ((2000, 3), "float32"), "label": ((2000,), "int32"),
        "mask": ((2000,), "bool"), "images": ((6, 15, 24, 3), "uint8"),
        "depths": ((6, 15, 24), "float32"), "semantic": ((6, 15, 24), "int16"),
        "pixel_mask": ((6, 15, 24), "bool"), "viewmats": ((6, 4, 4), "float32"),
        "Ks": ((6, 3, 3), "float32"), "frames": ((6,), "int32"), "reference": ((6,), "bool"),
        "shift": ((3,), "float32"),
    }  # fmt: skip
    count = int(example["mask"].sum())
    assert 0 < count < 1200 and example["mask"][:count].all()
    assert (example["label"][count:] == -1).all() and not example["xyz"][count:].any()
    assert example["reference"].tolist() == [True] * 3 + [False] * 3
    bare = scenes.SceneSpec(num_points=10, height=15, width=24, runs=3, references=False)
    example = scenes.scene_examples([WallScene()], bare, seed=0, train=True)[0]
    assert example["images"].shape[0] == bare.num_views == 3 and not example["reference"].any()


def test_training_draws_anew_and_evaluation_does_not():
    many = [WallScene(f"wall {i}") for i in range(3)]
    train = scenes.scene_examples(many, SPEC, seed=0, train=True).repeat()
    assert not np.array_equal(train[0]["frames"], train[3]["frames"])  # the same scene again
    again = scenes.scene_examples(many, SPEC, seed=0, train=True).repeat()
    for name, value in train[4].items():
        np.testing.assert_array_equal(value, again[4][name])
    held = scenes.scene_examples(many, SPEC, seed=0, train=False).repeat()
    np.testing.assert_array_equal(held[0]["frames"], held[3]["frames"])
    moved = scenes.scene_examples(many[::-1], SPEC, seed=0, train=False)
    np.testing.assert_array_equal(held[0]["xyz"], moved[2]["xyz"])
    assert not np.array_equal(held[0]["frames"], held[1]["frames"])


def test_short_scenes_are_left_out_and_keep_their_numbers():
    many = [WallScene(num_frames=5), WallScene(num_frames=8), WallScene(num_frames=30)]
    made = scenes.scene_examples(many, SPEC, seed=0, train=False)
    assert [int(made[i]["index"]) for i in range(len(made))] == [1, 2]
    with pytest.raises(ValueError, match="none of 1 has 8 frames"):
        scenes.scene_examples(many[:1], SPEC, seed=0, train=False)


def test_rooms_batch_through_the_loader():
    recipe = source.Recipe(num_frames=8, width=32, height=20, num_points=400)
    rooms = scenes.Kept(source.Rooms(2, seed=0, split="train", recipe=recipe))
    made = scenes.scene_examples(rooms, SPEC, seed=0, train=True)
    batches = loader.train_iterator(made, seed=0, global_batch=2, num_threads=2)
    batch = next(batches)
    batches.close()
    assert batch["images"].shape == (2, 8, 20, 32, 3) and (batch["semantic"] >= 0).all()
    held = scenes.scene_examples(rooms, SPEC, seed=0, train=False)
    valid = [b["valid"].tolist() for b in loader.eval_batches(held, global_batch=3, num_threads=0)]
    assert valid == [[True, True, False]]


class _Counting(WallScene):
    made = 0

    def view(self, frame):
        _Counting.made += 1
        return super().view(frame)


def test_kept_views_are_made_once_within_the_bound():
    _Counting.made = 0
    kept = scenes.Kept([_Counting()])
    for _, frame in itertools.product(range(3), (0, 5)):
        np.testing.assert_array_equal(kept[0].view(frame).image, WallScene().view(frame).image)
    assert _Counting.made == 2
    assert kept[0].cloud() is kept[0].cloud()
    none = scenes.Kept([_Counting()], memory=0)
    none[0].view(0), none[0].view(0)
    assert _Counting.made == 4
    assert kept[0].name == "wall" and kept[0].num_frames == 24


@pytest.mark.parametrize("near", [None, lambda frame: np.array([0, frame // 2])])
def test_stored_scenes_read_back_the_same(tmp_path, near):
    scene = WallScene(num_frames=5, near=near)
    stored = scene_store.write_all([scene], tmp_path / "set")
    assert len(scene_store.write_all([scene], tmp_path / "set")) == 1  # nothing to do
    found = stored[0]
    assert (found.name, found.num_frames) == ("wall", 5)
    np.testing.assert_array_equal(found.viewmats, scene.viewmats)
    for name in ("xyz", "rgb", "normal", "label"):
        np.testing.assert_array_equal(getattr(found.cloud(), name), getattr(scene.cloud(), name))
    for name in ("image", "depth", "label", "viewmat", "K"):
        np.testing.assert_array_equal(getattr(found.view(4), name), getattr(scene.view(4), name))
    expected = None if near is None else [0, 2]
    assert expected == (None if near is None else found.neighbours(4).tolist())
    with pytest.raises(FileExistsError):
        scene_store.write(scene, tmp_path / "set" / "000000")
    with pytest.raises(ValueError, match="holds scene 'wall', not 'other'"):
        scene_store.write_all([WallScene("other")], tmp_path / "set")
    assert not list((tmp_path / "set").glob(".making*"))


def test_two_processes_may_write_one_set(tmp_path):
    class Overtaken(WallScene):
        """Another process finishes the same scene while this one is asked for its first view."""

        def view(self, frame):
            if not (tmp_path / "000000").exists():
                scene_store.write(WallScene(num_frames=3), tmp_path / "000000")
            return super().view(frame)

    stored = scene_store.write_all([Overtaken(num_frames=3)], tmp_path)
    assert len(stored) == 1 and stored[0].num_frames == 3
    assert not list(tmp_path.glob(".making*"))


def test_damaged_stores_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no stored scenes"):
        scene_store.StoredScenes(tmp_path)
    folder = scene_store.write(WallScene(num_frames=3), tmp_path / "a")
    (folder / "depths.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="depths.npy: missing or damaged"):
        scene_store.StoredScene(folder).view(0)
    (folder / "scene.json").write_text(
        '{"format": 9, "name": "a", "num_frames": 3, "neighbours": null}'
    )
    with pytest.raises(ValueError, match="format 9"):
        scene_store.StoredScene(folder)
    (folder / "scene.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        scene_store.StoredScene(folder)
