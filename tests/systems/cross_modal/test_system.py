"""The system on a tiny set: what a batch holds, negatives, calls, gradients, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.losses import nt_xent
from gsjax.systems.cross_modal import system
from gsjax.train import optim
from tests.systems.cross_modal import tiny


def _batch(built, count=4, split=None):
    data = built.train_data() if split is None else built.eval_data(split)
    items = [data[i] for i in range(count)]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def _run(built, variables, batch, train=True, seed=0):
    return built.loss(variables, batch, jax.random.key(seed), train)


def _step(built, batch, rate):
    """jit: variables -> (variables after a step of plain descent, loss, gradients)."""

    @jax.jit
    def step(variables):
        def loss(params):
            value, _, new = _run(built, {**variables, "params": params}, batch)
            return value, new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - rate * g, variables["params"], grads)
        return {"params": params, **new}, value, grads

    return step


@pytest.fixture(scope="module")
def plain(folder):
    built = system.build(tiny.config(folder))
    return built, jax.jit(built.init)(jax.random.key(0))


def test_examples_are_what_the_spec_says(folder):
    for config in (tiny.config(folder), tiny.config(folder, loss__negatives="dataset")):
        built = system.build(config)
        example = built.train_data()[0]
        assert set(example) == set(built.batch_spec)
        for name, spec in built.batch_spec.items():
            assert (example[name].shape, example[name].dtype) == (spec.shape, spec.dtype), name
    assert built.batch_spec["images"].shape[0] == 3


def test_training_draws_anew_and_evaluation_does_not(plain):
    built, _ = plain
    data, size = built.train_data(), 8
    again = [np.array_equal(data[i]["images"], data[i + size]["images"]) for i in range(size)]
    assert sum(again) < size / 2  # 4 views, 12 ordered pairs of them
    again = built.eval_data("test")
    np.testing.assert_array_equal(again[1]["points"], built.eval_data("test")[1]["points"])
    assert built.eval_data("test/views")[0]["images"].shape == (4, 16, 16, 3)
    one, two = (built.eval_data(f"test#{k}")[0]["points"] for k in (0, 1))
    assert not np.array_equal(one, two)
    with pytest.raises(ValueError, match="pictures of their|of meshes have those"):
        built.eval_data("train/memory")[0]
    with pytest.raises(ValueError, match="expected 'test', 'test/views'"):
        built.eval_data("test views")


def test_the_loss_is_its_two_terms(plain):
    built, variables = plain
    batch = _batch(built)
    loss, metrics, new = jax.jit(lambda v: _run(built, v, batch))(variables)
    np.testing.assert_allclose(loss, metrics["l_cv"] + 3 * metrics["l_cm"], rtol=1e-5)
    assert jax.tree.structure(new["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), new, {"batch_stats": variables["batch_stats"]}
    )
    assert all(x > 0 for x in jax.tree.leaves(moved))


def test_negatives_of_the_batch_are_other_objects(plain):
    """With one view for all, anchors and positives agree: the triplet is 2 - |f_a - f_n|."""
    built, variables = plain
    batch = _batch(built, split="test")
    batch["images"][:, 1] = batch["images"][:, 0]
    loss, metrics, _ = _run(built, variables, batch, train=False)
    views = built.predict_fns["views"](variables, batch)["image"][:, 0]
    gaps = np.linalg.norm(views - np.roll(views, 1, 0), axis=-1)
    expected = np.maximum(0, 2 - gaps).mean()
    np.testing.assert_allclose(metrics["l_cv"], expected, atol=1e-4)
    np.testing.assert_allclose(metrics["neg"], gaps.mean(), rtol=1e-5)


def test_padding_counts_for_nothing(plain):
    built, variables = plain
    batch = _batch(built, 3, split="test")
    padded = {k: np.concatenate([v, v[:1]]) for k, v in batch.items()}
    padded["valid"][3] = False
    _, metrics, _ = _run(built, variables, padded, train=False)
    padded["images"][3] = 255 - padded["images"][3]
    padded["points"][3] *= -2
    _, other, _ = _run(built, variables, padded, train=False)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], other[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_one_call_and_one_each_differ_in_the_norms_alone(folder):
    """In inference they are the same; in training each call's norms see one role."""
    one, each = (system.build(tiny.config(folder, model__calls=c)) for c in system.CALLS)
    variables = jax.jit(one.init)(jax.random.key(0))
    batch = _batch(one, split="test")
    a, b = (_run(s, variables, batch, train=False)[1] for s in (one, each))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)
    (_, a, new), (_, b, other) = (_run(s, variables, batch) for s in (one, each))
    assert abs(float(a["pos"] - b["pos"])) > 1e-4
    # Two updates of the running statistics instead of one.
    name = lambda tree: tree["batch_stats"]["pictures"]["stem_norm"]["var"]  # noqa: E731
    assert (jnp.abs(name(other) - 1) > jnp.abs(name(new) - 1)).all()


