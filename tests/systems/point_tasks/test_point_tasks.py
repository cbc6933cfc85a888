"""Classification and part segmentation on a tiny procedural set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune_objects
from gsjax.systems import base
from gsjax.systems.point_tasks import losses

TINY = dict(num_patches=8, patch_size=8, embed=(8, 16, 16, 16), width=16, depth=1, heads=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("sets")


def _config(cache, arg="quick", **overrides):
    config = finetune_objects.get_config(arg)
    config.data.dir = str(cache)
    config.data.num_objects = 24
    config.data.num_gaussians = 128
    config.data.view_size = 8
    config.data.num_points = 64
    config.train.batch_size = 8
    config.model.backbone_changes = TINY
    for path, value in overrides.items():
        block, field = path.split("__")
        config[block][field] = value
    return config


def _batch(built, split="fit", num=8):
    examples = list(built.eval_data(split))[:num]
    return {n: jnp.asarray(np.stack([e[n] for e in examples])) for n in built.batch_spec}


@pytest.mark.parametrize("task", ["classify", "parts"])
def test_loss_has_gradients_everywhere_and_labels_are_answers(cache, task):
    built = base.build(_config(cache, f"quick,task={task}"))
    variables = jax.jit(built.init)(jax.random.key(0))
    batch = _batch(built)

    def loss(params):
        value, metrics, new = built.loss(
            {**variables, "params": params}, batch, jax.random.key(1), True
        )
        return value, (metrics, new)

    (value, (_, new)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert np.isfinite(value) and "backbone" in new["batch_stats"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads["backbone"])) > 0
    found = jax.jit(built.predict_fns["labels"])(variables, batch)
    shape = (8,) if task == "classify" else (8, 64)
    assert found["predicted"].shape == found["label"].shape == shape
    if task == "parts":
        assert (found["predicted"] > 0).all()
        known = np.asarray(found["label"])
        np.testing.assert_array_equal(known[known >= 0], np.asarray(batch["parts"])[known >= 0])


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_statistics(cache):
    built = base.build(_config(cache, "quick,frozen"))
    variables = jax.jit(built.init)(jax.random.key(0))

    def loss(params):
        value, _, new = built.loss(
            {**variables, "params": params}, _batch(built), jax.random.key(1), True
        )
        return value, new

    grads, new = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert all((x == 0).all() for x in jax.tree.leaves(grads["backbone"]))
    assert float(jnp.abs(grads["logits"]["kernel"]).max()) > 0
    old = variables["batch_stats"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, old, new["batch_stats"]["backbone"])
    assert built.param_rules[0].lr_scale == 0


def test_sides_do_not_overlap_and_fractions_shrink_only_what_is_learned_from(cache):
    whole, few = (
        base.build(_config(cache, data__num_objects=64, data__fraction=share, data__validation=0.3))
        for share in (1.0, 0.4)
    )

    def indices(built, side):
        return {int(e["index"]) for e in built.eval_data(side)}

    sides = {side: indices(whole, side) for side in ("fit", "val", "test")}
    assert not sides["fit"] & sides["val"] and not sides["fit"] & sides["test"]
    assert indices(few, "fit") < sides["fit"]
    assert indices(few, "val") == sides["val"]
    assert few.info["num_fit"] == len(indices(few, "fit"))


@pytest.mark.parametrize(
    "arg, overrides, message",
    [
        ("quick", dict(data__exclude_labels=("ship",)), r"unknown \['ship'\]; known: "),
        ("quick,task=detect", {}, "config.task: unknown 'detect'; known: classify, parts"),
    ],
)
def test_wrong_settings_are_refused(cache, arg, overrides, message):
    with pytest.raises(ValueError, match=message):
        base.build(_config(cache, arg, **overrides))


def test_unlabelled_entries_do_not_count():
    logits = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    labels = jnp.asarray([0, 0, -1])
    counted = jnp.asarray([True, True, False])
    value, accuracy = losses.cross_entropy(logits, labels, counted)
    expected = (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(1))) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert float(accuracy) == 0.5
    smooth, _ = losses.cross_entropy(logits, labels, counted, 0.2)
    terms = [0.9 * np.log(1 + np.exp(-2)) + 0.1 * np.log(1 + np.exp(2))]
    terms += [0.9 * np.log(1 + np.exp(1)) + 0.1 * np.log(1 + np.exp(-1))]
    np.testing.assert_allclose(smooth, np.mean(terms), rtol=1e-6)
