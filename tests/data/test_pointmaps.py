"""Pointmaps: exact from depth, right under mirrors, spoilt as much as asked; the cache gives them back."""

import dataclasses
import pickle

import numpy as np
import pytest

from gsjax.data import (
    pointmap_cache,
    pointmaps,
    posed_examples,
    view_draws,
    view_fit,
    view_samplers,
)
from tests.data import scene_cases


def _views(frames=(2, 15), height=12, width=20):
    scene = scene_cases.WallScene(height=height, width=width)
    return [scene.view(frame) for frame in frames]


def _cloud(views=2, height=24, width=32, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(views, height, width, 3)) * [3, 2, 1] + [5, 0, 9]
    mask = rng.random((views, height, width)) < 0.8
    return np.where(mask[..., None], points, 0).astype(np.float32), mask


def test_points_of_a_wall_lie_in_the_first_cameras_frame():
    views = _views()
    points, mask = pointmaps.from_views(views)
    assert points.shape == (2, 12, 20, 3) and mask.all()
    np.testing.assert_allclose(points[..., 2], 4.0, atol=1e-5)  # the wall faces both cameras
    v, u = np.indices((12, 20)) + 0.5
    K = views[0].K
    np.testing.assert_allclose(points[0, ..., 0], 4 * (u - K[0, 2]) / K[0, 0], atol=1e-5)
    np.testing.assert_allclose(points[0, ..., 1], 4 * (v - K[1, 2]) / K[1, 1], atol=1e-5)
    step = 13 * 3.0 / 23  # the second camera is that far to the right
    np.testing.assert_allclose(points[1] - points[0], np.tile([step, 0, 0], (12, 20, 1)), atol=1e-5)


def test_unknown_depth_has_no_point():
    views = _views()
    depth = views[1].depth.copy()
    depth[3, 4] = 0
    points, mask = pointmaps.from_views([views[0], dataclasses.replace(views[1], depth=depth)])
    assert not mask[1, 3, 4] and (points[1, 3, 4] == 0).all() and mask.sum() == mask.size - 1


def test_mirrored_maps_are_maps_of_mirrored_views():
    views = _views()
    points, mask = pointmaps.from_views(views)
    turned, _ = pointmaps.from_views([view_fit.mirrored(view) for view in views])
    found, conf = pointmaps.mirrored(points, mask)
    np.testing.assert_allclose(found, turned, atol=1e-5)
    assert np.abs(points[..., ::-1, :] - turned).max() > 1  # columns alone are not enough
    np.testing.assert_array_equal(conf, mask[..., ::-1])


