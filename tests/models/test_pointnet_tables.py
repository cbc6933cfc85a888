"""Names of the common PyTorch versions; values are compared with torch in tests/parity."""

import dataclasses

import jax
import numpy as np
import pytest

from gsjax.models import name_tables, pointnet_tables
from gsjax.models.backbones import base, pointnet, pointnet2
from gsjax.models.point_layers import Scale
from tests.models.backbones import suite

POINTNET = dataclasses.replace(
    pointnet.PRESETS["cross_modal"], channels=2, transform_points=(4, 5, 6), transform_dense=(7, 8)
)
MSG = pointnet2.Config(
    centers=(4,), scales=((Scale(0.1, 2, (3, 4)), Scale(0.2, 2, (5,))),), top=(6,)
)
SSG = pointnet2.Config(
    centers=(4,), scales=((Scale(0.1, 2, (3, 4)),),), top=(6,), decoder=((7,), (8, 9))
)


def _state(config):
    """Our variables, drawn at random, under their names; and those variables."""
    file = pointnet if isinstance(config, pointnet.Config) else pointnet2
    points = suite.cloud(0, 8, 8, config.channels)
    shapes = jax.eval_shape(file.Model(config).init, jax.random.key(0), points)
    rng = np.random.default_rng(0)
    flat = {
        path: rng.normal(size=shape).astype(np.float32)
        for path, shape in name_tables.flat_shapes(shapes).items()
    }
    table = (
        pointnet_tables.pointnet_table(config)
        if file is pointnet
        else pointnet_tables.pointnet2_table(config)
    )
    return name_tables.invert(name_tables.nest(flat), table), flat


@pytest.mark.parametrize("config", [POINTNET, MSG, SSG], ids=["PointNet", "MSG", "SSG"])
def test_every_variable_has_a_name_of_theirs(config):
    state, flat = _state(config)
    assert len(state) == len(flat)
    # A convolution over two axes, as theirs are in groups, and a counter that is not ours.
    state = {k: v[..., None] if k.startswith("sa") and v.ndim == 3 else v for k, v in state.items()}
    state |= {"bn1.num_batches_tracked": np.asarray(3)}
    found = name_tables.flatten(pointnet_tables.convert(state, config))
    assert found.keys() == flat.keys()
    for path, value in flat.items():
        np.testing.assert_array_equal(found[path], value)


def test_names_and_shapes_are_theirs():
    state, _ = _state(POINTNET)
    shapes = {key: value.shape for key, value in state.items()}
    assert shapes["stn.conv1.weight"] == (4, 5, 1) and shapes["stn.fc3.weight"] == (9, 8)
    assert shapes["stn.bn5.running_var"] == (8,) and shapes["conv1.weight"] == (64, 5, 1)
    assert shapes["fstn.fc3.bias"] == (64 * 64,) and shapes["bn3.weight"] == (512,)
    shapes = {key: value.shape for key, value in _state(MSG)[0].items()}
    assert shapes["sa1.conv_blocks.0.1.weight"] == (4, 3, 1)
    assert shapes["sa1.bn_blocks.1.0.running_mean"] == (5,)
    assert shapes["sa2.mlp_convs.0.weight"] == (6, 9 + 3, 1)
    shapes = {key: value.shape for key, value in _state(SSG)[0].items()}
    assert shapes["sa1.mlp_convs.0.weight"] == (3, 3, 1)
    assert shapes["fp2.mlp_convs.0.weight"] == (7, 4 + 6, 1)  # from the top
    assert shapes["fp1.mlp_bns.1.bias"] == (9,)


def test_a_classifier_is_left_out_where_asked_and_what_is_missing_is_named():
    state, _ = _state(POINTNET)
    whole = {f"feat.{key}": value for key, value in state.items()} | {"fc1.weight": np.ones((2, 2))}
    assert pointnet_tables.convert(whole, POINTNET, prefix="feat.").keys() == {
        "params",
        "batch_stats",
    }
    state, _ = _state(MSG)
    more = state | {"fc1.weight": np.ones((2, 2))}
    with pytest.raises(ValueError, match="unexpected: fc1.weight"):
        pointnet_tables.convert(more, MSG)
    pointnet_tables.convert(more, MSG, ignore=(r"fc\d",))
    del state["sa2.mlp_bns.0.bias"]
    with pytest.raises(ValueError, match="missing: sa2.mlp_bns.0.bias"):
        pointnet_tables.convert(state, MSG)
    other = base.build("pointnet2", "ssg").config
    with pytest.raises(ValueError, match="does not fit"):
        pointnet_tables.convert(state, other)
