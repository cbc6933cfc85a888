"""Linear machines: the minimum against SciPy's, agreement with scikit-learn, refusals."""

import jax
import numpy as np
import pytest
from scipy import optimize

from gsjax.evals import svm


def _clusters(seed, count, width=20, classes=4, noise=2.0):
    """Overlapping clusters: some tenth of them cannot be told apart."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return centres[labels] + noise * rng.normal(size=(count, width)), labels


def test_the_minimum_is_scipys():
    x, labels = _clusters(1, 120, width=6, classes=3)
    found = svm.Linear.fit(x, labels, 3, inverse_penalty=0.7)
    for k in range(3):
        signs = np.where(labels == k, 1.0, -1.0)

        def value(flat, signs=signs):
            slack = np.maximum(1 - signs * (x @ flat[:-1] + flat[-1]), 0)
            return flat[:-1] @ flat[:-1] / 2 + 0.7 * np.sum(slack**2)

        best = optimize.minimize(value, np.zeros(7), method="BFGS", options=dict(gtol=1e-8))
        np.testing.assert_allclose(found.weights[:, k], best.x[:-1], atol=2e-3)
        np.testing.assert_allclose(found.bias[k], best.x[-1], atol=2e-3)


def test_the_objectives_gradient_by_finite_differences():
    x, labels = _clusters(2, 30, width=4, classes=3)
    signs = np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        params = dict(weights=rng.normal(size=(4, 3)), bias=rng.normal(size=3))
        grads = jax.grad(svm.objective)(params, x, signs, 0.5)
        for name, at in (("weights", (1, 2)), ("bias", (0,))):
            moved = [{**params, name: params[name].copy()} for _ in range(2)]
            for side, step in zip(moved, (1e-6, -1e-6), strict=True):
                side[name][at] += step
            high, low = (float(svm.objective(p, x, signs, 0.5)) for p in moved)
            np.testing.assert_allclose(grads[name][at], (high - low) / 2e-6, rtol=1e-5)


def test_it_agrees_with_scikit_learn():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    known, labels = _clusters(4, 1500)
    others, truth = _clusters(5, 1500)
    scores = [
        100 * svm.hits(known, labels, others, truth, kind=kind, inverse_penalty=0.01).mean()
        for kind in svm.KINDS
    ]
    assert 60 < min(scores) and max(scores) < 99  # neither trivial nor chance
    assert abs(scores[0] - scores[1]) < 0.5


def test_scale_and_shift_of_columns_change_nothing_and_unknown_classes_are_wrong():
    known, labels = _clusters(6, 200)
    others, truth = _clusters(7, 50)
    rng = np.random.default_rng(8)
    scale, shift = rng.uniform(0.01, 100, 20), rng.normal(size=20)
    one = svm.hits(known, labels + 5, others, truth + 5)
    two = svm.hits(known * scale + shift, labels + 5, others * scale + shift, truth + 5)
    assert one.mean() > 0.5 and (one == two).mean() > 0.97
    assert not svm.hits(known, labels, others, truth + 100).any()


def test_constant_columns_carry_nothing():
    known, labels = _clusters(9, 60)
    x, z = svm.standardised(np.c_[known, np.full(60, 1e4)], np.c_[known, np.full(60, 3.0)])
    assert not x[:, -1].any() and not z[:, -1].any()
    np.testing.assert_allclose(x[:, :-1].std(0), 1.0)


def test_refusals():
    known, labels = _clusters(10, 20)
    with pytest.raises(ValueError, match="known: device, sklearn"):
        svm.hits(known, labels, known, labels, kind="rbf")
    with pytest.raises(ValueError, match="at least two classes"):
        svm.hits(known, np.zeros(20, int), known, labels)
    known[3, 4] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        svm.hits(known, labels, known, labels)
