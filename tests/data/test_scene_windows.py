"""Windows for feed-forward models: targets among the context views, never one of them."""

import numpy as np
import pytest

from gsjax.data import scene_windows
from tests.data.scene_cases import WallScene

SPEC = scene_windows.WindowSpec(contexts=2, targets=3, gap=(4, 8), height=10, width=16)


def test_targets_lie_between_the_context_views_and_are_none_of_them():
    gaps = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        context, targets = scene_windows.draw_window(WallScene(), SPEC, rng)
        gaps.add(int(context[1] - context[0]))
        assert context[0] < targets.min() and targets.max() < context[1]
        assert len(set(targets)) == 3 and (np.diff(targets) > 0).all()
    assert gaps == {4, 5, 6, 7, 8}


def test_further_context_views_are_the_farthest_cameras():
    spec = scene_windows.WindowSpec(contexts=3, targets=3, gap=(8, 8))
    context, targets = scene_windows.draw_window(WallScene(), spec, np.random.default_rng(0))
    # Cameras are evenly spaced on a line: the third is the middle one.
    np.testing.assert_array_equal(np.diff(context), [4, 4])
    assert not set(context) & set(targets)


def test_short_scenes_use_what_they_have():
    context, targets = scene_windows.draw_window(
        WallScene(num_frames=3), SPEC, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(context, [0, 2])
    np.testing.assert_array_equal(targets, [1, 1, 1])
    with pytest.raises(ValueError, match="2 frames are too few for 2 context views"):
        scene_windows.draw_window(WallScene(num_frames=2), SPEC, np.random.default_rng(0))


def test_known_pairs_are_used():
    # Frames see the same things where they are equal modulo 6.
    def near(frame):
        return np.array([i for i in range(frame % 6, 24, 6) if i != frame])

    for seed in range(20):
        scene = WallScene(near=near)
        context, targets = scene_windows.draw_window(scene, SPEC, np.random.default_rng(seed))
        assert len({*(context % 6), *(targets % 6)}) == 1
        assert not set(context) & set(targets)
    nothing = WallScene(near=lambda frame: np.zeros(0, int))
    context, _ = scene_windows.draw_window(nothing, SPEC, np.random.default_rng(0))
    assert 4 <= context[1] - context[0] <= 8


def test_examples_are_repeatable_and_bound_their_depth():
    many = [WallScene("short", num_frames=2), WallScene("a"), WallScene("b")]
    train = scene_windows.window_examples(many, SPEC, seed=0, train=True).repeat()
    held = scene_windows.window_examples(many, SPEC, seed=0, train=False).repeat()
    assert [int(held[i]["index"]) for i in range(2)] == [1, 2]
    np.testing.assert_array_equal(held[0]["frames"], held[2]["frames"])
    assert any(not np.array_equal(train[0]["frames"], train[i]["frames"]) for i in (2, 4, 6))
    example = train[1]
    shapes = {name: (np.shape(v), np.asarray(v).dtype.name) for name, v in example.items()}
    assert shapes == {
        "index": ((), "int32"), "valid": ((), "bool"), "images": ((5, 10, 16, 3), "uint8"),
        "depths": ((5, 10, 16), "float32"), "viewmats": ((5, 4, 4), "float32"),
        "Ks": ((5, 3, 3), "float32"), "frames": ((5,), "int32"), "context": ((5,), "bool"),
        "near": ((), "float32"), "far": ((), "float32"),
    }  # fmt: skip
    assert example["near"] == pytest.approx(3.6) and example["far"] == pytest.approx(4.4)
    assert example["context"].tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(example["Ks"][0, 0], [15, 0, 7.1])


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="contexts >= 2"):
        scene_windows.WindowSpec(contexts=1)
    with pytest.raises(ValueError, match="gap"):
        scene_windows.WindowSpec(gap=(9, 8))
