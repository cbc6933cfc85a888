"""Records of cross-modal training: samples, the filter by opacity, the columns that networks read."""

import numpy as np
import pytest

from gsjax.data import paired


def _brute_force(points, count, start):
    """The definition, one distance at a time."""
    chosen = [start]
    while len(chosen) < count:
        gaps = []
        for p in points:
            gaps.append(min(sum((a - b) ** 2 for a, b in zip(p, points[c])) for c in chosen))
        chosen.append(gaps.index(max(gaps)))
    return chosen


@pytest.mark.parametrize("start", [0, 7, 59])
def test_farthest_points_are_those_of_the_definition(start):
    # Integers: sums are exact, and equal distances, of which the first counts, are many.
    points = np.random.default_rng(start).integers(-4, 5, (60, 3))
    expected = _brute_force(points.tolist(), 40, start)
    found = paired.farthest_points(points, 40, start)
    assert found.dtype == np.int32 and found.tolist() == expected


def test_too_few_points_repeat_the_first():
    points = np.array([[0, 0, 0], [1, 0, 0], [5, 0, 0], [1, 0, 0]])
    assert paired.farthest_points(points, 6, 1).tolist() == [1, 2, 0, 0, 0, 0]
    assert paired.farthest_points(points, 6, 1).tolist() == _brute_force(points.tolist(), 6, 1)


def test_farthest_points_refuse_what_is_no_point_set():
    with pytest.raises(ValueError, match="found shape"):
        paired.farthest_points(np.zeros((0, 3)), 4)
    with pytest.raises(ValueError, match="below 5"):
        paired.farthest_points(np.zeros((5, 3)), 4, 5)


def _object(count=200, category="sofa", **changes):
    rng = np.random.default_rng(3)
    gaussians = {
        "means": rng.normal(size=(count, 3)), "quats": rng.normal(size=(count, 4)),
        "log_scales": rng.uniform(-4, -3, (count, 3)),
        "logit_opacities": rng.normal(size=count), "sh": rng.normal(size=(count, 16, 3)),
        **changes,
    }  # fmt: skip
    about = {"uid": f"{category}/test/x", "name": category, "category": category, "split": "test"}
    gaussians = {k: np.asarray(v, np.float32) for k, v in gaussians.items()}
    return about, gaussians


def test_a_record_holds_the_opaque_gaussians_and_samples_of_them():
    logits = np.linspace(-2, 2, 200, dtype=np.float32)
    logits[10], logits[11] = 0.3, np.nextafter(np.float32(0.3), np.float32(1))
    about, gaussians = _object(logit_opacities=logits)
    found = paired.record(about, gaussians, num_points=32, sets=5)
    rows = [i for i in range(200) if gaussians["logit_opacities"][i] > np.float32(0.3)]
    assert 10 not in rows and 11 in rows
    assert len(found["xyz"]) == len(rows) and found["category"] == 7
    np.testing.assert_array_equal(found["xyz"], gaussians["means"][rows])
    shapes = {"log_scale": (3,), "quat": (4,), "opacity_logit": (), "sh": (16, 3)}
    sources = ("log_scales", "quats", "logit_opacities", "sh")
    for (name, shape), source in zip(shapes.items(), sources, strict=True):
        assert found[name].shape == (len(rows), *shape) and found[name].dtype == np.float16
        np.testing.assert_array_equal(found[name], gaussians[source][rows].astype(np.float16))
    assert found["samples"].shape == (5, 32) and found["samples"].dtype == np.int32
    starts = found["samples"][:, 0]
    assert len(set(starts.tolist())) == 5
    centre = found["xyz"].mean(0)
    assert starts[0] == np.linalg.norm(found["xyz"] - centre, axis=-1).argmax()
    for row in found["samples"]:
        assert row.tolist() == _brute_force(found["xyz"].tolist(), 32, int(row[0]))


