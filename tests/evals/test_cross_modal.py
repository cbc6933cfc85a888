"""The five passes on features that are known: perfect, blind, and drawn as the protocol says."""

import numpy as np
import pytest

from gsjax.evals import cross_modal, shape_recognition
from tests.evals.made_up_pairs import CLASSES, COUNT, same, system


def run(made, **options):
    evaluator = cross_modal.Evaluator(made, dict(batch_size=8, bootstrap=50) | options)
    return evaluator.run({}, lambda batch: batch), evaluator.details


def test_a_head_that_knows_is_always_right():
    found, details = run(system(same), passes=3)
    assert found["accuracy"] == found["balanced"] == 1.0
    np.testing.assert_allclose(found["loss"], 3 * np.log1p(np.exp(-5.0)), rtol=1e-5)
    assert details["right"].tolist() == [9] * COUNT
    # Own views lie at most 0.3 apart, other objects' at least 0.7.
    assert found["pos"] < 0.31 and found["ratio"] > 10


def test_always_yes_scores_two_thirds_and_half_of_the_balanced():
    found, _ = run(system(lambda image, gaussian: image[:, 0] > -1))
    np.testing.assert_allclose(found["accuracy"], 2 / 3)
    assert (found["accuracy_own"], found["accuracy_other"], found["balanced"]) == (1.0, 0.0, 0.5)
    assert found["accuracy_std"] == 0


def test_triples_are_two_views_of_one_object_and_one_of_another():
    rng = np.random.default_rng(0)
    views, strangers = set(), set()
    for _ in range(300):
        anchor, positive, negative = cross_modal.draw(5, 3, rng)
        np.testing.assert_array_equal(anchor[0], np.arange(5))
        np.testing.assert_array_equal(positive[0], np.arange(5))
        assert (anchor[1] != positive[1]).all() and (negative[0] != np.arange(5)).all()
        views |= set(zip(anchor[1].tolist(), positive[1].tolist()))
        strangers |= set(zip(range(5), negative[0].tolist()))
    assert len(views) == 6 and len(strangers) == 20  # all pairs are drawn


def test_entropy_is_that_of_a_softmax():
    logits = np.asarray([[1.0, 3.0], [800.0, -800.0]])
    np.testing.assert_allclose(
        cross_modal.entropy(logits, 1), [np.log1p(np.exp(-2.0)), 1600.0], rtol=1e-6
    )


def test_too_few_objects_are_refused():
    lonely = system(same, count=1)
    with pytest.raises(ValueError, match="at least 2 objects"):
        run(lonely)


def recognise(made, **options):
    defaults = dict(batch_size=8, bootstrap=50, views=(1, 4), draws=2)
    evaluator = shape_recognition.Evaluator(made, defaults | options)
    return evaluator.run({}, lambda batch: batch), evaluator.details


def test_recognition_of_features_that_tell_the_class():
    found, details = recognise(system(same), fractions=(1.0, 0.5), memory=True)
    assert found["image/1"] == found["image/4"] == found["points"] == 100.0
    assert found["image/1@0.5"] == found["points@0.5"] == 100.0
    assert (found["memory/4"], found["between/4"]) == (0.0, 100.0)
    np.testing.assert_allclose(found["majority"], 100 / CLASSES)
    assert (found["num_train"], found["num_objects"]) == (24, COUNT)
    assert details["image/1"].shape == (COUNT,) and details["image/1"].all()


def test_pooling_takes_the_largest_of_views_drawn_for_each_object():
    rng = np.random.default_rng(1)
    views = rng.normal(size=(50, 6, 4))
    np.testing.assert_array_equal(shape_recognition.pool(views, 6, rng), views.max(1))
    np.testing.assert_array_equal(shape_recognition.pool(views, 9, rng), views.max(1))
    one = shape_recognition.pool(views, 1, rng)
    places = [[np.array_equal(v, row) for v in views[i]].index(True) for i, row in enumerate(one)]
    assert len(set(places)) == 6
    three = shape_recognition.pool(views, 3, rng)
    assert (three <= views.max(1)).all() and (three >= np.sort(views, 1)[:, 2]).all()


def test_more_views_than_there_are_and_unknown_machines_are_refused():
    with pytest.raises(ValueError, match=r"\[9\] asked for, 4 an object"):
        recognise(system(same), views=(1, 9))
    with pytest.raises(ValueError, match="svm: unknown 'rbf'"):
        recognise(system(same), svm="rbf")
