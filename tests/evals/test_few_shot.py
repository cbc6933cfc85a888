"""Few-shot heads, episodes and the evaluator on features made by hand."""

import dataclasses
import json

import grain
import jax
import numpy as np
import pytest
from scipy import optimize

from gsjax.evals import episodes, few_shot, finetune, heads
from gsjax.metrics import trials
from gsjax.systems import base

DIM, NAMES = 16, tuple("abcdef")
VARIABLES = {"params": {"w": np.eye(DIM, dtype=np.float32)}}


def _file(folder, **options):
    """Episodes over 30 objects of each of six categories, twins two by two in 'a'."""
    objects = [(f"{name}/{i:02d}", name) for name in NAMES for i in range(30)]
    groups = [[f"a/{i:02d}", f"a/{i + 1:02d}"] for i in range(0, 30, 2)]
    given = dict(way=(3, 5), shot=(1, 5), trials=10, queries=8, seed=0)
    made = episodes.make(objects, groups, name="toy", **{**given, **options})
    path = folder / "few.json"
    path.write_text(json.dumps(made))
    return str(path), made, objects


def _system(objects, features, order=None, encode=None):
    """A system whose embeddings are given; ``order`` permutes its records."""
    order = np.arange(len(objects)) if order is None else order
    examples = [
        dict(
            index=np.int32(i),
            valid=np.bool_(True),
            category=np.int32(NAMES.index(objects[i][1])),
            gaussian=np.asarray(features[i], np.float32),
        )
        for i in order
    ]

    def embed(variables, batch):
        return {**batch, "gaussian": batch["gaussian"] @ variables["params"]["w"]}

    return base.System(
        name="data",
        batch_spec={k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in examples[0].items()},
        init=lambda rng: VARIABLES,
        loss=lambda *args: None,
        predict_fns={"embed": encode or embed},
        train_data=lambda: grain.MapDataset.source(examples),
        eval_data=lambda split: grain.MapDataset.source(examples),
        info=dict(class_names=list(NAMES), uids=lambda split: [objects[i][0] for i in order]),
    )


def _run(system, path, variables=VARIABLES, **options):
    options = dict(episodes=path, way=(3, 5), shot=(1, 5)) | options
    evaluator = few_shot.Evaluator(system, options)
    return evaluator.run(variables, lambda batch: batch), evaluator.details


