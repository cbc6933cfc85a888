"""Context and target frames: bounds, schedules, farthest points, extrapolation, index files."""

import json

import numpy as np
import pytest

from gsjax.data import view_index, view_samplers

GAPS = view_samplers.Gaps((2, 4), (6, 12), 100)


def _line(num_frames=40, places=None):
    """Cameras on a line along x, each turned by its own angle about y."""
    places = np.arange(num_frames) * 0.1 if places is None else np.asarray(places, float)
    viewmats = np.tile(np.eye(4), (len(places), 1, 1))
    angle = 0.02 * np.arange(len(places))
    viewmats[:, 0, 0] = viewmats[:, 2, 2] = np.cos(angle)
    viewmats[:, 0, 2], viewmats[:, 2, 0] = np.sin(angle), -np.sin(angle)
    viewmats[:, :3, 3] = -viewmats[:, :3, 0] * places[:, None]
    return viewmats


def _draws(sampler, count=300, **options):
    return [sampler(np.random.default_rng(i), **options) for i in range(count)]


def test_schedules_at_the_start_the_middle_and_the_end():
    assert GAPS.at(0) == (2, 4)
    assert GAPS.at(50) == (4, 8)
    assert GAPS.at(99) == (5, 11)
    assert GAPS.at(100) == GAPS.at(10**9) == (6, 12)
    assert GAPS.frames == 7
    falling = view_samplers.Gaps((10, 20), (5, 8), 10)  # released code would give (5, 8) at once
    assert [falling.at(step) for step in (0, 5, 10)] == [(10, 20), (8, 14), (5, 8)]
    assert falling.frames == 11
    assert view_samplers.Gaps((1, 1), (3, 4)).at(0) == (3, 4)
    assert view_samplers.DEPTHSPLAT.at(15_000) == (35, 90)
    assert view_samplers.MVSPLAT.at(0) == (25, 45)
    for bad in (((0, 2), (1, 2)), ((2, 1), (1, 2)), ((1, 2), (3, 2))):
        with pytest.raises(ValueError, match="least <= most"):
            view_samplers.Gaps(*bad)


@pytest.mark.parametrize("step", [0, 50, 100])
def test_bounded_pairs_keep_the_schedule_and_targets_lie_between(step):
    low, high = GAPS.at(step)
    drawn = _draws(lambda rng: view_samplers.bounded(_line(), step, rng, gaps=GAPS, num_targets=4))
    gaps = {int(s.context[1] - s.context[0]) for s in drawn}
    assert gaps == set(range(low, high + 1))
    lefts = {int(s.context[0]) for s in drawn}
    assert min(lefts) == 0 and max(lefts) > 30
    for s in drawn:
        assert len(s.target) == 4
        assert (s.target >= s.context[0]).all() and (s.target <= s.context[1]).all()
    assert any(len(set(s.target.tolist())) < 4 for s in drawn)  # with replacement
    assert any(s.target[0] == s.context[0] for s in drawn)


def test_bounded_cuts_gaps_to_the_video_and_keeps_margins():
    for s in _draws(
        lambda rng: view_samplers.bounded(_line(8), 100, rng, gaps=GAPS, num_targets=3, margin=3)
    ):
        assert s.context[1] <= 7 and 6 <= s.context[1] - s.context[0] <= 7
        assert (s.target >= s.context[0] + 3).all() and (s.target <= s.context[1] - 3).all()
    with pytest.raises(ValueError, match="6 frames are too few, 7 are needed"):
        view_samplers.bounded(_line(6), 100, np.random.default_rng(0), gaps=GAPS, num_targets=1)
    with pytest.raises(ValueError, match="num_targets"):
        view_samplers.bounded(_line(), 0, np.random.default_rng(0), gaps=GAPS, num_targets=0)


