"""The Lovasz loss against its definition."""

import jax
import numpy as np

from gsjax.systems.point_tasks import losses

POINTS, CLASSES = 40, 5  # of every case: compiled once
_value_and_grad = jax.jit(jax.value_and_grad(losses.lovasz_softmax))


def _slow(probabilities, labels):
    """Eq. 8 of arXiv 1705.08790, a set function at a time: how the Jaccard loss grows as the points are
    added to the wrong ones, worst first."""
    values = []
    for c in np.unique(labels):
        true = labels == c
        error = np.where(true, 1 - probabilities[:, c], probabilities[:, c])
        order = np.argsort(-error, kind="stable")

        def jaccard(wrong, true=true):
            said = true ^ wrong
            return 1 - (true & said).sum() / (true | said).sum()

        wrong, last, total = np.zeros(len(labels), bool), 0.0, 0.0
        for i in order:
            wrong[i] = True
            total += error[i] * (jaccard(wrong) - last)
            last = jaccard(wrong)
        values.append(total)
    return np.mean(values)


def _draw(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(POINTS, CLASSES)).astype(np.float32)
    return logits, rng.integers(0, CLASSES - 1, POINTS), rng.random(POINTS) < 0.6


def test_it_is_the_lovasz_extension_of_the_jaccard_loss():
    logits, labels, _ = _draw(0)  # class 4 does not occur
    found, _ = _value_and_grad(logits, labels, np.ones(POINTS, bool))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, _slow(probabilities, labels), rtol=1e-5)


def test_of_certain_answers_it_is_one_minus_the_mean_iou():
    labels, said, valid = np.zeros((3, POINTS), int)
    labels[:6], said[:6], valid[:6] = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 1], 1
    logits = 100 * np.eye(CLASSES, dtype=np.float32)[said]
    found, _ = _value_and_grad(logits, labels, valid.astype(bool))
    np.testing.assert_allclose(found, 1 - np.mean([2 / 3, 2 / 4, 0]), rtol=1e-6)


def test_points_that_do_not_count_change_nothing_and_get_no_gradient():
    logits, labels, valid = _draw(1)
    value, grad = _value_and_grad(logits, labels, valid)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(value, _slow(probabilities[valid], labels[valid]), rtol=1e-5)
    grad = np.asarray(grad)
    assert (grad[~valid] == 0).all() and np.abs(grad[valid]).max() > 0
    assert float(_value_and_grad(logits, labels, np.zeros(POINTS, bool))[0]) == 0.0