def test_nearest_lookup_rounds_down():
    values = np.arange(2 * 7 * 9).reshape(2, 7, 9)
    found = pointmaps.resized(values, 8, 16)
    for i in range(8):
        for j in range(16):
            assert (found[:, i, j] == values[:, i * 7 // 8, j * 9 // 16]).all()
    # 252 rows for 256: four rows are doubled (PM-Loss's case).
    rows = pointmaps.resized(np.arange(252).reshape(1, 252, 1), 256, 1)[0, :, 0]
    assert (np.bincount(rows) == 2).sum() == 4 and (np.bincount(rows) == 1).sum() == 248


def test_sizes_of_clouds():
    points = np.array([[[[0, 0, 0], [2, 0, 0]], [[0, 4, 0], [9, 9, 9]]]], np.float32)
    mask = np.array([[[True, True], [False, False]]])
    centre, radius = pointmaps.size_of(points, mask)
    np.testing.assert_allclose(centre, [1, 0, 0])
    assert radius == 1
    centre, radius = pointmaps.size_of(points, np.zeros_like(mask))
    assert (centre == 0).all() and radius == 1
    assert pointmaps.size_of(points[:, :1, :1], mask[:, :1, :1])[1] == 1  # a single point


def _registered(source, target, mask):
    """Residuals [n, 3] of the best similarity from source to target (Umeyama, by SVD)."""
    x, y = source[mask].astype(float), target[mask].astype(float)
    mx, my = x.mean(0), y.mean(0)
    u, s, vt = np.linalg.svd((y - my).T @ (x - mx) / len(x))
    sign = np.diag([1, 1, np.linalg.det(u @ vt)])
    turn = u @ sign @ vt
    scale = np.trace(np.diag(s) @ sign) / ((x - mx) ** 2).sum(-1).mean()
    return y - my - scale * (x - mx) @ turn.T


def test_a_similarity_alone_can_be_undone_and_is_no_reflection():
    points, mask = _cloud()
    moved = pointmaps.spoil(points, mask, np.random.default_rng(1), pointmaps.Flaws())
    assert np.abs(moved[mask] - points[mask]).max() > 0.5
    assert np.abs(_registered(moved, points, mask)).max() < 1e-4
    assert (moved[~mask] == 0).all() and moved.dtype == np.float32
    mirror = pointmaps.mirrored(points, mask)[0][:, :, ::-1]
    assert np.abs(_registered(mirror, points, mask)).max() > 0.5  # a reflection cannot
    for seed in range(20):
        scale, turn, _ = pointmaps.random_similarity(np.random.default_rng(seed), 1.0)
        assert 1 / 3 <= scale <= 3 and np.linalg.det(turn) > 0.999
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("white", [0.01, 0.1])
def test_white_noise_has_the_size_asked_for(white):
    points, mask = _cloud(height=60, width=80)
    flaws = pointmaps.Flaws(similarity=False, white=white)
    off = pointmaps.spoil(points, mask, np.random.default_rng(0), flaws) - points
    radius = pointmaps.size_of(points, mask)[1]
    np.testing.assert_allclose(off[mask].std(0), white * radius, rtol=0.05)
    known = mask[:, :, 1:] & mask[:, :, :-1]
    products = (off[:, :, 1:] * off[:, :, :-1])[known]
    assert abs(products.mean()) < 0.05 * (white * radius) ** 2  # neighbours are independent


@pytest.mark.parametrize("per_view", [True, False])
def test_smooth_bends_are_smooth_and_of_the_size_asked_for(per_view):
    views = _views(height=48, width=64)
    points, mask = pointmaps.from_views(views)
    flaws = pointmaps.Flaws(similarity=False, smooth=0.05, cells=3, per_view=per_view)
    off = pointmaps.spoil(points, mask, np.random.default_rng(0), flaws).astype(float) - points
    radius = pointmaps.size_of(points, mask)[1]
    np.testing.assert_allclose(np.sqrt((off**2).mean()), 0.05 * radius, rtol=1e-3)
    steps = np.sqrt((np.diff(off, axis=2) ** 2).mean())
    assert steps < 0.2 * 0.05 * radius
    # Where both views see one place of the wall, space bends alike for both; pictures do not.
    shift = 13 * 3.0 / 23 * views[0].K[0, 0] / 4  # pixels
    columns = np.arange(int(shift) + 1, 64)
    one = off[0][:, columns]
    two = off[1][:, (columns - shift).astype(int)]
    same = np.sqrt(((one - two) ** 2).mean()) < 0.3 * 0.05 * radius
    assert same != per_view


def test_blur_smears_edges_and_keeps_planes():
    points = np.zeros((1, 20, 30, 3), np.float32)
    points[..., 2] = np.where(np.arange(30) < 15, 1.0, 5.0)
    points[..., 0] = np.arange(30)
    mask = np.ones((1, 20, 30), bool)
    mask[0, :, 20] = False
    flaws = pointmaps.Flaws(similarity=False, blur=1.0)
    made = pointmaps.spoil(points, mask, np.random.default_rng(0), flaws)
    np.testing.assert_allclose(made[0, :, 3:11, 2], 1, atol=0.01)
    assert 1.5 < made[0, 10, 14, 2] < 3 < made[0, 10, 15, 2] < 4.5  # between near and far
    np.testing.assert_allclose(made[0, :, 24:27, 2], 5, atol=0.01)
    np.testing.assert_allclose(made[0, :, 5:10, 0], points[0, :, 5:10, 0], atol=1e-3)


def test_flaws_are_drawn_apart_from_one_another():
    points, mask = _cloud()
    plain = pointmaps.Flaws(similarity=False)

    def off(**flaws):
        rng = np.random.default_rng(4)
        return pointmaps.spoil(points, mask, rng, dataclasses.replace(plain, **flaws)) - points

    np.testing.assert_allclose(off(), 0, atol=1e-5)
    both, one, two = off(smooth=0.1, white=0.1), off(smooth=0.1), off(white=0.1)
    np.testing.assert_allclose(both, one + two, atol=1e-4)
    for bad in (dict(white=-1), dict(smooth=float("nan")), dict(cells=0)):
        with pytest.raises(ValueError, match="Flaws"):
            pointmaps.Flaws(**bad)


def test_flawed_teachers_are_frozen():
    views = _views()
    teacher = pointmaps.FlawedTeacher(pointmaps.Flaws(white=0.1, smooth=0.1))
    one = teacher("wall", np.array([2, 15]), views, False)
    again = teacher("wall", np.array([2, 15]), views, False)
    np.testing.assert_array_equal(one[0], again[0])
    assert (teacher("hall", np.array([2, 15]), views, False)[0] != one[0]).any()
    turned = teacher("wall", np.array([2, 15]), views, True)
    np.testing.assert_array_equal(turned[0][:, :, ::-1] * [-1, 1, 1], one[0])


# The cache ------------------------------------------------------------------------------------------


def _identity(mode="tuple", height=24, width=32):
    return pointmap_cache.identity(
        mode=mode, teacher="vggt", revision="r1", height=height, width=width
    )


def test_maps_come_back_within_half_precision():
    points, mask = _cloud()
    conf = np.where(mask, np.random.default_rng(1).uniform(1, 40, mask.shape), 0)
    data = pointmap_cache.encode("s", [3, 1], points, conf)
    found = pointmap_cache.decode(data)
    assert found["scene"] == "s" and found["frames"].tolist() == [3, 1] and not found["flipped"]
    centre, radius = pointmaps.size_of(points, mask)
    reach = np.maximum(np.abs(points - centre), radius * 2.0**-4)
    assert (np.abs(found["points"] - points)[mask] <= 5e-4 * reach[mask]).all()
    np.testing.assert_allclose(found["conf"], conf, rtol=1e-3)
    assert (found["points"][~mask] == 0).all()
    # Two bytes a number: 8 a pixel, and a header.
    assert len(data) - 8 * mask.size < 700


def test_scale_does_not_matter_and_small_confidence_stays_known():
    points, mask = _cloud()
    for scale in (1e-4, 1e5):
        found = pointmap_cache.decode(
            pointmap_cache.encode("s", [0, 1], points * scale, mask * 1e-9)
        )
        np.testing.assert_allclose(found["points"][mask] / scale, points[mask], atol=0.01)
        assert (found["conf"] > 0).tolist() == mask.tolist()


def test_what_is_not_finite_is_refused_where_it_is_known():
    points, mask = _cloud()
    row = tuple(np.argwhere(mask)[0])
    points[row] = np.nan
    with pytest.raises(ValueError, match=r"'s', frames \[0, 1\]: NaN.*confidence 0"):
        pointmap_cache.encode("s", [0, 1], points, mask)
    mask[row] = False
    found = pointmap_cache.decode(pointmap_cache.encode("s", [0, 1], points, mask))
    assert np.isfinite(found["points"]).all()
    with pytest.raises(ValueError, match="negative"):
        pointmap_cache.encode("s", [0, 1], points, -np.ones_like(mask, float))
    with pytest.raises(ValueError, match=r"V = 3, found \[2, 24, 32, 3\]"):
        pointmap_cache.encode("s", [0, 1, 2], points, mask)


def _cache(folder, mode="tuple", sets=((3, 1), (1, 3)), flipped=(False,), size=(24, 32)):
    made = {}
    identity = _identity(mode, 24, 32)
    with pointmap_cache.Writer(folder, identity, shard_records=2) as writer:
        for number, frames in enumerate(sets):
            for turn in flipped:
                points, mask = _cloud(len(frames), *size, seed=10 * number + turn)
                writer.add("s", frames, points, mask.astype(float), flipped=turn)
                made[frames, turn] = points, mask
    pointmap_cache.seal(folder, identity)
    return made


def test_tuples_are_found_by_their_views_in_order(tmp_path):
    made = _cache(tmp_path / "c")
    teacher = pointmap_cache.CachedTeacher(tmp_path / "c", height=24, width=32)
    assert (teacher.name, teacher.revision, teacher.mode) == ("vggt", "r1", "tuple")
    assert teacher.sets("s") == [(3, 1), (1, 3)] and teacher.sets("other") == []
    assert teacher.sets("s", 3) == []
    for frames in ((3, 1), (1, 3)):
        points, conf = teacher("s", np.array(frames), None, False)
        np.testing.assert_allclose(points, made[frames, False][0], atol=0.02)
        np.testing.assert_array_equal(conf, made[frames, False][1])
        turned, _ = teacher("s", np.array(frames), None, True)
        np.testing.assert_array_equal(turned, points[:, :, ::-1] * np.float32([-1, 1, 1]))
    with pytest.raises(ValueError, match=r"s: the cache holds no tuple with frames \[1, 4\]"):
        teacher("s", np.array([1, 4]), None, False)
    again = pickle.loads(pickle.dumps(teacher))
    np.testing.assert_array_equal(
        again("s", np.array([3, 1]), None, False)[0], teacher("s", np.array([3, 1]), None, False)[0]
    )


def test_a_run_on_mirrored_pictures_serves_mirrored_examples(tmp_path):
    made = _cache(tmp_path / "both", flipped=(False, True))
    teacher = pointmap_cache.CachedTeacher(tmp_path / "both", height=24, width=32)
    for turn in (False, True):
        points, _ = teacher("s", np.array([3, 1]), None, turn)
        np.testing.assert_allclose(points, made[(3, 1), turn][0], atol=0.02)
    made = _cache(tmp_path / "one", flipped=(True,))
    teacher = pointmap_cache.CachedTeacher(tmp_path / "one", height=24, width=32)
    points, _ = teacher("s", np.array([3, 1]), None, False)
    expected = made[(3, 1), True][0][:, :, ::-1] * [-1, 1, 1]
    np.testing.assert_allclose(points, expected, atol=0.02)


def test_windows_serve_any_views_of_theirs_at_another_size(tmp_path):
    made = _cache(tmp_path / "w", "window", ((0, 1, 2, 3), (2, 3, 4, 5)), size=(21, 28))
    teacher = pointmap_cache.CachedTeacher(tmp_path / "w", height=24, width=32)
    points, conf = teacher("s", np.array([5, 2]), None, False)
    whole = made[(2, 3, 4, 5), False]
    np.testing.assert_allclose(points, pointmaps.resized(whole[0][[3, 0]], 24, 32), atol=0.02)
    np.testing.assert_array_equal(conf, pointmaps.resized(whole[1][[3, 0]], 24, 32))
    with pytest.raises(ValueError, match=r"no window with frames \[0, 5\]"):
        teacher("s", np.array([0, 5]), None, False)


def test_caches_of_other_pictures_or_sets_are_refused(tmp_path):
    _cache(tmp_path / "c")
    with pytest.raises(
        ValueError, match="holds maps of pictures with.*crop as the teacher saw them"
    ):
        pointmap_cache.CachedTeacher(tmp_path / "c", height=24, width=32, fit="crop")
    with pytest.raises(ValueError, match="holds maps of pictures"):
        pointmap_cache.CachedTeacher(tmp_path / "c", height=24, width=30)
    with pytest.raises(FileExistsError, match="finished set"):
        pointmap_cache.Writer(tmp_path / "c", _identity())
    with pytest.raises(ValueError, match="no finished set"):
        pointmap_cache.CachedTeacher(tmp_path / "none", height=24, width=32)
    with pytest.raises(ValueError, match="mode: unknown 'scene'"):
        _identity("scene")


def test_interrupted_writers_go_on(tmp_path):
    points, mask = _cloud()
    identity = _identity()
    with pytest.raises(RuntimeError, match="stop"):
        with pointmap_cache.Writer(tmp_path, identity, shard_records=2) as writer:
            for frame in range(3):
                writer.add("s", [frame, 9], points, mask)
            raise RuntimeError("stop")
    with pytest.raises(ValueError, match="no finished set"):
        pointmap_cache.CachedTeacher(tmp_path, height=24, width=32)
    with pytest.raises(ValueError, match="holds another set.*revision is 'r1', not 'r2'"):
        pointmap_cache.Writer(tmp_path, {**identity, "revision": "r2"})
    with pointmap_cache.Writer(tmp_path, identity, shard_records=2) as writer:
        assert [writer.pending("s", [f, 9]) for f in range(4)] == [False, False, True, True]
        with pytest.raises(ValueError, match="is in the set already"):
            writer.add("s", [1, 9], points, mask)
        writer.add("s", [2, 9], points, mask)
    pointmap_cache.seal(tmp_path, identity)
    teacher = pointmap_cache.CachedTeacher(tmp_path, height=24, width=32)
    assert teacher.sets("s") == [(0, 9), (1, 9), (2, 9)]


@pytest.mark.parametrize("mode", ["tuple", "window"])
def test_examples_draw_contexts_that_the_cache_holds(tmp_path, mode):
    sets = ((3, 9), (12, 15)) if mode == "tuple" else (tuple(range(8)), tuple(range(8, 16)))
    _cache(tmp_path / "c", mode, sets)
    teacher = pointmap_cache.CachedTeacher(tmp_path / "c", height=24, width=32)
    scene = scene_cases.WallScene("s", width=32, height=24)
    gaps = view_samplers.Gaps((2, 2), (4, 4))

    def inside(scene, step, rng):
        return view_draws.bounded(scene, step, rng, gaps=gaps, num_targets=3)

    def draw(scene, step, rng):
        return view_draws.cached(
            scene, step, rng, teacher=teacher, views=(2, 2), num_targets=3, seed=0, draw=inside
        )

    spec = posed_examples.PosedSpec(24, 32, 1, 10, flip=True)
    found = posed_examples.TrainExamples([scene], spec, draw, seed=0, teacher=teacher)
    contexts = set()
    for place in range(12):
        made = found[place]
        context = tuple(made["context_frames"].tolist())
        contexts.add(context)
        assert any(set(context) <= set(frames) for frames in sets)
        assert (made["target_frames"] >= min(context)).all()
        assert (made["target_frames"] <= max(context)).all()
        assert made["pointmaps"].shape == (2, 24, 32, 3)
    assert len(contexts) > 1
    scene.name = "other"
    with pytest.raises(ValueError, match="other: the cache of pointmaps holds none of it"):
        found[0]