def _clusters(objects, noise, seed=0):
    """Features around one random centre a category."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(len(NAMES), DIM))
    labels = np.array([NAMES.index(name) for _, name in objects])
    return centers[labels] + noise * rng.normal(size=(len(objects), DIM))


# Heads ------------------------------------------------------------------------------------------


def test_prototypes_follow_a_loop():
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(12, 5)), rng.normal(size=(7, 5))
    labels = np.array([0, 1, 2] * 4)
    found = heads.Prototypes.fit(known, labels, 3).scores(asked)
    for q in range(7):
        for c in range(3):
            total = np.zeros(5)
            for row, label in zip(known, labels):
                if label == c:
                    total += row / np.sqrt(sum(x * x for x in row))
            norms = np.linalg.norm(total) * np.linalg.norm(asked[q])
            assert found[q, c] == pytest.approx(float(total @ asked[q]) / norms, abs=1e-12)


def _problem():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 4
    return rng.normal(size=(60, 6)) + 0.8 * np.eye(6)[labels], labels


def _standard(features, head):
    return (heads.unit(features) - head.center) / head.scale


@pytest.mark.parametrize("penalty", [0.05, 2.0])
def test_logistic_regression_reaches_the_minimum_that_newton_reaches(penalty):
    features, labels = _problem()
    head = heads.Logistic.fit(features, labels, 4, inverse_penalty=penalty)
    x = _standard(features, head)
    assert np.square(x).mean() == pytest.approx(1.0) and np.abs(x.mean(0)).max() < 1e-12
    onehot = np.eye(4)[labels]

    def objective(flat):  # written from the definition, its gradient by finite differences
        table = flat.reshape(7, 4)
        logits = x @ table[:6] + table[6]
        entropy = np.log(np.exp(logits).sum(1)) - (logits * onehot).sum(1)
        return penalty * entropy.sum() + np.square(table[:6]).sum() / 2

    best = optimize.minimize(objective, np.zeros(28), method="BFGS", options=dict(gtol=1e-4))
    own = np.concatenate([head.weights, head.bias[None]]).ravel()
    assert objective(own) <= best.fun + 1e-6
    np.testing.assert_allclose(head.weights.ravel(), best.x[:24], atol=2e-4)


def test_logistic_regression_equals_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = _problem()
    head = heads.Logistic.fit(features, labels, 4, inverse_penalty=0.3)
    peer = linear_model.LogisticRegression(C=0.3, tol=1e-10, max_iter=10_000)
    peer.fit(_standard(features, head), labels)
    np.testing.assert_allclose(head.weights, peer.coef_.T, atol=1e-5)


def test_the_gradient_of_the_objective_is_its_slope():
    features, labels = _problem()
    flat = np.random.default_rng(0).normal(size=28)
    step, slope = 1e-6, heads.logistic_objective(flat, features, labels, 4, 0.5)[1]
    for i in range(28):
        move = step * np.eye(28)[i]
        up, down = (
            heads.logistic_objective(flat + s * move, features, labels, 4, 0.5)[0] for s in (1, -1)
        )
        assert slope[i] == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_ties_are_no_hits_and_bad_labels_are_refused():
    scores = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(heads.hits(scores, np.zeros(3, int)), [False, True, False])
    with pytest.raises(ValueError, match=r"\[1\] are missing or outside"):
        heads.Prototypes.fit(np.ones((2, 3)), np.array([0, 2]), 3)
    with pytest.raises(ValueError, match="not finite"):
        heads.Logistic.fit(np.full((2, 3), np.nan), np.array([0, 1]), 2)


def test_trials_by_hand():
    found = (trials.Trials.of([80.0]) + trials.Trials.of([90.0, 100.0])).compute()
    assert found["mean"] == 90.0 and found["std"] == pytest.approx(np.sqrt(200 / 3))
    half = 4.302653 * 10.0 / np.sqrt(3)  # Student's t, 2 degrees of freedom, 97.5 %
    assert found["high"] - 90 == pytest.approx(half, rel=1e-6)
    assert trials.Trials.of([3.0]).compute() == dict(mean=3.0, std=0.0, low=3.0, high=3.0)
    with pytest.raises(ValueError, match="found no trials"):
        trials.Trials(()).compute()


# Episodes ---------------------------------------------------------------------------------------


def test_episodes_are_nested_disjoint_and_free_of_twins(tmp_path):
    path, _, _ = _file(tmp_path)
    found = episodes.load(path)
    for trial in found.trials:
        known, labels, asked, truth = trial.episode(5, 5)
        assert len(known) == 25 and len(asked) == 40 and not set(known) & set(asked)
        assert all(
            trial.order[label] == uid[0] for uid, label in zip(known + asked, labels + truth)
        )
        few = trial.episode(3, 1)
        assert set(few[0]) < set(known) and set(few[2]) < set(asked)
        if "a" in trial.order:
            pairs = [int(u[2:]) // 2 for u in (*trial.support["a"], *trial.query["a"])]
            assert len(set(pairs)) == len(pairs)
    assert len({trial.order for trial in found.trials}) > 5


def test_episodes_do_not_depend_on_the_order_of_objects(tmp_path):
    _, made, objects = _file(tmp_path)
    twins = [[f"a/{i + 1:02d}", f"a/{i:02d}"] for i in range(0, 30, 2)]
    options = dict(name="toy", way=(3, 5), shot=(1, 5), trials=10, queries=8, seed=0)
    assert episodes.make(objects[::-1], twins[::-1], **options) == made
    assert episodes.make(objects, twins, **{**options, "seed": 1}) != made


def test_episodes_that_cannot_be_made_or_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match="way: 7 categories asked for, but 6"):
        _file(tmp_path, way=(7,))
    with pytest.raises(ValueError, match="fewer than 25 groups"):
        _file(tmp_path, queries=20, categories=("a", "b"), way=(2,))
    path, made, _ = _file(tmp_path)
    made["trials"][0]["query"]["b"][0] = made["trials"][0]["support"]["b"][0]
    (tmp_path / "few.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match="asks about objects that it labels"):
        episodes.load(path)
    (tmp_path / "few.json").write_text("{}")
    with pytest.raises(ValueError, match="is no file of"):
        episodes.load(path)
    with pytest.raises(ValueError, match="shipped: .*objects_cc0"):
        episodes.load("nowhere")


def test_shipped_episodes_are_what_the_command_writes(gsjax_data, tmp_path):
    out = tmp_path / "again.json"
    source = str(gsjax_data / "objects_cc0")
    episodes.main(["--source", source, "--output", str(out)])
    assert episodes.load(str(out)) == episodes.load("objects_cc0")


def test_shipped_episodes_have_ten_categories_of_twenty_objects():
    found = episodes.load("objects_cc0")
    assert len(found.categories) == 10 and "other" not in found.categories
    assert found.ways == (5, 10) and found.shots == (1, 5, 10) and len(found.trials) == 10
    for trial in found.trials:
        assert all(len(trial.support[n]) == len(trial.query[n]) == 10 for n in found.categories)


# The evaluator ----------------------------------------------------------------------------------


def test_separable_classes_are_always_told_apart(tmp_path):
    path, _, objects = _file(tmp_path)
    found, details = _run(_system(objects, _clusters(objects, 0.02)), path)
    for head in ("prototype", "linear"):
        for setting in ("3w1s", "3w5s", "5w1s", "5w5s"):
            assert found[f"{head}/{setting}/mean"] == 100.0 == found[f"{head}/{setting}/low"]
            assert found[f"{head}/{setting}/std"] == 0.0 and len(details[f"{head}/{setting}"]) == 10


def test_random_features_give_chance(tmp_path):
    path, _, objects = _file(tmp_path, trials=40)
    noise = np.random.default_rng(5).normal(size=(len(objects), DIM))
    found, _ = _run(_system(objects, noise), path)
    for head in ("prototype", "linear"):
        # 40 trials of 24 or 40 queries: a standard error of 1.5 and 1.0 points, at the most
        # doubled since trials share objects
        assert found[f"{head}/3w1s/mean"] == pytest.approx(100 / 3, abs=9)
        assert found[f"{head}/5w5s/mean"] == pytest.approx(20, abs=6)


def test_constant_features_score_nothing(tmp_path):
    path, _, objects = _file(tmp_path)
    found, _ = _run(_system(objects, np.ones((len(objects), DIM))), path)
    assert found["prototype/5w5s/mean"] == found["linear/5w5s/mean"] == 0.0


def test_the_order_of_records_changes_nothing(tmp_path):
    path, _, objects = _file(tmp_path)
    features = _clusters(objects, 1.2)
    order = np.random.default_rng(3).permutation(len(objects))
    _, plain = _run(_system(objects, features), path)
    _, mixed = _run(_system(objects, features, order), path, batch_size=24)
    assert 40 < plain["linear/5w5s"].mean() < 99
    for name, values in plain.items():
        np.testing.assert_array_equal(values, mixed[name])


def test_objects_that_are_missing_are_named(tmp_path):
    path, _, objects = _file(tmp_path, categories=NAMES[1:])
    features = _clusters(objects, 0.1)
    system = _system(objects, features, np.arange(60, len(objects)))
    with pytest.raises(ValueError, match=r"are not in .'novel',., such as 'b/.*exclude_categories"):
        _run(system, path)
    bare = dataclasses.replace(system, info=dict(class_names=list(NAMES)))
    with pytest.raises(ValueError, match=r"gives no uids"):
        _run(bare, path)
    with pytest.raises(ValueError, match=r"few_shot.way: found \(9,\)"):
        _run(system, path, way=(9,))
    with pytest.raises(ValueError, match="few_shot.heads"):
        _run(system, path, heads=("knn",))


# Fine-tuning ------------------------------------------------------------------------------------


def test_finetuning_finds_what_a_frozen_encoder_hides(tmp_path):
    """The encoder throws away the one coordinate pair that tells the classes apart."""
    path, _, objects = _file(tmp_path, way=(3,), shot=(5,), trials=2)
    rng = np.random.default_rng(0)
    labels = np.array([NAMES.index(name) for _, name in objects])
    angle = 2 * np.pi * labels / len(NAMES)
    features = rng.normal(size=(len(objects), DIM))
    features[:, :2] = 3 * np.stack([np.cos(angle), np.sin(angle)], 1)
    w = np.eye(DIM, dtype=np.float32)
    w[:2] *= 0.02

    def encode(variables, batch):
        x = batch["gaussian"] @ variables["params"]["w"]
        return {**batch, "gaussian": x / np.sqrt(DIM)}

    variables = {"params": {"w": w.copy()}}
    tuning = dict(lr=3e-2, epochs=60, batch_size=8)
    found, _ = _run(
        _system(objects, features, encode=encode),
        path,
        variables,
        way=(3,),
        shot=(5,),
        heads=("linear", "finetune"),
        finetune=tuning,
    )
    assert found["finetune/3w5s/mean"] > found["linear/3w5s/mean"] + 15
    np.testing.assert_array_equal(variables["params"]["w"], w)  # episodes start from the same


def test_finetuning_without_a_step_size_is_the_nearest_mean(tmp_path):
    path, _, objects = _file(tmp_path, trials=2)

    def encode(variables, batch):
        x = batch["gaussian"] @ variables["params"]["w"]
        norm = jax.numpy.linalg.norm(x, axis=-1, keepdims=True)
        return {**batch, "gaussian": x / norm}

    system = _system(objects, _clusters(objects, 1.0), encode=encode)
    options = dict(heads=("prototype", "finetune"), finetune=dict(lr=0.0, epochs=1), way=(5,))
    _, details = _run(system, path, **options)
    for shot in (1, 5):
        np.testing.assert_array_equal(
            details[f"finetune/5w{shot}s"], details[f"prototype/5w{shot}s"]
        )


def test_every_row_counts_once_an_epoch():
    rng = np.random.default_rng(0)
    batches = list(finetune.epoch_batches(11, 4, 3, rng))
    assert all(len(rows) == 4 for rows, _ in batches) and len(batches) == 9
    seen = np.concatenate([rows[real] for rows, real in batches])
    np.testing.assert_array_equal(np.bincount(seen), np.full(11, 3))
    rates = [finetune.learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[99] < 1e-3
    assert np.argmax(rates) == 9
