"""IoU over the parts that an object may have, against a slow loop and by hand; and its averages."""

import numpy as np
import pytest

from gsjax.evals import features
from gsjax.evals import segmentation as evaluator
from gsjax.metrics import segmentation
from gsjax.systems import base


def _slow(predicted, labels, classes):
    scores = []
    for c in classes:
        both = sum(p == c and t == c for p, t in zip(predicted, labels) if t >= 0)
        either = sum(p == c or t == c for p, t in zip(predicted, labels) if t >= 0)
        scores.append(1.0 if either == 0 else both / either)
    return sum(scores) / len(scores)


def test_absent_parts_count_as_found_and_strangers_as_misses():
    labels = np.asarray([4, 4, 4, 5, -1])
    # Part 4: 2 of 3; part 5: 1 of 1; part 6 neither there nor said: 1. Class 9 is no part of it.
    found = segmentation.object_iou(np.asarray([4, 4, 9, 5, 6]), labels, (4, 5, 6))
    assert found == pytest.approx((2 / 3 + 1 + 1) / 3)
    # A part that is said but not there counts as 0.
    found = segmentation.object_iou(np.asarray([4, 4, 6, 5, 6]), labels, (4, 5, 6))
    assert found == pytest.approx((2 / 3 + 1 + 0) / 3)
    with pytest.raises(ValueError, match=r"labels: expected \[4, 6\], found \[5\]"):
        segmentation.object_iou(labels, labels, (4, 6))


def test_part_iou_is_the_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.choice([-1, 2, 3, 4, 5], 40)
        predicted = rng.choice([1, 2, 3, 4, 5, 6], 40)
        found = segmentation.object_iou(predicted, labels, (2, 3, 4, 5, 7))
        assert found == pytest.approx(_slow(predicted, labels, (2, 3, 4, 5, 7)))


@pytest.mark.parametrize("limited", [True, False])
def test_categories_are_averaged_after_objects(monkeypatch, limited):
    found = dict(
        predicted=np.asarray([[1, 1], [1, 2], [3, 3]]),
        label=np.asarray([[1, 1], [1, 1], [3, 3]]),
        category=np.asarray([0, 0, 1]),
        index=np.arange(3),
    )
    monkeypatch.setattr(features, "collect", lambda *args, **options: found)
    info = dict(class_names=["", "a 0", "a 1", "b 0", "b 1"], categories=["a", "b"])
    if limited:
        info["category_classes"] = [[1, 2], [3, 4]]
    system = base.System("", {}, None, None, dict(labels=lambda *a: None), None, None, info=info)
    result = evaluator.Evaluator(system, dict(bootstrap=0)).run(None, None)
    # Object 1: part 1 has 1 of 2, part 2 is said but not there: 25 %. The others are right.
    assert result["instance_miou"] == pytest.approx((100 + 25 + 100) / 3)
    assert result["category_miou"] == pytest.approx((62.5 + 100) / 2)
    assert ("category_miou/a" in result) == limited
    if limited:
        assert result["category_miou/a"] == pytest.approx(62.5)
        assert result["category_miou/b"] == pytest.approx(100)
