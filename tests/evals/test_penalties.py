"""Choosing the penalty inside the training set, and column-wise standardisation."""

import numpy as np
import pytest

from gsjax.evals import heads, penalties
from tests.evals import test_linear_probe as probe

CLASSES, DIM = 4, 20
GRID = (1e-4, 1e-2, 1.0, 100.0)


def _noisy(count, seed, dims=DIM, signal=2.0):
    """Two columns tell the classes apart, the rest is noise: little data in many columns."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    angle = 2 * np.pi * labels / CLASSES
    x = rng.normal(size=(count, dims))
    x[:, :2] += signal * np.stack([np.cos(angle), np.sin(angle)], 1)
    return x, labels


def _mislabelled(data, share, seed):
    x, labels = data
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) < share
    return x, np.where(wrong, rng.integers(0, CLASSES, len(labels)), labels)


def _scaled(count, seed):
    """What tells the classes apart is a column of tiny scale far from zero, beside large noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = 100.0 * rng.normal(size=(count, 6))
    x[:, 3] = 5.0 + 1e-3 * (2.0 * labels - 1 + 0.3 * rng.normal(size=count))
    return x, labels


def _accuracy(train, test, penalty, standard="columns"):
    classes = train[1].max() + 1
    head = heads.Logistic.fit(*train, classes, inverse_penalty=penalty, standard=standard)
    return heads.hits(head.scores(test[0]), test[1]).mean()


@pytest.fixture(scope="module")
def hard():
    """Half of the training labels are drawn anew: a loose fit learns them by heart."""
    train = _mislabelled(_noisy(160, 1, signal=3.0), 0.5, 7)
    return train, _noisy(1000, 11, signal=3.0)


def test_noise_calls_for_a_strong_penalty_and_gets_it(hard):
    train, test = hard
    choice = penalties.choose(*train, GRID)
    scores = {p: _accuracy(train, test, p) for p in GRID}
    chosen = scores[choice.inverse_penalty]
    assert choice.inverse_penalty == 1e-2 and not choice.at_edge
    # the right penalty is worth many points either way
    assert chosen > scores[100.0] + 0.05 and chosen > scores[1e-4] + 0.2
    assert chosen == max(scores.values())


def test_fine_distinctions_call_for_a_weak_penalty_and_get_it():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 5))
    labels = (x[:, 0] > 1.2).astype(int)  # rare, exact and linear
    choice = penalties.choose(x, labels, GRID)
    assert choice.inverse_penalty == 100.0 and choice.at_edge
    assert choice.accuracy[100.0] > choice.accuracy[1e-4] + 0.05


def test_the_choice_is_that_of_a_plain_loop():
    """Every fold and penalty fitted from nothing, the criteria recomputed as written."""
    x, labels = _noisy(37, 5, dims=8)
    grid = (1e-3, 1e-1, 10.0)
    place = penalties.split(labels, 3, np.random.default_rng([4]))
    right, entropy = {}, {}
    for penalty in grid:
        hit, nats = [], []
        for fold in range(3):
            inside = place != fold
            head = heads.Logistic.fit(
                x[inside], labels[inside], CLASSES, inverse_penalty=penalty, standard="columns"
            )
            scores, truth = head.scores(x[~inside]), labels[~inside]
            hit += (scores.argmax(1) == truth).tolist()
            p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            nats += (-np.log(p[np.arange(len(truth)), truth])).tolist()
        right[penalty], entropy[penalty] = np.mean(hit), np.mean(nats)
    found = penalties.choose(x, labels, grid, folds=3, seed=[4])
    assert found.accuracy == pytest.approx(right)
    assert found.cross_entropy == pytest.approx(entropy, rel=1e-4)
    assert found.inverse_penalty == min(grid, key=lambda p: (-right[p], entropy[p]))


