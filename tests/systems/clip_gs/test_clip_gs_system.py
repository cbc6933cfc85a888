"""CLIP-GS as a system: learns, does not depend on the layout of the batch, refuses bad configs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsjax.evals import retrieval, zero_shot
from gsjax.losses import contrastive
from gsjax.systems import base
from gsjax.systems.clip_gs import losses
from tests import compiling
from tests.systems.clip_gs import tiny


def test_batches_match_the_spec():
    system, batch = tiny.system(), tiny.batch(3)
    assert set(batch) == set(system.batch_spec)
    for name, spec in system.batch_spec.items():
        assert batch[name].shape[1:] == spec.shape and batch[name].dtype == spec.dtype, name


@pytest.mark.slow
def test_thirty_two_objects_are_learned_by_heart():
    system, batch = tiny.system(), tiny.batch()
    params, stats = tiny.split(tiny.variables())
    optimizer = optax.adamw(3e-3, weight_decay=0.0)
    state = optimizer.init(params)
    step = jax.jit(lambda grads, state, params: optimizer.update(grads, state, params))
    history = []
    for i in range(150):
        (loss, stats), grads = tiny.gradient()(
            params, stats, batch, jax.random.fold_in(jax.random.key(7), i)
        )
        updates, state = step(grads, state, params)
        params = system.project_params(optax.apply_updates(params, updates))
        history.append(float(loss))
    assert np.mean(history[-20:]) < 0.3 * np.mean(history[:5])
    variables = {"params": params, **stats}
    found = retrieval.Evaluator(system, dict(split="train", batch_size=32)).run(
        variables, lambda batch: batch
    )
    assert found["text_to_gaussian/R@1_pessimistic"] == 100.0
    assert found["gaussian_to_image/R@1_pessimistic"] >= 95.0


def test_untrained_encoder_scores_about_chance():
    found = zero_shot.Evaluator(
        tiny.system(), dict(split="train", templates="name", batch_size=32)
    ).run(tiny.variables(), lambda batch: batch)
    assert found["top1"] < 75.0 and found["chance"] == 25.0


@pytest.mark.slow
def test_votes_save_the_target_from_a_corrupted_view():
    """The embeddings themselves are the parameters: what does a wrong view do to them?"""
    rng = np.random.default_rng(0)
    text = contrastive.unit(jnp.asarray(rng.normal(size=(12, 64)), jnp.float32))
    noise = jnp.asarray(0.3 * rng.normal(size=(12, 3, 64)), jnp.float32)
    good = contrastive.unit(text[:, None] + noise / 8)
    wrong = good.at[:, 0].set(-text)  # speaks against the caption
    options = tiny.config().loss

    def error(mode, image):
        options.score_mode = mode
        valid, ids = jnp.ones(12, bool), jnp.arange(12, dtype=jnp.uint32)

        def loss(g):
            return losses.total_loss(g, text, image, valid, ids, jnp.log(10.0), None, options)[0]

        descend = jax.jit(lambda g: g - 3.0 * jax.grad(loss)(g))
        g = jnp.asarray(np.random.default_rng(1).normal(size=text.shape), jnp.float32)
        for _ in range(200):
            g = descend(g)
        return 1.0 - float(jnp.mean(jnp.sum(contrastive.unit(g) * text, -1)))

    # a contrastive optimum also spreads the vectors, so the error is not 0 with good views either
    clean = error("cosine", good)
    assert error("cosine", wrong) < clean + 0.02 < error("none", wrong)


@pytest.mark.slow
def test_eight_devices_give_the_gradients_of_one():
    batch, rng = tiny.batch(), jax.random.key(3)
    params, stats = tiny.split(tiny.variables())
    (loss, new), grads = tiny.gradient()(params, stats, batch, rng)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    with jax.set_mesh(mesh):

        def fn(params, batch):
            def loss_fn(params):
                found, _, new = tiny.system().loss({"params": params, **stats}, batch, rng, True)
                return found, new

            return jax.value_and_grad(loss_fn, has_aux=True)(params)

        (found, found_new), found_grads = tiny.quick_jit(fn)(params, jax.device_put(batch, spec))
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    norm = float(optax.global_norm(grads))
    for x, y in zip(jax.tree.leaves(found_grads), jax.tree.leaves(grads), strict=True):
        # biases in front of a BatchNorm have no gradient but rounding: relative to the whole then
        size = max(float(jnp.linalg.norm(y)), 1e-3 * norm)
        assert float(jnp.linalg.norm(x - y)) < 1e-4 * size
    for x, y in zip(jax.tree.leaves(found_new), jax.tree.leaves(new), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_cached_neighbours_equal_those_found_on_the_device():
    cached = tiny.config(model__grouping="cached")
    system = base.build(cached)
    example = system.train_data()[0]
    assert example["neighbours"].shape == system.batch_spec["neighbours"].shape
    near = np.stack([e["neighbours"] for e in list(system.train_data())[:4]])
    values = tiny.moved(tiny.variables())
    careful = dict(compiler_options=compiling.CAREFUL)
    np.testing.assert_allclose(
        tiny.features(cached, values, {**tiny.batch(4), "neighbours": near}, **careful),
        tiny.features(tiny.config(), values, tiny.batch(4), **careful),
        atol=1e-5,
    )


def test_parameter_groups():
    rules = tiny.system().param_rules
    assert [r.decay for r in rules] == [False, False, True]
    bare = base.build(tiny.config(model__attributes="xyz_rgb"))
    assert len(bare.param_rules) == 1


def test_configs_that_do_not_fit_the_data_are_refused():
    with pytest.raises(ValueError, match="views_per_step: 9 .* holds 6"):
        base.build(tiny.config(data__views_per_step=9))
    with pytest.raises(ValueError, match="prune_alpha"):
        from gsjax.systems.clip_gs import data

        data._finish(None, tiny.config(model__grouping="cached", data__prune_alpha=0.1))
