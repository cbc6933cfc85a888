"""Networks by their settings, and the same Gaussians at other depths."""

import numpy as np
import pytest

from gsjax.models.feedforward import depthsplat, mvsplat
from gsjax.systems.pm_loss import model
from tests.systems.pm_loss import tiny


def test_settings_reach_the_network():
    found = model.build(tiny.config("quick,offset=unconstrained,remat,bf16").model)
    assert isinstance(found, mvsplat.MVSplat)
    assert found.config.adapter.offset == "unconstrained" and found.config.adapter.sh_degree == 1
    assert found.config.remat and found.config.dtype == "bfloat16"
    assert found.config.cost_unet.width == 8 and found.config.cost_unet.post_norm
    config = tiny.config("network=depthsplat", model__changes={}, model__sh_degree=3).model
    config.remat = True
    found = model.build(config)
    assert isinstance(found, depthsplat.DepthSplat) and found.config.vit.remat
    assert found.config.adapter.sh_degree == 3 and found.config.adapter.offset == "sigmoid"


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(network="resnet"), "model.network: unknown 'resnet'; known: mvsplat, depthsplat"),
        (dict(size="huge"), "mvsplat has no preset 'huge'; known: mvsplat, tiny"),
        (dict(offset="none"), "offset: unknown 'none'"),
        (dict(changes=dict(chanels=8)), "model.changes: unknown field 'chanels'; known: channels"),
        (dict(changes=dict(cost_unet=dict(wide=8))), "model.changes.cost_unet: unknown field"),
    ],
)
def test_what_is_unknown_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        model.build(tiny.config(**{f"model__{k}": v for k, v in changes.items()}).model)


def test_pictures_that_windows_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="data.height, data.width: 20 x 16 are no multiples of 8"):
        tiny.system(data__height=20)


def test_other_depths_move_gaussians_along_their_rays_and_scale_them():
    built = tiny.system()
    batch, module = tiny.batch(built), model.build(tiny.config(model__sh_degree=4).model)
    found = tiny.said(batch)
    cameras = batch["context_Ks"], batch["context_c2ws"]
    same = model.with_depths(module, found, found["depths"][-1], *cameras)
    for name in ("means", "scales"):
        np.testing.assert_allclose(
            getattr(same, name), getattr(found["gaussians"], name), rtol=1e-5, atol=1e-6
        )
    twice = model.with_depths(module, found, 2 * found["depths"][-1], *cameras)
    eyes = np.repeat(np.asarray(batch["context_c2ws"])[:, :, None, :3, 3], 256, 2).reshape(2, -1, 3)
    np.testing.assert_allclose(
        twice.means - eyes, 2 * (found["gaussians"].means - eyes), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(twice.scales, 2 * found["gaussians"].scales, rtol=1e-5)
    np.testing.assert_array_equal(twice.sh, found["gaussians"].sh)
