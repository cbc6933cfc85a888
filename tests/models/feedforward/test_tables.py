"""Name tables of MVSplat's and DepthSplat's released files: every array finds its place, wrong ones are named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import name_tables
from gsjax.models.feedforward import (
    depthsplat,
    depthsplat_tables,
    mvsplat,
    mvsplat_tables,
    shared_tables,
)
from tests.models.feedforward import test_depthsplat, test_mvsplat

CASES = {
    "mvsplat": (mvsplat.MVSplat, mvsplat_tables, test_mvsplat.TINY),
    "march": (depthsplat.DepthSplat, depthsplat_tables, test_depthsplat.TINY),
    "october": (depthsplat.DepthSplat, depthsplat_tables, test_depthsplat.OCTOBER),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """(tables, config, random parameters of the network, the file that would hold them)."""
    model, tables, config = CASES[request.param]
    shapes = shared_tables.abstract_variables(model(config), config.stride)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    state = name_tables.invert(params, tables.table(config))
    return tables, config, params, {f"encoder.{key}": value for key, value in state.items()}


def test_every_array_finds_its_place(case):
    tables, config, params, state = case
    # What a training run saves beside the encoder.
    beside = {"losses.1.lpips.lin0.weight": np.zeros(3), "decoder.background_color": np.zeros(3)}
    beside["encoder.gaussian_adapter.sh_mask"] = np.zeros(4)
    found = tables.convert(state | beside, config)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    bare = tables.convert({k.removeprefix("encoder."): v for k, v in state.items()}, config)
    jax.tree.map(np.testing.assert_array_equal, bare, params)


def test_wrong_arrays_are_named_all_at_once(case):
    tables, config, _, state = case
    state = dict(state)
    lost = "encoder.depth_predictor.proj_feature.bias"
    lost = lost if lost in state else "encoder.gaussian_head.0.bias"
    other = next(key for key in state if key.endswith("merge.weight"))
    del state[lost]
    state[other] = np.zeros((3, 3), np.float32)
    state["encoder.depth_predictor.fourth"] = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="3 problems") as error:
        tables.convert(state, config, what="file.ckpt")
    said = str(error.value)
    assert said.startswith("file.ckpt: ") and "found (3, 3), expected" in said
    assert f"missing: {lost.removeprefix('encoder.')}" in said
    assert f"shape of {other.removeprefix('encoder.')} -> " in said
    assert "unexpected: depth_predictor.fourth" in said


def test_unused_arrays_of_the_backbone_and_the_decoders_are_known():
    state = {"encoder.depth_predictor.pretrained.mask_token": np.zeros((1, 4), np.float32)}
    for part in ("depth_predictor.upsampler", "feature_upsampler"):
        key = f"encoder.{part}.scratch.refinenet4.resConfUnit1.conv1.bias"
        state[key] = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="missing: ") as error:
        depthsplat_tables.convert(state, test_depthsplat.TINY)
    assert "unexpected" not in str(error.value)


# Number of arrays that the released network of each size has, and some of them with their shapes.
PUBLISHED = {
    "mvsplat": (
        471,
        {
            "backbone.backbone.layer2.0.downsample.0.bias": "backbone/cnn/stage_1_block_0/shortcut/bias",
            "backbone.transformer.layers.5.cross_attn_ffn.mlp.2.weight": (
                "backbone/transformer/block_5/cross_attention/mlp_1/kernel"
            ),
            "depth_predictor.corr_refine_net.3.input_blocks.5.1.qkv.weight": (
                "cost/unet/down_2_attention/qkv/kernel"
            ),
            "depth_predictor.corr_refine_net.3.middle_block.2.in_layers.1.weight": (
                "cost/unet/middle_1/norm_0/scale"
            ),
            "depth_predictor.refine_unet.3.output_blocks.1.2.conv.weight": (
                "refine/unet/up_4_conv/kernel"
            ),
            "depth_predictor.refine_unet.3.output_blocks.3.1.conv.weight": (
                "refine/unet/up_3_conv/kernel"
            ),
            "depth_predictor.refine_unet.3.out.0.weight": "refine/unet/conv_out/kernel",
            "depth_predictor.to_disparity.2.bias": "refine/disparity_1/bias",
        },
    ),
    "small_448": (
        567,
        {"depth_predictor.upsampler.concat_projects.2.bias": "depth_head/join_2/bias"},
    ),
    "small": (567, {"gaussian_regressor.2.bias": "regressor/conv_1/bias"}),
    "base": (751, {"depth_predictor.mv_pyramid.stages.1.0.weight": "mv_pyramid/up/kernel"}),
    "base_448_oct2024": (
        907,
        {
            "depth_predictor.regressor.1.3.input_blocks.7.1.norm.weight": (
                "cost_1/unet/down_3_attention/norm/scale"
            ),
            "depth_predictor.regressor.1.3.out.2.weight": "cost_1/unet/conv_out/kernel",
            "depth_predictor.regressor.0.3.input_blocks.1.0.in_layers.2.bias": (
                "cost_0/unet/down_0/conv_0/bias"
            ),
            "depth_predictor.regressor.0.3.input_blocks.1.0.out_layers.3.bias": (
                "cost_0/unet/down_0/conv_1/bias"
            ),
            "feature_upsampler.upsampler.0.8.weight": "feature_upsampler/scale_0_conv_2/kernel",
            "feature_upsampler.upsampler.1.5.weight": "feature_upsampler/scale_1_conv_1/kernel",
            "gaussian_regressor.3.input_blocks.3.0.skip_connection.weight": (
                "regressor/unet/down_1/shortcut/kernel"
            ),
            "gaussian_head.2.weight": "gaussian_head/conv_1/kernel",
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_published_sizes(name):
    if name == "mvsplat":
        entries = mvsplat_tables.table(mvsplat.PRESETS[name])
    else:
        entries = depthsplat_tables.table(depthsplat.PRESETS[name])
    table = {key: entry.ours for entry in entries for key in entry.keys}
    count, some = PUBLISHED[name]
    assert len(table) == len(entries) == count
    assert {key: table.get(key) for key in some} == some
    assert len({entry.ours for entry in entries}) == count


def _shapes(signature, **others):
    shapes = {f"encoder.{key}": shape for key, shape in (signature | others).items()}
    return weights.StateDict({key: (shape, None) for key, shape in shapes.items()})


def test_sizes_are_found_by_shapes():
    for name, config in depthsplat.PRESETS.items():
        signature = depthsplat_tables._signature(config)
        expected = "base_448_oct2024" if name == "pm_loss" else name
        assert depthsplat_tables.find(_shapes(signature)) == expected
    # By hand: base for 256 x 448 of March 2025.
    by_hand = {
        "depth_predictor.pretrained.cls_token": (1, 1, 768),
        "depth_predictor.upsampler.concat_projects.0.weight": (96, 160, 1, 1),
        "depth_predictor.regressor_residual.1.bias": (64,),
        "gaussian_head.2.weight": (37, 37, 3, 3),
    }
    assert depthsplat_tables.find(_shapes(by_hand)) == "base_448"
    wider = by_hand | {"gaussian_head.2.weight": (38, 38, 3, 3)}
    with pytest.raises(ValueError, match=r"file: no DepthSplat.*\(38, 38, 3, 3\).*base_448"):
        depthsplat_tables.find(_shapes(wider), "file")
    with pytest.raises(ValueError, match="none of its names"):
        depthsplat_tables.find({"x": np.zeros(2)})


def test_published_weights_turn_colours_as_they_were_trained():
    for tables, config in (
        (mvsplat_tables, mvsplat.PRESETS["mvsplat"]),
        (depthsplat_tables, depthsplat.PRESETS["small"]),
    ):
        found = tables.published(config)
        assert found.adapter.sh_rotation == "e3nn_compat"
        assert dataclasses.replace(found, adapter=config.adapter) == config


def test_mvsplat_halves_the_sides_in_its_second_stage():
    # One picture row of cells: stage 1's maps have 1/4 of the sides, unlike DepthSplat's.
    from gsjax.models.feedforward import cnn

    images = jnp.zeros((1, 16, 16, 3))
    for last, sides in ((1, (8, 4, 4)), (2, (8, 8, 4))):
        model = cnn.Cnn(4, (4, 4, 4), 4, last)
        maps = jax.eval_shape(lambda m=model: m.init_with_output(jax.random.key(0), images))[0]
        assert tuple(m.shape[1] for m in maps) == sides
