"""Examples of posed views: cameras follow crops and mirrors, every place in the sequence is itself."""

import dataclasses

import numpy as np
import pytest

from gsjax.data import (
    loader,
    pointmaps,
    posed_examples,
    scenes,
    view_draws,
    view_fit,
    view_samplers,
)
from tests.data import scene_cases

SPEC = posed_examples.PosedSpec(height=16, width=24, near=1, far=10, depths=True)
GAPS = view_samplers.Gaps((3, 3), (10, 10), 10)


def _sees(view, point):
    """Pixel and depth of a world point, from the camera's definition."""
    x, y, z = (view.viewmat @ [*point, 1])[:3]
    u, v, w = view.K @ [x, y, z]
    return np.array([u / w, v / w]), z


def _stamped(view, point, colour=(255, 0, 0)):
    """The view with a blob of 3 x 3 pixels where a point is seen."""
    (u, v), _ = _sees(view, point)
    image = np.zeros_like(view.image)
    image[int(v) - 1 : int(v) + 2, int(u) - 1 : int(u) + 2] = colour
    return dataclasses.replace(view, image=image)


def _blob(image):
    """Centre (u, v) of what is bright, pixel centres at +0.5."""
    weight = image[..., 0].astype(float)
    rows, columns = np.indices(weight.shape) + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


POINT = np.array([0.31, 4.0, -0.22])


def _view(frame=12, height=41, width=64):
    scene = scene_cases.WallScene(height=height, width=width)
    scene.K = np.array([[60.0, 1.5, 30.2], [0, 54.0, 19.3], [0, 0, 1]])
    return scene.view(frame)


@pytest.mark.parametrize(
    "height, width, how",
    [(20, 32, "cover"), (16, 16, "cover"), (11, 31, "cover"), (30, 33, "crop"), (80, 128, "cover")],
)
def test_a_point_is_seen_where_its_picture_is_after_scaling_and_cutting(height, width, how):
    view = _stamped(_view(), POINT)
    off = _blob(view.image) - _sees(view, POINT)[0]  # of the stamp: whole pixels
    made = view_fit.fit(view, height, width, how)
    assert made.image.shape == (height, width, 3) and made.depth.shape == (height, width)
    scale = 1.0 if how == "crop" else max(height / 41, width / 64)
    np.testing.assert_allclose(_blob(made.image) - off * scale, _sees(made, POINT)[0], atol=0.12)
    np.testing.assert_allclose(made.K[0, 0] / made.K[1, 1], 60 / 54, rtol=0.05)


