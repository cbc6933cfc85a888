"""Checkpoints of the reference: every array finds its place, and what does not fit is named."""

import jax
import numpy as np
import pytest

from configs import cross_modal
from gsjax.models import name_tables, pointnet_tables, resnet, resnet_tables
from gsjax.models.backbones import pointnet, pointnet2
from gsjax.systems.cross_modal import model, reference

CASES = [("pointnet", "positions"), ("pointnet", "sh"), ("pointnet2", "scale_rotation")]
CHANNELS = dict(positions=0, scale_rotation=7, sh=51)


def _shapes(backbone, features):
    config = cross_modal.get_config(f"parity,backbone={backbone},features={features}")
    module = model.build(config, CHANNELS[features])
    points = jax.ShapeDtypeStruct((1, 16, 3 + CHANNELS[features]), np.float32)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    return jax.eval_shape(module.init, jax.random.key(0), points, images)


def _checkpoint(backbone, features):
    """(arrays by our paths, the file's content), random."""
    rng = np.random.default_rng(0)
    shapes = name_tables.flatten(_shapes(backbone, features))
    flat = {k: rng.normal(size=x.shape).astype(np.float32) for k, x in shapes.items()}

    def part(name):
        return {
            kind: name_tables.nest(
                {
                    k.removeprefix(f"{kind}/{name}/"): v
                    for k, v in flat.items()
                    if k.startswith(f"{kind}/{name}/")
                }
            )
            for kind in ("params", "batch_stats")
        }

    if backbone == "pointnet":
        sizes, prefix = pointnet.PRESETS["cross_modal"], "feat."
        table = pointnet_tables.pointnet_table(sizes)
    else:
        sizes, prefix = pointnet2.PRESETS["cross_modal"], ""
        table = pointnet_tables.pointnet2_table(sizes)
    net = {prefix + k: v for k, v in name_tables.invert(part("backbone"), table).items()}
    net[f"{prefix}bn1.num_batches_tracked"] = np.int64(7)
    image = name_tables.invert(part("pictures"), resnet_tables.table(resnet.PRESETS["resnet18"]))
    fusion = {
        "fc1.weight": flat["params/hidden/kernel"].T, "fc1.bias": flat["params/hidden/bias"],
        "fc2.weight": flat["params/logits/kernel"].T, "fc2.bias": flat["params/logits/bias"],
    }  # fmt: skip
    content = dict(
        epoch=3, pointnet_state_dict=net, resnet18_state_dict=image,
        fusion_network_state_dict=fusion, optimizer_state_dict={},
    )  # fmt: skip
    return flat, content


@pytest.mark.parametrize("backbone, features", CASES)
def test_every_array_finds_its_place(backbone, features):
    expected, content = _checkpoint(backbone, features)
    found = reference.convert(content)
    assert (found.backbone, found.features, found.fusion_dim) == (backbone, features, 256)
    assert set(found.arrays) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(found.arrays[path], value, err_msg=path)


def test_what_does_not_fit_is_named():
    _, content = _checkpoint("pointnet", "positions")
    with pytest.raises(ValueError, match="lacks fusion_network_state_dict"):
        reference.convert({k: v for k, v in content.items() if not k.startswith("fusion")})
    net = content["pointnet_state_dict"]
    odd = dict(net)
    del odd["feat.stn.fc3.bias"]
    with pytest.raises(ValueError, match="missing: stn.fc3.bias"):
        reference.convert(content | dict(pointnet_state_dict=odd))
    with pytest.raises(ValueError, match="neither a PointNet"):
        reference.convert(content | dict(pointnet_state_dict={"conv1.weight": np.zeros((2, 3, 1))}))
    head = content["fusion_network_state_dict"]
    wrong = dict(head, **{"fc2.weight": np.zeros((3, 256), np.float32)})
    with pytest.raises(ValueError, match="fc2.weight"):
        reference.convert(content | dict(fusion_network_state_dict=wrong))


def test_a_number_of_columns_that_no_set_has():
    with pytest.raises(ValueError, match=r"reads 5 columns .* 51 \(sh\)"):
        reference._feature_set(5, "file")
