"""Retrieval by a head's answers: perfect, blind, and with answers that tie."""

import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.evals import matching
from tests.evals import made_up_pairs as made_up


def _run(answer, **options):
    evaluator = matching.Evaluator(made_up.system(answer), dict(bootstrap=50) | options)
    return evaluator.run({}, lambda batch: batch), evaluator.details


def test_a_head_that_knows_finds_everything():
    found, details = _run(made_up.same, views=(1, 4))
    assert found["image_to_gaussian/1/R@1"] == found["image_to_gaussian/4/R@1_low"] == 100.0
    assert found["image_to_gaussian/4/median_rank"] == 1.0
    np.testing.assert_array_equal(details["image_to_gaussian/1"], np.ones(made_up.COUNT))


def test_a_head_that_says_one_thing_finds_nothing():
    found, _ = _run(lambda image, gaussian: jnp.ones(len(image), bool), ks=(1, made_up.COUNT))
    assert found["image_to_gaussian/1/R@1"] == 0.0
    assert found[f"image_to_gaussian/1/R@{made_up.COUNT}"] == 100.0


def test_a_head_that_knows_the_class_finds_its_objects():
    def same_class(image, gaussian):
        return jnp.sum(jnp.abs(image[:, 1:] - gaussian[:, 1:]), -1) < 1

    found, details = _run(same_class, ks=(3, 4))
    assert set(details["image_to_gaussian/1"]) == {4.0}  # of 12 objects 4 are of its class
    assert found["image_to_gaussian/1/R@3"] == 0.0 and found["image_to_gaussian/1/R@4"] == 100.0


def test_views_add_their_answers():
    """A view that is wrong by little is outvoted by one that is right by much."""
    answers = np.asarray([[[0.0, 1.0], [5.0, 0.0]], [[1.0, 0.0], [0.0, 5.0]]])  # [n, V, n]
    np.testing.assert_array_equal(matching.ranks(answers[:, 0]), [2, 2])
    np.testing.assert_array_equal(matching.ranks(answers.sum(1)), [1, 1])


def test_more_views_than_there_are():
    with pytest.raises(ValueError, match="expected at most 4, found 5"):
        _run(made_up.same, views=(5,))
