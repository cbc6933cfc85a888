"""CLIP-GS encoder: sizes, the zero-initialised branch, invariances, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import clip_gs
from gsjax.losses import contrastive
from gsjax.systems import base
from gsjax.systems.clip_gs import model, presets, tokenizer
from tests.systems.clip_gs import tiny


def _count(size, attributes):
    config = clip_gs.get_config(f"size={size},attributes={attributes}")
    module = model.build(config)
    channels = 19 if attributes == "all" else 6
    m = config.model
    patches = tokenizer.Patches(
        jax.ShapeDtypeStruct((1, 1, m.num_group, m.group_size, channels), jnp.float32),
        jax.ShapeDtypeStruct((1, m.num_group, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, 1), jnp.int32),
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), patches)
    return sum(x.size for x in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    "size, millions",  # of Uni3D's encoders (arXiv 2310.06773) without the unused image parts
    [("tiny", 6.2), ("small", 22.5), ("base", 87.0), ("large", 304.7), ("giant", 1012.9)],
)
def test_parameter_counts_without_the_gaussian_branch(size, millions):
    assert round(_count(size, "xyz_rgb") / 1e6, 1) == millions


def test_the_gaussian_branch_is_small():
    assert 0 < _count("base", "all") - _count("base", "xyz_rgb") < 1e6


def test_a_fresh_model_equals_its_point_branch():
    full, bare = tiny.config(), tiny.config(model__attributes="xyz_rgb")
    values = tiny.variables()
    pruned = jax.tree.map(lambda x: x, values)
    for collection in ("params", "batch_stats"):
        pruned[collection]["encoder"] = dict(values[collection]["encoder"])
        pruned[collection]["encoder"].pop("gaussian_branch")
    batch = tiny.batch(4)
    np.testing.assert_allclose(
        tiny.features(full, values, batch), tiny.features(bare, pruned, batch), atol=1e-6
    )


@pytest.mark.slow
def test_the_gate_moves_first_and_the_convolutions_follow():
    params, stats = tiny.split(tiny.variables())
    _, first = tiny.gradient()(params, stats, tiny.batch(), jax.random.key(0))
    branch = first["encoder"]["gaussian_branch"]
    assert float(jnp.abs(branch["gate"]).max()) > 0
    assert float(jnp.abs(branch["conv_0"]["kernel"]).max()) == 0
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, first)
    _, second = tiny.gradient()(stepped, stats, tiny.batch(), jax.random.key(0))
    assert float(jnp.abs(second["encoder"]["gaussian_branch"]["conv_0"]["kernel"]).max()) > 0


def test_only_the_gaussian_branch_sees_the_order():
    batch, values = tiny.batch(4), tiny.moved(tiny.variables())
    outputs = [
        tiny.features(tiny.config(model__eval_order=order), values, batch)
        for order in ("hilbert", "x")
    ]
    averaged = tiny.features(tiny.config(model__order_mode="average"), values, batch)
    assert float(jnp.abs(outputs[0] - outputs[1]).max()) > 1e-4
    assert 0 < float(jnp.abs(averaged - outputs[0]).max()) < 1.0
    cfg = tiny.config()
    branch = tokenizer.PointBranch(tuple(cfg.model.enc_hidden), cfg.model.enc_dim, cfg.model.width)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8, 6)), jnp.float32)
    point = {k: v["encoder"]["point_branch"] for k, v in values.items()}
    np.testing.assert_allclose(
        branch.apply(point, x, False), branch.apply(point, x[:, :, ::-1], False), atol=1e-5
    )


def test_naive_attributes_reach_the_point_branch():
    """The ablation's encoder depends on scales and opacities; that of positions and colours does not."""
    batch = dict(tiny.batch(4))
    changed = batch | {
        "log_scales": batch["log_scales"] - 1,
        "logit_opacities": -batch["logit_opacities"],
    }
    for attributes, kernel in (("naive", 19), ("xyz_rgb", 6)):
        cfg = tiny.config(model__attributes=attributes)
        system = base.build(cfg)
        values = tiny.quick_jit(system.init)(jax.random.key(0))
        first = values["params"]["encoder"]["point_branch"]["first_0"]["kernel"]
        assert first.shape[0] == kernel
        same = np.allclose(tiny.features(cfg, values, batch), tiny.features(cfg, values, changed))
        assert same == (attributes == "xyz_rgb")


def test_padded_gaussians_do_not_change_the_embedding():
    cfg, values, batch = tiny.config(), tiny.moved(tiny.variables()), tiny.batch(4)
    keep = np.arange(256) < 150
    short = {**batch, "mask": np.broadcast_to(keep, (4, 256))}
    garbage = dict(short)
    for name in ("means", "quats", "log_scales", "logit_opacities", "sh0"):
        garbage[name] = np.array(batch[name])
        garbage[name][:, ~keep] = np.nan
    found = tiny.features(cfg, values, short)
    np.testing.assert_array_equal(found, tiny.features(cfg, values, garbage))
    assert bool(jnp.isfinite(found).all())


def test_bfloat16_stays_close_and_keeps_float32_parameters():
    values, batch = tiny.moved(tiny.variables()), tiny.batch(4)
    half = tiny.features(tiny.config(model__dtype="bfloat16"), values, batch)
    full = tiny.features(tiny.config(), values, batch)
    assert float(jnp.sum(contrastive.unit(half) * contrastive.unit(full), -1).min()) > 0.99
    shapes = jax.eval_shape(
        base.build(tiny.config(model__dtype="bfloat16")).init, jax.random.key(0)
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="model.size.*known: debug"):
        presets.size("huge")
    with pytest.raises(ValueError, match="model.attributes: unknown 'rgb'"):
        model.build(tiny.config(model__attributes="rgb"))
