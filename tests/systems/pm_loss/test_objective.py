"""The sum of terms on a made-up prediction: weights, what the teacher reaches, the guard."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.metrics import lpips as lpips_lib
from gsjax.systems.pm_loss import data, model, objective, photometric, teacher
from tests.systems.pm_loss import tiny


@functools.cache
def _case():
    batch = tiny.batch(tiny.system())
    return batch, tiny.said(batch)


@functools.cache
def _compiled(overrides):
    """(config, collections, compiled loss) of MVSplat's adapter of degree 4."""
    config = tiny.config(model__sh_degree=4, **dict(overrides))
    terms, module = objective.build(config), model.build(config.model)

    @jax.jit
    def run(held, batch, said):
        images = data.as_pictures(batch["target_images"])
        key = jax.random.key(0)
        return objective.loss(terms, config, module, held, said, images, batch, key)

    return config, objective.collections(terms, config), run


def _loss(batch=None, held=None, said=None, **overrides):
    """(loss, metrics, new collections) with overrides of the config."""
    _, start, run = _compiled(tuple(overrides.items()))
    return run(
        start if held is None else held,
        _case()[0] if batch is None else batch,
        _case()[1] if said is None else said,
    )


def test_a_teacher_moves_the_pm_term_and_nothing_else():
    batch = _case()[0]
    changed = dict(batch, pointmaps=batch["pointmaps"] ** 3)
    (one, first, _), (two, second, _) = _loss(), _loss(changed)
    assert first["pm_raw"] != second["pm_raw"]
    for name in set(first) - {"pm", "pm_raw", "pm_scale"}:
        assert first[name] == second[name], name
    np.testing.assert_allclose(one - first["pm"], two - second["pm"], rtol=1e-5)
    np.testing.assert_allclose(one, first["photometric"] + first["pm"], rtol=1e-6)


def test_the_pm_term_has_its_weight_and_its_cap():
    batch, said = _case()
    config = tiny.config()
    centres = said["gaussians"].means.reshape(2, 2, 16, 16, 3)
    each = jax.jit(functools.partial(teacher.term, objective.build(config).pm))(centres, batch)[0]
    raw = float(np.mean(each))
    np.testing.assert_allclose(_loss()[1]["pm"], config.loss.pm * raw, rtol=1e-5)
    loss, metrics, _ = _loss(loss__pm=0.25, loss__pm_options__cap=raw / 10)
    assert metrics["pm_capped"] == 1
    np.testing.assert_allclose(metrics["pm"], 0.25 * 1e-5 * raw, rtol=1e-5)
    np.testing.assert_allclose(metrics["pm_raw"], raw, rtol=1e-5)
    np.testing.assert_allclose(loss, metrics["photometric"] + metrics["pm"], rtol=1e-6)


@pytest.mark.slow
def test_earlier_depths_are_drawn_with_their_weights():
    """Against the same loss of each depth by itself."""
    batch = _case()[0]
    said = tiny.said(batch, earlier=2)
    found, _, _ = _loss(said=said, loss__pm=0.0, loss__intermediate=0.9)
    alone = []
    module = model.build(tiny.config(model__sh_degree=4).model)
    for depths in said["depths"]:
        scene = model.with_depths(module, said, depths, batch["context_Ks"], batch["context_c2ws"])
        one = dict(said, gaussians=scene, depths=[depths], inverse_depths=[1 / depths])
        alone.append(float(_loss(said=one, loss__pm=0.0, loss__intermediate=0.9)[0]))
    np.testing.assert_allclose(found, 0.81 * alone[0] + 0.9 * alone[1] + alone[2], rtol=1e-5)
    assert len(set(alone)) == 3