def test_every_parameter_has_a_gradient_and_the_loss_falls(plain):
    built, variables = plain
    batch = _batch(built)

    step = _step(built, batch, 0.02)
    first = None
    for _ in range(30):
        variables, value, grads = step(variables)
        if first is None:
            first, zero = (
                value,
                [
                    jax.tree_util.keystr(k)
                    for k, g in jax.tree_util.tree_leaves_with_path(grads)
                    if not jnp.abs(g).max() > 0
                ],
            )
    assert not zero
    assert value < 0.6 * first


@pytest.mark.slow
def test_nt_xent_projects_both_kinds_into_one_space_and_learns(folder):
    built = system.build(tiny.config(folder, loss__objective="nt_xent", model__space_dim=8))
    variables = jax.jit(built.init)(jax.random.key(0))
    assert {"image_space", "point_space"} < set(variables["params"])
    assert not {"hidden", "logits"} & set(variables["params"])
    batch = _batch(built)
    loss, metrics, _ = _run(built, variables, batch, train=False)
    np.testing.assert_allclose(loss, metrics["l_cv"] + 3 * metrics["l_cm"], rtol=1e-5)
    found = built.predict_fns["space"](variables, batch)
    assert found["image"].shape == (4, 2, 8) and found["gaussian"].shape == (4, 8)
    np.testing.assert_allclose(jnp.linalg.norm(found["image"], axis=-1), 1, rtol=1e-5)
    expected = nt_xent.nt_xent(found["image"][:, 0], found["image"][:, 1], 0.1).mean()
    np.testing.assert_allclose(metrics["l_cv"], expected, rtol=1e-4)
    step = _step(built, batch, 0.02)
    values = []
    for _ in range(15):
        variables, value, grads = step(variables)
        values.append(float(value))
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    assert values[-1] < 0.6 * values[0]


def test_decay_reaches_norms_where_parity_asks_for_it(plain):
    _, variables = plain
    config = tiny.config().optim
    config.lr = 1.0
    found = {}
    for config.wd_all in (False, True):
        tx = optim.build(config, 10, variables["params"], [])
        none = jax.tree.map(jnp.zeros_like, variables["params"])
        new, _, _ = tx.update(none, tx.init(variables["params"]), variables["params"], jnp.int32(0))
        found[config.wd_all] = float(new["pictures"]["stem_norm"]["scale"].mean())
    np.testing.assert_allclose([found[False], found[True]], [1.0, 1 - 5e-4], rtol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model__calls="three"), "known: one, each"),
        (dict(model__image="vit"), "known: resnet18"),
        (dict(loss__cm_balance="x"), "known: 2to1"),
        (dict(loss__negatives="x"), "known: batch, dataset"),
        (dict(loss__objective="x"), "known: triplet, nt_xent"),
        (dict(loss__objective="nt_xent", loss__negatives="dataset"), "set 'batch'"),
        (dict(data__sampling="grid"), "known: fps, uniform"),
        (dict(data__features="rgb"), "known: positions"),
        (dict(data__name="shapenet"), "known: procedural, objects_cc0, meshes"),
        (dict(data__categories=("sword",)), r"unknown \['sword'\]"),
    ],
)
def test_unknown_settings_are_named(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        system.build(tiny.config(folder, **changes))


def test_more_points_than_are_stored_are_refused(folder):
    built = system.build(tiny.config(folder, data__num_points=64))
    with pytest.raises(ValueError, match="stored samples have 48"):
        built.eval_data("test")[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify_points", "classify_views"])
def test_labelled_twins_learn_a_batch(folder, task):
    config = tiny.config(folder, data__supervised_views=3, data__fraction=0.5)
    config.task = task
    built = system.build(config)
    assert len(built.train_data()) == 4  # half of each class
    assert built.batch_spec["images"].shape[0] == (3 if task == "classify_views" else 1)
    variables = jax.jit(built.init)(jax.random.key(0))
    batch = _batch(built)

    step = _step(built, batch, 0.1)
    values = []
    for _ in range(25):
        variables, value, _ = step(variables)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
    split = "test/views" if task == "classify_views" else "test"
    found = built.predict_fns["labels"](variables, _batch(built, 2, split))
    assert found["predicted"].shape == (2,) and set(found["label"].tolist()) <= {0, 1}


def test_unknown_tasks_are_named():
    config = tiny.config()
    config.task = "detect"
    with pytest.raises(ValueError, match="known: self_supervised, classify_points"):
        system.build(config)
