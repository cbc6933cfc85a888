"""EVA image towers against timm's, layer by layer, at random weights.

timm 1.0 (``timm.models.eva.Eva``) with the switches of its CLIP variants, small and at the size of
EVA02-B-16. Its rotary tables are computed in float32, ours in float64. Needs torch, timm and
torchvision (any build); see BUILD_NOTES.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import eva, eva_presets, eva_tables, name_tables
from tests.parity import timm_eva

torch = pytest.importorskip("torch", reason="torch is not installed")

pytestmark = pytest.mark.parity

EVA02 = dict(
    qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True, use_rot_pos_emb=True,
    ref_feat_shape=(16, 16),
)  # fmt: skip
SMALL = dict(dim=24, patch=8, width=64, depth=3, heads=2, hidden=170)
_OTHER = dict(mlp="gelu", rotary=False, inner_norm=False)
CASES = {
    "EVA02": (eva.EvaConfig(image_size=40, **SMALL), EVA02),
    "EVA02 at the reference grid": (eva.EvaConfig(image_size=128, **SMALL), EVA02),
    "EVA01": (eva.EvaConfig(image_size=40, **SMALL, **_OTHER), {}),
    "EVA02-E": (
        eva.EvaConfig(image_size=40, **SMALL, **_OTHER, post_norm=True),
        dict(use_post_norm=True),
    ),
    "EVA02-B-16": (eva_presets.preset("EVA02-B-16").image, EVA02),
}


def _theirs(config, switches):
    model = timm_eva.load().Eva(
        img_size=config.image_size,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.hidden / config.width + 1e-6,
        num_classes=config.dim,
        global_pool="token",
        **switches,
    )
    return timm_eva.randomised(model, 1)


@pytest.mark.parametrize("case", CASES)
def test_every_layer_equals_timms(case):
    config, switches = CASES[case]
    model = _theirs(config, switches)
    shape = (2, config.image_size, config.image_size, 3)
    pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    blocks = [f"blocks.{i}" for i in range(config.depth)]
    moved = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    theirs = timm_eva.outputs(model, {*blocks, "norm"}, lambda: model(moved))

    sd = {f"visual.trunk.{k}": v.numpy() for k, v in model.state_dict().items()}
    view = eva_tables.image_view(sd)
    table = eva_tables.image_table(config, eva_tables.is_fused(view))
    shapes = name_tables.flat_shapes(eva.abstract_variables(config))
    params = name_tables.convert(view, table, shapes, what=case).variables
    tower = eva.EvaTower(config)
    found, state = jax.jit(lambda p, x: tower.apply({"params": p}, x, capture_intermediates=True))(
        params, pixels
    )
    inside = state["intermediates"]

    pairs = [(b, inside[b.replace(".", "_")]["__call__"][0], theirs[b]) for b in blocks]
    pairs.append(("norm", inside["readout"]["norm"]["__call__"][0], theirs["norm"][:, 0]))
    pairs.append(("head", found, theirs[""]))
    print(f"\n{case}")
    for name, ours, other in pairs:
        error = np.abs(ours - other).max()
        print(f"  {name:10s} max error {error:.2e} of {np.abs(other).max():.2f}")
        assert error <= 1e-4, name


def test_bfloat16_stays_near_timms_float32():
    config, switches = CASES["EVA02"]
    model = _theirs(config, switches)
    pixels = np.random.default_rng(0).normal(size=(2, 40, 40, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    sd = {k: v.numpy() for k, v in model.state_dict().items()}
    read = eva_tables.layer_reader(config, sd)
    found = eva.stream_encode(config, read, pixels, dtype=jnp.bfloat16)
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (found, theirs)]
    assert (unit[0] * unit[1]).sum(-1).min() > 0.999
