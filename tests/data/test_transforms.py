"""Steps on arrays: fixed size with masks, axes, pruning, disc normals."""

import numpy as np
import pytest

from gsjax.data import discs, transforms


def _gaussians(count, seed=0):
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    return {
        "means": rng.normal(size=(count, 3)).astype(np.float32),
        "quats": (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        "log_scales": rng.normal(size=(count, 3)).astype(np.float32),
        "logit_opacities": rng.normal(size=count).astype(np.float32),
        "sh0": rng.normal(size=(count, 3)).astype(np.float32),
    }


def test_more_than_enough_is_a_subset_without_repeats():
    rows, mask = transforms.choose(50, 20, rng=np.random.default_rng(0), short="repeat")
    assert len(set(rows)) == 20 and mask.all()
    rows, _ = transforms.choose(50, 20, rng=None, short="repeat")
    assert list(rows) == list(range(20))


def test_too_few_are_repeated_after_each_was_taken_once():
    rows, mask = transforms.choose(7, 20, rng=np.random.default_rng(0), short="repeat")
    assert list(rows[:7]) == list(range(7)) and set(rows) <= set(range(7)) and mask.all()


def test_padding_rows_are_masked_finite_and_transparent():
    rows, mask = transforms.choose(7, 20, rng=None, short="pad")
    padded = transforms.take(_gaussians(7), rows, mask)
    assert padded["mask"].sum() == 7 and mask[:7].all()
    assert all(np.isfinite(padded[k]).all() for k in padded)
    assert np.all(padded["logit_opacities"][7:] < -10)
    np.testing.assert_array_equal(padded["quats"][7:], np.tile([1, 0, 0, 0], (13, 1)))


def test_empty_objects_and_unknown_options_are_refused():
    with pytest.raises(ValueError, match="no Gaussians"):
        transforms.choose(0, 4, rng=None, short="pad")
    with pytest.raises(ValueError, match="'repeat' or 'pad'"):
        transforms.choose(3, 4, rng=None, short="drop")
    with pytest.raises(ValueError, match="up_axis"):
        transforms.to_y_up(_gaussians(2), "w")


@pytest.mark.parametrize("axis", sorted(transforms.UP_ROTATIONS))
def test_up_axis_turns_positions_and_orientations_together(axis):
    g = _gaussians(5)
    turned = transforms.to_y_up(g, axis)
    up = np.zeros(3)
    up["xyz".index(axis[-1])] = -1.0 if axis.startswith("-") else 1.0
    rotation = transforms.rotmats(np.array(transforms.UP_ROTATIONS[axis]))
    np.testing.assert_allclose(rotation @ up, [0, 1, 0], atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(turned["means"], g["means"] @ rotation.T, atol=1e-5)
    # The covariance's axes turn along.
    np.testing.assert_allclose(
        transforms.rotmats(turned["quats"]), rotation @ transforms.rotmats(g["quats"]), atol=1e-5
    )


def test_z_up_follows_the_documented_map():
    g = _gaussians(1) | {"means": np.array([[1.0, 2.0, 3.0]], np.float32)}
    np.testing.assert_allclose(transforms.to_y_up(g, "z")["means"], [[1, 3, -2]], atol=1e-6)


def test_prune_keeps_at_least_the_most_opaque():
    g = _gaussians(6) | {"logit_opacities": np.array([-9, -8, 5, -7, 4, -9.0], np.float32)}
    assert len(transforms.prune(g, 0.5)["means"]) == 2
    np.testing.assert_array_equal(transforms.prune(g, 1.0)["means"], g["means"][2:3])


def test_normals_survive_the_way_through_quaternions():
    rng = np.random.default_rng(1)
    normals = rng.normal(size=(200, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.concatenate([normals, np.eye(3), -np.eye(3)])
    quats = discs.normals_to_quats(normals)
    np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(transforms.disc_normals(quats), normals, atol=1e-6)


def test_farthest_point_order_is_a_permutation_and_greedy():
    points = np.random.default_rng(2).normal(size=(60, 3)).astype(np.float32)
    order = discs.farthest_point_order(points)
    assert sorted(order) == list(range(60))
    for i in range(1, 60):  # from the definition
        left = np.setdiff1d(np.arange(60), order[:i])
        gaps = ((points[left, None] - points[None, order[:i]]) ** 2).sum(-1).min(1)
        assert order[i] == left[np.argmax(gaps)]
    short = discs.farthest_point_order(points, 10)
    assert list(short[:10]) == list(order[:10]) and sorted(short) == list(range(60))


def test_farthest_point_order_of_equal_points_repeats_none():
    assert sorted(discs.farthest_point_order(np.zeros((5, 3)))) == list(range(5))
