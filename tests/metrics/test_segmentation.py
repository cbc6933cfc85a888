"""Intersection over union by hand."""

import numpy as np
import pytest

from gsjax.metrics import segmentation


def test_iou_of_an_object_is_over_what_occurs():
    labels = np.asarray([1, 1, 2, 2, -1])
    assert segmentation.object_iou(np.asarray([1, 1, 2, 2, 3]), labels) == 1.0
    # class 1: 1 of 2; class 2: 1 of 2; class 3: said once, never true.
    found = segmentation.object_iou(np.asarray([1, 3, 2, 2, 3]), labels)
    assert found == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert np.isnan(segmentation.object_iou(np.asarray([1]), np.asarray([-1])))


def test_confusion_merges_and_averages_over_classes_that_occur():
    first = segmentation.Confusion.of(np.asarray([0, 1, 1]), np.asarray([0, 1, 0]), 3)
    second = segmentation.Confusion.of(np.asarray([[1, 2]]), np.asarray([[1, -1]]), 3)
    both = first + second
    assert both.counts.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    found = both.compute()
    assert found["accuracy"] == pytest.approx(75.0)
    assert found["macro_accuracy"] == pytest.approx(75.0)
    assert found["miou"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert np.isnan(both.iou()[2])
