"""Examples of points and posed pictures: disjoint views, one transform for points and cameras."""

import numpy as np
import pytest

from gsjax.data import view_examples


def _record(count=30, views=6, seed=0):
    rng = np.random.default_rng(seed)
    return dict(
        uid=f"object {seed}",
        index=seed,
        category=2,
        captions=["a thing"],
        means=(rng.uniform(-3, 1, (count, 3)) + 10).astype(np.float32),
        sh0=rng.normal(size=(count, 3)).astype(np.float16),
        parts=rng.integers(0, 3, count).astype(np.uint8),
        views=np.arange(views)[:, None, None, None] * np.ones((1, 4, 4, 4), np.uint8),
        viewmats=np.stack([np.eye(4) + 0.01 * i for i in range(views)]).astype(np.float32),
        Ks=np.broadcast_to(np.eye(3), (views, 3, 3)).astype(np.float32),
    )


def _make(records, **options):
    settings = dict(num_points=20, references=1, targets=3, seed=0, train=True) | options
    return view_examples.view_examples(records, **settings)


def _shown(example) -> list[int]:
    return example["images"][:, 0, 0, 0].tolist()


def test_references_and_targets_are_different_views_and_change_every_epoch():
    dataset = _make([_record()]).repeat(8)
    drawn = [_shown(dataset[i]) for i in range(8)]
    assert all(len(set(views)) == 4 for views in drawn)
    assert len({tuple(views) for views in drawn}) > 4


def test_overlap_lets_the_reference_be_supervised():
    example = _make([_record(views=3)], overlap=True)[0]
    views = _shown(example)
    assert len(views) == 4 and views[0] == views[1]


def test_evaluation_is_fixed_and_spreads_its_targets():
    first = _make([_record()], train=False)[0]
    again = _make([_record()], train=False)[0]
    assert _shown(first) == [0, 1, 2, 4]
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


def test_points_and_cameras_move_by_one_transform():
    record = _record()
    example = _make([record], train=False, num_points=30, subset="prefix")[0]
    assert np.abs(np.linalg.norm(example["xyz"], axis=-1).max() - 0.5) < 1e-5
    box = example["xyz"].max(0) + example["xyz"].min(0)
    np.testing.assert_allclose(box, 0.0, atol=1e-5)
    old, new = record["viewmats"][0].astype(np.float64), example["viewmats"][0]
    before = record["means"] @ old[:3, :3].T + old[:3, 3]
    after = example["xyz"] @ new[:3, :3].T + new[:3, 3]
    ratio = after / before
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)  # the same pixels


def test_short_objects_are_padded():
    example = _make([_record(count=12)])[0]
    assert example["mask"].sum() == 12 and example["xyz"].shape == (20, 3)
    assert (example["xyz"][~example["mask"]] == 0).all()
    assert (example["parts"][~example["mask"]] == 0).all()


def test_colours_are_those_of_the_points():
    record = _record()
    example = _make([record], train=False, num_points=30, subset="prefix")[0]
    expected = np.clip(record["sh0"].astype(np.float32) * 0.28209479 + 0.5, 0, 1)
    np.testing.assert_allclose(example["rgb"], expected, atol=1e-6)


def test_strangers_see_another_objects_pictures_in_its_own_frame():
    records = [_record(seed=i) for i in range(4)]
    for i, record in enumerate(records):
        record["views"] = record["views"] + np.uint8(10 * i)
    own = _make(records, train=False)
    other = _make(records, train=False, strangers=0)
    shown = set()
    for i in range(4):
        np.testing.assert_array_equal(own[i]["xyz"], other[i]["xyz"])
        owner = int(other[i]["images"][0, 0, 0, 0]) // 10
        assert owner != i
        np.testing.assert_array_equal(other[i]["viewmats"], own[owner]["viewmats"])
        shown.add(owner)
    assert shown == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(targets=6),
            "7 different views are needed .1 reference, 6 supervised., the set has 6",
        ),
        (dict(targets=0), "targets=0"),
        (dict(num_points=0), "num_points=0"),
        (dict(subset="first"), "subset: expected 'random' or 'prefix', found 'first'"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _make([_record()], **options)[0]
