"""Optimiser groups, schedules and their refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from gsjax.systems import base
from gsjax.train import optim

PARAMS = {
    "blocks_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "blocks_1": {"kernel": jnp.ones((2, 2))},
    "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2, 2))},
}


def block(**changes):
    config = common.optim_block()
    config.update(changes)
    return config


def test_first_matching_rule_wins_and_biases_never_decay():
    rules = [base.ParamRule("bias$", 2.0), base.ParamRule("blocks_0", 0.5), base.ParamRule("h", 3)]
    scales, decays = optim.groups(PARAMS, rules)
    assert scales["blocks_0"] == {"kernel": 0.5, "bias": 2.0}
    assert scales["blocks_1"] == {"kernel": 1.0} and scales["head"]["kernel"] == 3.0
    assert decays["blocks_0"] == {"kernel": True, "bias": False}
    assert decays["head"] == {"kernel": True, "bias": False}


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="'blok' matches no parameter"):
        optim.groups(PARAMS, [base.ParamRule("blok")])
    with pytest.raises(ValueError, match="layer_pattern"):
        optim.layer_scales(PARAMS, r"stage_(\d+)", 0.9)


def test_config_rules_go_before_the_systems():
    config = block(rules=(("head", 0.0, False),), clip=0.0, warmup=0.0)
    tx = optim.build(config, 10, PARAMS, [base.ParamRule("head", 7.0)])
    assert tx.scales["head"]["kernel"] == 0.0


def test_layer_decay_counts_from_the_last_block():
    scales = optim.layer_scales(PARAMS, r"blocks_(\d+)/", 0.5)
    assert scales["blocks_0"]["kernel"] == 0.25 and scales["blocks_1"]["kernel"] == 0.5
    assert scales["head"]["kernel"] == 1.0


def test_frozen_parameters_stay_and_do_not_count_in_the_clipped_norm():
    config = block(name="sgd", clip=1.0, wd=0.0, lr=1.0, warmup=0.0, schedule="constant")
    tx = optim.build(config, 10, PARAMS, [base.ParamRule("blocks", lr_scale=0.0)])
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 100.0), PARAMS)
    new, _, _ = tx.update(grads, tx.init(PARAMS), PARAMS, jnp.int32(0))
    np.testing.assert_array_equal(new["blocks_0"]["kernel"], PARAMS["blocks_0"]["kernel"])
    moved = np.concatenate([(1 - x).ravel() for x in jax.tree.leaves(new["head"])])
    np.testing.assert_allclose(np.linalg.norm(moved), 1.0, rtol=1e-5)


def test_adamw_by_hand():
    config = block(clip=0.0, wd=0.5, lr=0.1, warmup=0.0, schedule="constant")
    tx = optim.build(config, 10, PARAMS, [])
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    new, _, lr = tx.update(grads, tx.init(PARAMS), PARAMS, jnp.int32(0))
    np.testing.assert_allclose(lr, 0.1)
    # First step: m_hat / sqrt(v_hat) = 1, then decay 0.5 on the kernel only.
    np.testing.assert_allclose(new["blocks_1"]["kernel"], 1 - 0.1 * 1.5, rtol=1e-5)
    np.testing.assert_allclose(new["blocks_0"]["bias"], 1 - 0.1, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_decays_in_its_momentum(nesterov):
    config = block(name="sgd", clip=0.0, wd=0.5, lr=0.1, warmup=0.0, schedule="constant")
    config.update(dict(momentum=0.9, nesterov=nesterov))
    tx = optim.build(config, 10, PARAMS, [])
    state, params, kernel, trace = tx.init(PARAMS), PARAMS, 1.0, 0.0
    for step in range(3):
        grads = jax.tree.map(jnp.ones_like, PARAMS)
        params, state, _ = tx.update(grads, state, params, jnp.int32(step))
        trace = 0.9 * trace + 1.0 + 0.5 * kernel
        kernel -= 0.1 * (0.9 * trace + 1.0 + 0.5 * kernel if nesterov else trace)
    np.testing.assert_allclose(params["blocks_1"]["kernel"], kernel, rtol=1e-5)


@pytest.mark.parametrize("warmup, steps", [(0.1, 10), (10.0, 10)])
def test_schedule_warms_up_by_share_or_steps_then_follows_the_cosine(warmup, steps):
    schedule = optim.make_schedule(block(lr=2.0, warmup=warmup, final_scale=0.1), 100)
    np.testing.assert_allclose(schedule(0), 2.0 / steps, rtol=1e-6)
    np.testing.assert_allclose(schedule(steps - 1), 2.0, rtol=1e-6)
    np.testing.assert_allclose(schedule(55), 2.0 * (0.1 + 0.9 * 0.5), rtol=1e-5)
    np.testing.assert_allclose(schedule(100), 0.2, rtol=1e-5)


def test_pieces_end_at_shares_of_the_run():
    config = block(lr=1.0, warmup=0, schedule="pieces")
    config.update(dict(pieces=(0.4, 0.8), piece_factor=0.1))
    schedule = optim.make_schedule(config, 10)
    found = [float(schedule(step)) for step in (0, 3, 4, 7, 8, 9)]
    np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-5)
    config.pieces = ()
    with pytest.raises(ValueError, match="optim.pieces"):
        optim.make_schedule(config, 10)


# torch 2.13: OneCycleLR(max_lr=2, total_steps, pct_start), its rate at some steps.
ONE_CYCLE = {
    (60, 0.1): {0: 0.08, 1: 0.263343685, 4: 1.81665631, 5: 2.0, 6: 1.99830817, 30: 1.11609645, 59: 8e-6},
    (110, 0.01): {0: 0.08, 1: 1.99966297, 5: 1.99002573, 55: 0.987022629, 108: 4.24085071e-4, 109: 8e-6},
    (10, 0.3): {0: 0.08, 1: 1.04, 2: 2.0, 4: 1.62349131, 8: 0.099038736, 9: 8e-6},
}  # fmt: skip


@pytest.mark.parametrize("total, rise", ONE_CYCLE)
def test_one_cycle_is_torchs(total, rise):
    config = block(lr=2.0, warmup=rise, schedule="onecycle")
    config.extra_steps = 4
    schedule = optim.make_schedule(config, total - 4)
    for step, expected in ONE_CYCLE[total, rise].items():
        np.testing.assert_allclose(schedule(step), expected, rtol=2e-4, err_msg=str(step))
    config.warmup = 5
    with pytest.raises(ValueError, match="onecycle needs a share"):
        optim.make_schedule(config, total)
    flat = optim.one_cycle(2.0, 20, 0.01)  # no whole step to rise in
    np.testing.assert_allclose([flat(0), flat(19)], [2.0, 8e-6], rtol=1e-4)


def test_decay_of_everything_reaches_biases():
    config = block(name="sgd", clip=0.0, wd=0.5, lr=0.1, warmup=0, schedule="constant")
    config.wd_all = True
    tx = optim.build(config, 10, PARAMS, [])
    none = jax.tree.map(jnp.zeros_like, PARAMS)
    new, _, _ = tx.update(none, tx.init(PARAMS), PARAMS, jnp.int32(0))
    np.testing.assert_allclose(new["blocks_0"]["bias"], 0.95)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="known: adamw, sgd"):
        optim.build(block(name="adam"), 10, PARAMS, [])
    with pytest.raises(ValueError, match="known: cosine, constant, steps, pieces"):
        optim.make_schedule(block(schedule="linear"), 10)
