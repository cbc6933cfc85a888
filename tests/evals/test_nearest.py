"""The Chamfer baseline on shapes that it must tell apart."""

import numpy as np
import pytest

from gsjax.evals import episodes, nearest


def _sphere(rng, count):
    x = rng.normal(size=(count, 3))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_spheres_and_rods_are_told_apart_whatever_their_size_and_place():
    rng = np.random.default_rng(0)
    rod = np.array([0.05, 1.0, 0.05])
    train = np.stack([_sphere(rng, 64), _sphere(rng, 64) * rod])
    test = np.stack([3 * _sphere(rng, 64) * rod + 5, 0.1 * _sphere(rng, 64) - 2])
    np.testing.assert_array_equal(nearest.nearest_labels(train, np.array([7, 9]), test), [9, 7])


def test_a_missing_label_is_an_error():
    with pytest.raises(ValueError, match="train_labels: found 1 for 2"):
        nearest.nearest_labels(np.zeros((2, 4, 3)), np.zeros(1, int), np.zeros((1, 4, 3)))


def test_few_shot_episodes_are_answered_by_the_nearest_labelled_object():
    rng = np.random.default_rng(1)
    rod = np.array([0.05, 1.0, 0.05])
    points = {f"ball{i}": _sphere(rng, 64) for i in range(3)}
    points |= {f"rod{i}": _sphere(rng, 64) * rod for i in range(2)} | {"rod2": _sphere(rng, 64)}
    names = ("ball", "rod")
    trial = episodes.Trial(
        names, {n: (f"{n}0",) for n in names}, {n: (f"{n}1", f"{n}2") for n in names}
    )
    trials = episodes.Episodes("toy", (2,), (1,), names, (trial, trial))
    found = nearest.few_shot(trials, points, (2,), (1,))  # 'rod2' is a ball
    np.testing.assert_array_equal(found["nearest/2w1s"], [75.0, 75.0])
    del points["ball2"]
    with pytest.raises(ValueError, match="1 of 6 objects .* missing, such as 'ball2'"):
        nearest.few_shot(trials, points, (2,), (1,))


def test_points_take_the_label_of_the_nearest_point_of_the_other_object():
    rng = np.random.default_rng(3)
    known = _sphere(rng, 256)[None]
    labels = (known[..., 1] > 0).astype(int)  # upper and lower half
    asked = 4 * _sphere(rng, 200)[None] + [1.0, 2.0, 3.0]  # another place and size
    found = nearest.labels_of_points(known, labels, asked)
    height = asked[0, :, 1] - asked[0, :, 1].mean()
    clear = np.abs(height) > 1.0
    assert clear.sum() > 100
    np.testing.assert_array_equal(found[0][clear], (height > 0).astype(int)[clear])