@pytest.mark.parametrize("views, gap", [(2, (4, 8)), (3, (6, 12)), (6, (12, 24))])
def test_many_views_share_an_interval_that_grows_with_them(views, gap):
    gaps = view_samplers.Gaps((1, 1), (12, 24), 1)
    drawn = _draws(
        lambda rng: view_samplers.bounded_many(
            _line(60), 1, rng, gaps=gaps, num_context=views, most_context=6, num_targets=4
        )
    )
    # On a line of even steps the farthest points of an interval hold both of its ends.
    spans = [int(s.context[-1] - s.context[0]) for s in drawn]
    assert min(spans) == gap[0] and max(spans) == gap[1]
    for s in drawn:
        assert len(set(s.context.tolist())) == views and (np.diff(s.context) > 0).all()
        assert (np.diff(s.target) > 0).all() and len(s.target) == 4
        assert s.target[0] >= s.context[0] and s.target[-1] <= s.context[-1]


def test_many_views_need_not_hold_the_ends_of_their_interval():
    # The camera goes to and fro: the farthest places are in the middle of the video.
    places = np.r_[np.linspace(1, 3, 10), np.linspace(3, -3, 10), np.linspace(-3, -1, 10)]
    gaps = view_samplers.Gaps((29, 29), (29, 29))
    s = view_samplers.bounded_many(
        _line(places=places), 0, np.random.default_rng(0), gaps=gaps, num_context=3,
        most_context=3, num_targets=30,
    )  # fmt: skip
    assert 0 not in s.context and 29 not in s.context
    np.testing.assert_array_equal(s.target, np.arange(30))  # of the original interval


def test_intervals_that_are_too_short_for_views_or_targets():
    gaps = view_samplers.Gaps((3, 3), (3, 3))
    rng = np.random.default_rng(0)
    s = view_samplers.bounded_many(
        _line(), 0, rng, gaps=gaps, num_context=2, most_context=6, num_targets=8
    )
    assert s.context[1] - s.context[0] == 1 and len(s.target) == 8
    assert np.bincount(s.target - s.context[0]).tolist() == [4, 4]  # each as often as possible
    s = view_samplers.bounded_many(
        _line(), 0, rng, gaps=gaps, num_context=6, most_context=6, num_targets=2
    )
    assert len(set(s.context.tolist())) == 6
    s = view_samplers.bounded_many(
        _line(), 0, rng, gaps=gaps, num_context=2, most_context=2, num_targets=8, reach=4
    )
    assert s.target.min() < s.context[0] or s.target.max() > s.context[1]
    with pytest.raises(ValueError, match="num_context: expected 2 to 6"):
        view_samplers.bounded_many(
            _line(), 0, rng, gaps=gaps, num_context=7, most_context=6, num_targets=1
        )


def test_farthest_points_on_a_line():
    line = np.zeros((9, 3))
    line[:, 0] = np.arange(9)
    assert view_samplers.farthest_points(line, 5).tolist() == [0, 8, 4, 2, 6]
    line[:5, 0] = [0, 1, 2, 3, 10]
    assert view_samplers.farthest_points(line[:5], 3).tolist() == [4, 0, 3]
    same = np.zeros((4, 3))  # cameras that stand still: each frame once all the same
    assert sorted(view_samplers.farthest_points(same, 4).tolist()) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="expected 1 to 4"):
        view_samplers.farthest_points(same, 5)


def test_farthest_points_see_camera_centres_not_translations():
    np.testing.assert_allclose(
        view_samplers.camera_centres(_line(5)), [[0.1 * i, 0, 0] for i in range(5)], atol=1e-12
    )


def test_extrapolated_targets_lie_outside_on_both_sides():
    drawn = _draws(lambda rng: view_samplers.extrapolation(_line(), rng, gap=10, reach=5))
    assert {int(s.context[0]) for s in drawn} == set(range(5, 25))
    for s in drawn:
        left, right = s.context
        assert right - left == 10
        np.testing.assert_array_equal(s.target, np.r_[left - 5 : left, right + 1 : right + 6])
    some = view_samplers.extrapolation(
        _line(), np.random.default_rng(0), gap=10, reach=5, num_targets=4, num_context=3
    )
    assert (some.target < some.context[0]).sum() == (some.target > some.context[-1]).sum() == 2
    assert some.context[1] - some.context[0] == 5
    with pytest.raises(ValueError, match="20 frames are too few, 21 are needed"):
        view_samplers.extrapolation(_line(20), np.random.default_rng(0), gap=10, reach=5)
    with pytest.raises(ValueError, match="reach"):
        view_samplers.extrapolation(_line(), np.random.default_rng(0), gap=10, reach=0)