def test_folds_share_every_class_evenly():
    labels = np.repeat([0, 1, 2, 3], [11, 4, 23, 2])
    place = penalties.split(labels, 5, np.random.default_rng(0))
    for c in range(4):
        counts = np.bincount(place[labels == c], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(place).max() - np.bincount(place).min() <= 1
    with pytest.raises(ValueError, match="folds: found 1"):
        penalties.split(labels, 1, np.random.default_rng(0))


def test_rare_classes_are_left_out_of_the_scores_alone():
    x, labels = _noisy(40, 6, dims=4)
    labels[0] = CLASSES  # one example: in its own fold nobody knows it
    found = penalties.choose(x, labels, (0.1, 1.0), folds=4)
    assert 0.5 < found.accuracy[0.1] <= 1.0
    with pytest.raises(ValueError, match="two classes with two examples"):
        penalties.choose(x[:3], np.arange(3), (0.1,), folds=3)
    with pytest.raises(ValueError, match="penalties: expected numbers above 0"):
        penalties.choose(x, labels, (0.0, 1.0))


def test_columns_are_standardised_each_on_the_training_set():
    train, test = _scaled(200, 0), _scaled(400, 1)
    assert _accuracy(train, test, 1.0) > 0.97
    assert _accuracy(train, test, 1.0, standard="whole") < 0.65
    head = heads.Logistic.fit(*train, 2, standard="columns")
    moved = heads.Logistic.fit(
        train[0] * [1, 7, 1e3, 1e-2, 1, 1] + 3, train[1], 2, standard="columns"
    )
    np.testing.assert_allclose(moved.weights, head.weights, atol=1e-4)


def test_constant_columns_carry_nothing():
    x, labels = _noisy(60, 2, dims=3)
    constant = np.float32(0.1) * np.ones((60, 2))
    constant[::2, 1] = np.nextafter(np.float32(0.1), np.float32(1))  # but for rounding
    wide = np.concatenate([x, constant], 1)
    heads_ = [heads.Logistic.fit(f, labels, CLASSES, standard="columns") for f in (x, wide)]
    np.testing.assert_allclose(heads_[1].weights[:3], heads_[0].weights, atol=1e-4)
    assert np.abs(heads_[1].weights[3:]).max() < 1e-5


def test_an_unknown_standard_is_refused():
    with pytest.raises(ValueError, match="standard: unknown 'rows'; known: whole, columns"):
        heads.Logistic.fit(np.eye(2), np.arange(2), 2, standard="rows")


# The evaluator -----------------------------------------------------------------------------------


def _examples(data, start):
    return [
        dict(
            index=np.int32(start + i),
            valid=np.bool_(True),
            category=np.int32(label),
            gaussian=row.astype(np.float32),
        )
        for i, (row, label) in enumerate(zip(*data, strict=True))
    ]


def test_the_probe_chooses_its_penalty_without_the_test_set(hard):
    train, test = hard
    system = probe._system(_examples(train, 0), _examples(test, 160))
    options = dict(standard="columns", bootstrap=0)
    found, _ = probe._run(system, penalties=GRID, **options)
    loose, _ = probe._run(system, inverse_penalty=100.0, **options)
    assert found["top1"] > loose["top1"] + 5 and found["penalty_at_edge"] == 0.0
    assert found["inverse_penalty"] == 1e-2 and 25 < found["cv_top1"] < 75
    assert "inverse_penalty" not in loose
    # other held-out objects: the same choice
    other = probe._system(_examples(train, 0), _examples(_noisy(50, 9), 160))
    again, _ = probe._run(other, penalties=GRID, **options)
    assert [again[k] for k in ("inverse_penalty", "cv_top1")] == [1e-2, found["cv_top1"]]


def test_few_shots_choose_among_themselves():
    train, test = _noisy(60, 0, dims=6), _noisy(200, 1, dims=6)
    system = probe._system(_examples(train, 0), _examples(test, 60))
    options = dict(shots=(1, 6), draws=2, bootstrap=0, standard="columns")
    found, _ = probe._run(system, penalties=(1e-2, 1.0), **options)
    fixed, _ = probe._run(system, **options)
    assert found["top1_1shot/mean"] == fixed["top1_1shot/mean"]  # nothing to choose by
    assert found["top1_6shot/mean"] > found["top1_1shot/mean"] > 25.0


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(penalties=(0.0,)), "expected penalties above 0 and folds from 2 on"),
        (dict(penalties=(1.0,), folds=1), "expected penalties above 0 and folds from 2 on"),
        (dict(standard="rows"), "linear_probe.standard: unknown 'rows'"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        probe._run(probe._system(_examples(_noisy(8, 0), 0), []), **options)