def test_rival_terms_have_their_weights():
    batch, said = _case()
    loss, metrics, _ = _loss(loss__pm=0.0, loss__depth_l1=2.0, loss__smooth=0.5)
    expected = photometric.inverse_depth_l1(
        said["inverse_depths"][-1], batch["context_depths"], batch["near"], batch["far"]
    )
    np.testing.assert_allclose(metrics["depth_l1"], np.mean(expected), rtol=1e-5)
    assert metrics["smooth"] > 0 and "pm" not in metrics
    np.testing.assert_allclose(
        loss, metrics["photometric"] + 2 * np.mean(expected) + 0.5 * metrics["smooth"], rtol=1e-5
    )


def test_bad_examples_are_silenced_and_counted():
    batch, _ = _case()
    settings = dict(loss__guard=1e-9, loss__guard_start=2)
    loss, metrics, new = _loss(**settings)
    assert metrics["guarded"] == 0 and new["guard"]["steps"] == 1
    held = {"guard": dict(steps=jnp.int32(3), dropped=jnp.int32(5))}
    silent, metrics, new = _loss(held=held, **settings)
    assert (
        metrics["guarded"] == 2 and metrics["guarded_total"] == 7 and new["guard"]["dropped"] == 7
    )
    np.testing.assert_allclose(silent, 1e-8 * loss, rtol=1e-5)
    padded = dict(batch, valid=jnp.asarray([True, False]))
    assert _loss(padded, held, **settings)[1]["guarded"] == 1


def test_padding_does_not_count():
    batch, said = _case()
    one = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), (batch, said))
    expected, metrics, _ = _loss(one[0], said=one[1])
    padded = dict(batch, valid=jnp.asarray([True, False]))
    found, same, _ = _loss(padded)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name in metrics:
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-4, err_msg=name)


def test_terms_without_what_they_need_are_refused():
    for overrides, message in (
        (dict(data__teacher__kind="none"), "loss.pm: found 0.5 without a teacher"),
        (dict(loss__depth_l1=1.0, data__depths=False), "loss.depth_l1: found 1.0 with"),
        (dict(loss__lpips=0.05), "loss.lpips: found 0.05 without loss.lpips_backbone"),
        (dict(loss__intermediate=2.0), "loss.intermediate: expected a weight"),
        (dict(loss__pm_options__mode="nn2d"), "mode: unknown 'nn2d'"),
    ):
        with pytest.raises(ValueError, match=message):
            objective.build(tiny.config(**overrides))


@pytest.mark.slow
def test_lpips_travels_with_the_variables_and_has_its_weight(monkeypatch):
    """A made-up network of one layer: the files are the user's."""
    layer = lpips_lib.Conv(0, compared=True)
    rng = np.random.default_rng(0)
    network = lpips_lib.Lpips(
        (layer,), (jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32),), (jnp.zeros(4),),
        (jnp.ones(4),),
    )  # fmt: skip
    monkeypatch.setattr(objective, "_load_lpips", lambda c: network if c.lpips else None)
    size = dict(data__height=32, data__width=32)
    built = tiny.system(**size)
    batch = tiny.batch(built)
    images = data.as_pictures(batch["target_images"])
    said = tiny.said(batch)
    config = tiny.config(model__sh_degree=4, loss__pm=0.0, loss__lpips=0.5, **size)
    terms = objective.build(config)
    held = objective.collections(terms, config)
    assert set(held) == {"lpips"}
    assert objective.collections(objective.build(tiny.config()), tiny.config()) == {}

    @jax.jit
    def run(held):
        module, key = model.build(config.model), jax.random.key(0)
        return objective.loss(terms, config, module, held, said, images, batch, key)

    loss, metrics, _ = run(held)
    assert metrics["lpips"] > 0
    np.testing.assert_allclose(loss, metrics["mse"] + 0.5 * metrics["lpips"], rtol=1e-5)
    larger = jax.tree.map(lambda x: 2 * x, held["lpips"]["heads"])
    louder = run({"lpips": dict(held["lpips"], heads=larger)})[1]["lpips"]
    np.testing.assert_allclose(louder, 2 * metrics["lpips"], rtol=1e-5)