@pytest.mark.parametrize("how", ["cover", "crop"])
def test_released_arithmetic_where_pictures_are_centred(how):
    """fx times the share of the picture that is left, cx untouched (pixelSplat), for even cuts."""
    scene = scene_cases.WallScene(height=40, width=64)
    scene.K = np.array([[57.6, 0, 32], [0, 57.6, 20], [0, 0, 1.0]])
    made = view_fit.fit(scene.view(0), 20, 20, how)
    K = view_fit.normalised(made.K, 20, 20)
    scaled = 32 if how == "cover" else 64
    np.testing.assert_allclose(K[0], [57.6 / 64 * scaled / 20, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(K[1, 1], 57.6 / 40 if how == "cover" else 57.6 / 20)
    np.testing.assert_allclose(view_fit.in_pixels(K, 20, 20), made.K)


def test_mirrored_views_see_the_mirrored_world():
    view = _view()
    made = view_fit.mirrored(view)
    pixel, depth = _sees(view, POINT)
    turned, same = _sees(made, POINT * [-1, 1, 1])
    np.testing.assert_allclose(turned, [64 - pixel[0], pixel[1]], atol=1e-9)
    np.testing.assert_allclose(same, depth)
    rotation = made.viewmat[:3, :3]
    assert np.linalg.det(rotation) > 0.99  # F E F turns, it does not mirror
    back = view_fit.mirrored(made)
    np.testing.assert_array_equal(back.image, view.image)
    np.testing.assert_allclose(back.K, view.K)
    np.testing.assert_allclose(back.viewmat, view.viewmat)
    np.testing.assert_allclose(_blob(view_fit.mirrored(_stamped(view, POINT)).image)[0],
                               64 - _blob(_stamped(view, POINT).image)[0])  # fmt: skip


def test_pictures_too_small_to_cut_and_unknown_fits():
    with pytest.raises(ValueError, match="41 x 64 pixels, 48 x 48 cannot be cut"):
        view_fit.fit(_view(), 48, 48, "crop")
    with pytest.raises(ValueError, match="how: unknown 'stretch'"):
        view_fit.fit(_view(), 8, 8, "stretch")


def _example(flipped=False, teacher=None, spec=SPEC):
    sample = view_samplers.Sample(np.array([4, 12]), np.array([7, 9, 9]))
    scene = scene_cases.WallScene(width=40, height=30)
    return posed_examples.posed_example(
        scene, sample, spec, index=5, flipped=flipped, teacher=teacher
    )


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_examples_hold_what_their_spec_says_and_cameras_agree(flipped, relative):
    spec = dataclasses.replace(SPEC, relative=relative)
    made = _example(flipped, pointmaps.DepthTeacher(), spec)
    fields = posed_examples.batch_spec(spec, 2, 3, teacher=True)
    assert set(made) == set(fields)
    for name, (shape, kind) in fields.items():
        assert made[name].shape == shape and made[name].dtype == kind, name
    assert made["context_frames"].tolist() == [4, 12] and made["target_frames"].tolist() == [
        7,
        9,
        9,
    ]
    for side in ("context", "target"):
        product = made[f"{side}_viewmats"] @ made[f"{side}_c2ws"]
        np.testing.assert_allclose(product, np.tile(np.eye(4), (len(product), 1, 1)), atol=1e-6)
    if relative:
        np.testing.assert_allclose(made["context_viewmats"][0], np.eye(4), atol=1e-6)
    # Colours of the wall are its places: each context pixel, unprojected and seen by a target, must find
    # its own colour there.
    points = _world_points(made, "context", 1)
    K = view_fit.in_pixels(made["target_Ks"][0], 16, 24)
    camera = points @ made["target_viewmats"][0][:3, :3].T + made["target_viewmats"][0][:3, 3]
    pixels = (camera @ K.T)[..., :2] / camera[..., 2:]
    column, row = np.floor(pixels).astype(int).transpose(2, 0, 1)
    inside = (column >= 0) & (column < 24) & (row >= 0) & (row < 16)
    assert inside.mean() > 0.5
    found = made["target_images"][0][row[inside], column[inside]].astype(int)
    off = np.abs(found - made["context_images"][1][inside].astype(int)).max(-1)
    assert np.quantile(off, 0.9) < 8  # half a pixel of the wall's gradient
    # The map is the depth in the first camera's frame.
    first = made["context_viewmats"][0].astype(float)
    local = points @ first[:3, :3].T + first[:3, 3]
    np.testing.assert_allclose(made["pointmaps"][1], local, atol=1e-5)
    assert (made["pointmap_conf"] == 1).all()


def _world_points(made, side, number):
    K = view_fit.in_pixels(made[f"{side}_Ks"][number].astype(float), 16, 24)
    v, u = np.indices((16, 24)) + 0.5
    depth = made[f"{side}_depths"][number][..., None]
    local = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T * depth
    c2w = made[f"{side}_c2ws"][number].astype(float)
    return local @ c2w[:3, :3].T + c2w[:3, 3]


def test_bad_frames_depth_and_baselines_are_named():
    scene = scene_cases.WallScene()

    class Broken(scene_cases.WallScene):
        def view(self, frame):
            view = super().view(frame)
            depth = view.depth.copy()
            depth[3, 2] = np.nan
            return dataclasses.replace(view, depth=depth)

    pair = view_samplers.Sample(np.array([0, 5]), np.array([3]))
    with pytest.raises(ValueError, match=r"wall: frames \[0, 24, 3\] asked for, there are 24"):
        sample = view_samplers.Sample(np.array([0, 24]), np.array([3]))
        posed_examples.posed_example(scene, sample, SPEC, index=0)
    with pytest.raises(ValueError, match=r"wall: context frames \[2, 2\] have a baseline of 0"):
        sample = view_samplers.Sample(np.array([2, 2]), np.array([3]))
        posed_examples.posed_example(scene, sample, SPEC, index=0)
    Broken.viewmats = scene_cases.WallScene.viewmats
    with pytest.raises(
        ValueError, match="wall: frame . depth is nan at row 3, column 2|wall: frame"
    ):
        posed_examples.posed_example(Broken(), pair, SPEC, index=0)
    for bad, message in (
        (dict(near=0), "0 < near < far"),
        (dict(near=20), "0 < near < far"),
        (dict(fit="stretch"), "PosedSpec.fit: unknown 'stretch'"),
        (dict(height=0), "size of 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SPEC, **bad)


class _Still(scene_cases.WallScene):
    """Cameras that stand still but for the last one."""

    @property
    def viewmats(self):
        found = super().viewmats.copy()
        found[:-1] = found[0]
        return found


def _draw(scene, step, rng):
    return view_draws.bounded(scene, step, rng, gaps=GAPS, num_targets=3)


def test_draws_are_repeated_until_cameras_stand_apart():
    sample = view_draws.apart(
        _Still(num_frames=5), _draw, 0, np.random.default_rng(0)
    )  # the last frame is among two of three pairs of a gap of 3
    assert 4 in sample.context
    with pytest.raises(ValueError, match="have a baseline of 0"):
        view_draws.apart(_Still(num_frames=400), _draw, 0, np.random.default_rng(0))


def _training(draw=_draw, flip=True, count=5, **options):
    spec = dataclasses.replace(SPEC, flip=flip, depths=False)
    walls = [scene_cases.WallScene(f"wall {i}", num_frames=24) for i in range(count)]
    return posed_examples.TrainExamples(walls, spec, draw, seed=3, **options)


def test_the_step_of_an_example_is_its_place_in_the_sequence():
    batches = loader.train_iterator(_training(), seed=1, global_batch=4, num_threads=0)
    made = [next(batches) for _ in range(13)]
    gaps = [b["context_frames"][:, 1] - b["context_frames"][:, 0] for b in made]
    for step, gap in enumerate(gaps):
        assert (gap == GAPS.at(step)[0]).all()
    order = np.concatenate([b["index"] for b in made])[:50].reshape(10, 5)
    assert (np.sort(order, axis=1) == np.arange(5)).all()  # each epoch has every scene once
    assert len({tuple(row) for row in order.tolist()}) > 3
    flips = np.concatenate([b["flipped"] for b in made])
    assert 10 < flips.sum() < 42
    batches.close()


def test_processes_share_batches_and_runs_go_on():
    def run(processes, start, steps):
        made = []
        for p in range(processes):
            with loader.train_iterator(
                _training(), seed=1, global_batch=4, process_index=p, process_count=processes,
                num_threads=2,
            ) as batches:  # fmt: skip
                batches.set_state({"global_next_index": 4 * start})
                made.append([next(batches) for _ in range(steps)])
        return [
            {k: np.concatenate([part[s][k] for part in made]) for k in made[0][0]}
            for s in range(steps)
        ]

    whole, halves = run(1, 0, 4), run(2, 2, 2)
    for one, two in zip(whole[2:], halves):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_buckets_give_a_batch_one_number_of_views():
    def draw(scene, step, rng):
        return view_draws.many(
            scene, step, rng, gaps=view_samplers.Gaps((12, 12), (20, 20)), views=(2, 4),
            num_targets=2, seed=7,
        )  # fmt: skip

    with loader.train_iterator(_training(draw), seed=1, global_batch=3, num_threads=0) as batches:
        views = [next(batches)["context_images"].shape[1] for _ in range(12)]
    assert set(views) == {2, 3, 4}
    assert views == [view_samplers.views_at(step, 7, 2, 4) for step in range(12)]


def test_teachers_do_not_change_which_frames_are_drawn():
    plain, taught = _training(), _training(teacher=pointmaps.DepthTeacher())
    for place in range(6):
        one, two = plain[place], taught[place]
        assert set(two) - set(one) == {"pointmaps", "pointmap_conf"}
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_short_scenes_are_left_out():
    walls = [scene_cases.WallScene(f"w{n}", num_frames=n) for n in (4, 11, 30)]
    found = posed_examples.TrainExamples(walls, SPEC, _draw, seed=0, least_frames=GAPS.frames)
    assert len(found) == 2 and {int(found[i]["index"]) for i in range(2)} == {1, 2}
    with pytest.raises(ValueError, match=r"none of 3 has 40 frames \(the longest has 30\)"):
        posed_examples.TrainExamples(walls, SPEC, _draw, seed=0, least_frames=40)


def test_evaluation_draws_depend_on_scenes_alone():
    walls = [scene_cases.WallScene(f"wall {i}") for i in range(3)]
    samples = posed_examples.fixed_samples(walls, _draw, seed=0, draws=2)
    again = posed_examples.fixed_samples(walls[1:], _draw, seed=0, draws=2)
    assert [place for place, _ in samples] == [0, 0, 1, 1, 2, 2]
    for (_, one), (_, two) in zip(samples[2:], again):
        np.testing.assert_array_equal(one.context, two.context)
        np.testing.assert_array_equal(one.target, two.target)
    assert all(s.context[1] - s.context[0] == 10 for _, s in samples)  # the schedule's end
    made = posed_examples.eval_examples(walls, SPEC, samples)
    assert len(made) == 6
    assert [int(made[i]["index"]) for i in range(6)] == list(range(6))
    assert not any(made[i]["flipped"] for i in range(6))
    mixed = [*samples, (0, view_samplers.Sample(np.array([0, 5]), np.array([1])))]
    with pytest.raises(ValueError, match=r"expected one number.*\(2, 1\), \(2, 3\)"):
        posed_examples.eval_examples(walls, SPEC, mixed)


def test_extrapolation_is_drawn_alike_for_every_run():
    walls = [scene_cases.WallScene(f"wall {i}", num_frames=12) for i in range(4)]

    def draw(scene, step, rng):
        return view_draws.extrapolation(scene, step, rng, gap=5, reach=3)

    samples = posed_examples.fixed_samples(walls, draw, seed=1)
    for _, s in samples:
        assert ((s.target < s.context[0]) | (s.target > s.context[1])).all() and len(s.target) == 6
    made = posed_examples.eval_examples(walls, SPEC, samples)[3]
    assert made["target_images"].shape == (6, 16, 24, 3)


def test_the_recorded_room_gives_pairs_with_sensor_depth(gsjax_data):
    from gsjax.data import hololens_room

    room = hololens_room.HololensRoom(gsjax_data / "scenes" / "hololens_room", "train")
    spec = posed_examples.PosedSpec(64, 64, 0.3, 8, depths=True)
    found = posed_examples.TrainExamples(
        scenes.Kept([room]), spec, view_draws.paired, seed=0,
        teacher=pointmaps.DepthTeacher(),
    )  # fmt: skip
    for place in range(3):
        made = found[place]
        known = made["pointmap_conf"] > 0
        assert 0.2 < known.mean() < 1 and (made["pointmaps"][~known] == 0).all()
        # The two sensors agree: points of the second view, seen from the first, lie near its surface.
        points = made["pointmaps"][1][known[1]].astype(float)
        pixels = points @ view_fit.in_pixels(made["context_Ks"][0], 64, 64).T
        column, row = np.floor(pixels[:, :2] / pixels[:, 2:]).astype(int).T
        inside = (column >= 0) & (column < 64) & (row >= 0) & (row < 64) & (points[:, 2] > 0)
        depth = made["context_depths"][0][row[inside], column[inside]]
        both = depth > 0
        assert np.median(np.abs(depth - points[inside, 2])[both]) < 0.06