def test_pairs_of_a_recording_without_order():
    near = {0: [5], 5: [0, 2, 7], 2: [5, 7], 7: [5, 2], 1: [], 3: [], 4: [6], 6: [4]}
    rng = np.random.default_rng(0)
    for _ in range(50):
        s = view_samplers.paired(near.get, 8, rng, num_context=2, num_targets=1)
        assert s.context[1] in near[s.context[0]] and s.target[0] not in s.context
        assert any(s.target[0] in near[frame] for frame in s.context)
        if set(s.context.tolist()) == {5, 2}:
            assert s.target[0] == 7  # both see it; 0 is seen by one
    with pytest.raises(ValueError, match="ask for fewer views"):
        view_samplers.paired(near.get, 8, rng, num_context=2, num_targets=3)


def test_views_of_a_step_depend_on_the_step_alone():
    drawn = [view_samplers.views_at(step, 3, 2, 6) for step in range(200)]
    assert set(drawn) == {2, 3, 4, 5, 6}
    assert drawn == [view_samplers.views_at(step, 3, 2, 6) for step in range(200)]
    assert drawn != [view_samplers.views_at(step, 4, 2, 6) for step in range(200)]
    with pytest.raises(ValueError, match="least <= most"):
        view_samplers.views_at(0, 0, 3, 2)


def test_cameras_that_coincide_are_refused():
    viewmats = _line(places=[0, 0, 0.5])
    with pytest.raises(ValueError, match=r"video: context frames \[0, 1\] have a baseline of 0"):
        view_samplers.check_baseline(viewmats, np.array([0, 1]), "video")
    view_samplers.check_baseline(viewmats, np.array([0, 1, 2]), "video")


def test_targets_between_given_views():
    drawn = view_samplers.targets_between(np.array([9, 3]), 7, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, np.arange(3, 10))


def test_index_files_skip_null_and_name_variants(tmp_path):
    path = tmp_path / "index.json"
    entries = {"b": {"context": [3, 9], "target": [4, 5]}, "a": None}
    path.write_text(json.dumps({**entries, "scan1_03": {"context": [0, 1], "target": [2]}}))
    found = view_index.read(path)
    assert list(found) == ["b", "scan1_03"]
    np.testing.assert_array_equal(found["b"].target, [4, 5])
    placed = view_index.located(found, {"b": 10, "scan1": 3, "other": 1})
    assert [(key, scene) for key, scene, _ in placed] == [("b", "b"), ("scan1_03", "scan1")]
    with pytest.raises(ValueError, match="names frame 9, the data has 9"):
        view_index.located(found, {"b": 9, "scan1": 3})
    with pytest.raises(
        ValueError, match="1 of 2 scenes are not in the data, the first is 'scan1_03'"
    ):
        view_index.located(found, {"b": 10})
    assert len(view_index.located(found, {"b": 10}, partial=True)) == 1
    with pytest.raises(ValueError, match="2 of 2 scenes"):
        view_index.located(found, {"c": 10}, partial=True)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not readable JSON"),
        ("[]", "expected {scene"),
        ('{"a": null}', "none of its 1 scenes"),
        ('{"a": {"context": [0], "target": []}}', "target: expected a list"),
        ('{"a": {"context": [-1], "target": [0]}}', "context: expected a list"),
        ('{"a": {"context": [0.5], "target": [0]}}', "context: expected a list"),
        ('{"a": {"context": [1, 1], "target": [0]}}', "a frame occurs twice"),
        ('{"a": [1]}', "context: expected a list"),
    ],
)
def test_other_index_files_are_refused(tmp_path, text, message):
    path = tmp_path / "index.json"
    with pytest.raises(ValueError, match="there is no such evaluation index"):
        view_index.read(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        view_index.read(path)
