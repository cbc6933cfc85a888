"""DINOv2 and Depth Anything against Hugging Face's at random weights of tiny sizes, in float64.

Needs torch and transformers >= 5; see BUILD_NOTES.md. Conventions that differ: ``Dinov2Model`` resamples
positions without the original code's offset of 0.1 (``offset=0``), which is held against torch's own
interpolation here; its state dict in memory has other names than its files.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import depth_anything, dinov2, dinov2_tables, dpt
from tests.parity import torch_vision

torch = pytest.importorskip("torch", reason="torch is not installed")
torch_vision.available()  # transformers imports it where it is installed
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

pytestmark = pytest.mark.parity

CONFIG = dinov2.DinoConfig(16, 4, 2, (0, 1, 2, 3), grid=4, offset=0.0)


def _sizes(kind, **more):
    return kind(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        mlp_ratio=4,
        **more,
    )


def _stirred(model):
    """Random everywhere, so that scales of one and tokens of zero hide nothing."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value += torch.randn_like(value) / max(value[0].numel(), 8) ** 0.5
    return model.double().eval()


def _state(model):
    return {key: value.numpy() for key, value in model.state_dict().items()}


def _images(h, w):
    return np.random.default_rng(1).normal(size=(2, h, w, 3))


def _torch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("h, w", [(56, 56), (28, 70)])
@pytest.mark.parametrize("registers", [0, 2])
def test_maps_of_all_layers(h, w, registers):
    if registers:
        kind = transformers.Dinov2WithRegistersConfig
        theirs = _sizes(kind, num_register_tokens=registers)
        theirs = _stirred(transformers.Dinov2WithRegistersModel(theirs))
        # This class smooths positions, as the original code does with registers.
        config = dataclasses.replace(CONFIG, registers=registers, antialias=True)
    else:
        theirs = _stirred(transformers.Dinov2Model(_sizes(transformers.Dinov2Config)))
        config = CONFIG
    with torch.no_grad():
        out = theirs(_torch(_images(h, w)), output_hidden_states=True)
        expected = [theirs.layernorm(x)[:, 1 + registers :].numpy() for x in out.hidden_states[1:]]
    with jax.enable_x64(True):
        params = dinov2_tables.convert(_state(theirs), config, dtype=np.float64)
        found = jax.jit(dinov2.DinoV2(config, jnp.float64).apply)(
            {"params": params}, jnp.asarray(_images(h, w))
        )
    for ours, other in zip(found, expected, strict=True):
        assert ours.dtype == np.float64
        other = other.reshape(2, h // 14, w // 14, 16)
        # transformers resamples positions in float32; at their own size they are as they are
        exact = 1e-10 if (h, w) == (56, 56) else 1e-5
        np.testing.assert_allclose(ours, other, rtol=exact, atol=exact)


@pytest.mark.parametrize("offset, antialias", [(0.1, False), (0.0, True), (0.0, False)])
@pytest.mark.parametrize("size", [(18, 32), (37, 20), (50, 44)])
def test_positions_are_resampled_as_by_torch(offset, antialias, size):
    grid = np.random.default_rng(2).normal(size=(37, 37, 3))
    how = (
        {"scale_factor": tuple((n + offset) / 37 for n in size)} if offset else {"size": list(size)}
    )
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(grid).permute(2, 0, 1)[None], mode="bicubic", antialias=antialias, **how
    )
    with jax.enable_x64(True):
        found = dinov2.resample_positions(jnp.asarray(grid), size, offset, antialias)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=1e-12)


def test_depth_anything():
    backbone = _sizes(
        transformers.Dinov2Config,
        out_features=[f"stage{i}" for i in range(1, 5)],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    theirs = transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone,
            patch_size=14,
            reassemble_hidden_size=16,
            neck_hidden_sizes=[4, 6, 8, 10],
            fusion_hidden_size=8,
            head_hidden_size=5,
            reassemble_factors=[4, 2, 1, 0.5],
        )
    )
    theirs = _stirred(theirs)
    with torch.no_grad():
        theirs.head.conv3.bias += 1.0  # so that the last rectifier leaves something
        expected = theirs(_torch(_images(42, 70))).predicted_depth.numpy()
    head = dpt.DptConfig(8, (4, 6, 8, 10), "dense", hidden=5)
    config = depth_anything.DepthAnythingConfig(CONFIG, head)
    state = _state(theirs)
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64),
            depth_anything.convert({k: v.copy() for k, v in state.items()}, config),
        )
        found = jax.jit(depth_anything.DepthAnything(config, jnp.float64).apply)(
            {"params": params}, jnp.asarray(_images(42, 70))
        )
    assert (expected > 0).mean() > 0.2 and math.isfinite(expected.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