def test_samples_depend_on_the_object_and_nothing_else():
    points = np.random.default_rng(0).normal(size=(50, 3))
    a, again, b = (paired.point_sets(points, uid, 8, 4) for uid in ("a", "a", "b"))
    np.testing.assert_array_equal(a, again)
    np.testing.assert_array_equal(a[0], b[0])  # the one to evaluate on
    assert (a[1:, 0] != b[1:, 0]).any()


def test_few_gaussians_still_give_full_samples():
    found = paired.record(*_object(3, logit_opacities=np.ones(3)), num_points=16, sets=8)
    assert found["samples"].shape == (8, 16) and set(found["samples"].ravel()) == {0, 1, 2}


def test_a_record_refuses_what_cannot_become_one():
    with pytest.raises(ValueError, match="unknown category 'lamp'"):
        paired.record(*_object(category="lamp"))
    with pytest.raises(ValueError, match="degree 3"):
        paired.record(*_object(sh=np.zeros((200, 1, 3))))
    with pytest.raises(ValueError, match="none of 200"):
        paired.record(*_object(logit_opacities=np.full(200, -1.0)))


# Columns ------------------------------------------------------------------------------------------


def _record(count=30):
    return paired.record(*_object(count, logit_opacities=np.ones(count)), num_points=8, sets=2)


def test_positions_are_centred_and_of_radius_one():
    record, rows = _record(), np.array([3, 1, 8, 20])
    found = paired.columns(record, rows)
    assert found.shape == (4, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1).max(), 1, rtol=1e-6)
    moved = dict(record, xyz=record["xyz"] * 5 + 3)
    np.testing.assert_allclose(paired.columns(moved, rows), found, atol=1e-5)


@pytest.mark.parametrize("name, width", [("rest44", 44), ("rest45", 45), ("dc_rest48", 48)])
def test_coefficients_lie_as_files_store_them(name, width):
    """PLY files hold f_rest by channel: 15 of red, 15 of green, 15 of blue."""
    record, rows = _record(), np.arange(6)
    found = paired.columns(record, rows, feature_set="sh", sh_columns=name, activate=False)
    assert found.shape[1] == 3 + paired.num_channels("sh", name) == 3 + width + 7
    sh = record["sh"].astype(np.float32)
    start = 3 + (3 if name == "dc_rest48" else 0)
    if name == "dc_rest48":
        np.testing.assert_array_equal(found[:, 3:6], sh[:6, 0])
    np.testing.assert_array_equal(found[:, start], sh[:6, 1, 0])
    np.testing.assert_array_equal(found[:, start + 15], sh[:6, 1, 1])
    np.testing.assert_array_equal(found[:, start + 43], sh[:6, 14, 2])
    np.testing.assert_array_equal(found[:, -7:-4], record["log_scale"][:6].astype(np.float32))
    np.testing.assert_array_equal(found[:, -4:], record["quat"][:6].astype(np.float32))


def test_activated_scales_shrink_with_the_object_and_quaternions_are_one_of_two():
    record, rows = _record(), np.arange(10)
    plain = paired.columns(record, rows, feature_set="scale_rotation")
    grown = dict(
        record, xyz=record["xyz"] * 4, log_scale=record["log_scale"].astype(float) + np.log(4.0)
    )
    np.testing.assert_allclose(
        paired.columns(grown, rows, feature_set="scale_rotation"), plain, rtol=1e-5, atol=1e-6
    )
    other = dict(record, quat=-2 * record["quat"])
    np.testing.assert_allclose(
        paired.columns(other, rows, feature_set="scale_rotation"), plain, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(plain[:, 6:], axis=-1), 1, rtol=1e-5)
    assert (plain[:, 6] >= 0).all() and (plain[:, 3:6] > 0).all()


def test_unknown_sets_of_columns_are_named():
    with pytest.raises(ValueError, match="known: positions, scale_rotation, sh"):
        paired.columns(_record(), np.arange(3), feature_set="opacity")
    with pytest.raises(ValueError, match="known: rest44, rest45, dc_rest48"):
        paired.num_channels("sh", "all")
