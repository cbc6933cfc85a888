"""Converted Uni3D weights against its point encoder in torch, layer by layer, at random weights.

The torch model is rebuilt here from public layers and from the format of the published checkpoints:
``torch.nn`` for the patch encoder, positions and read-out, timm's EVA blocks for the transformer (called
without rotary positions, as there). Differences met here: the torch model is given patches, since
farthest points and neighbours are not learned; BatchNorm uses its running statistics.

Needs torch, timm and torchvision (any build); see BUILD_NOTES.md.
"""

import jax
import numpy as np
import pytest

from gsjax.models import name_tables
from gsjax.systems.clip_gs import presets, tokenizer, uni3d
from tests.parity import timm_eva

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

pytestmark = pytest.mark.parity

_PATCHES = dict(enc_hidden=(16, 32, 64), enc_dim=48, embed_dim=40)
CASES = {
    "packed SwiGLU": dict(width=64, depth=2, heads=2, hidden=96, mlp="packed_swiglu", **_PATCHES),
    "SwiGLU with norm": dict(width=64, depth=2, heads=2, hidden=96, mlp="swiglu_norm", **_PATCHES),
    "GELU": dict(width=64, depth=2, heads=2, hidden=96, mlp="gelu", **_PATCHES),
    "tiny": presets.size("tiny"),
}


class PointEncoder(nn.Module):
    """Uni3D's encoder behind the grouping; names as in its checkpoints."""

    def __init__(self, c):
        super().__init__()
        first, inside, second = c["enc_hidden"]

        def convs(a, b, d):
            return nn.Sequential(
                nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU(), nn.Conv1d(b, d, 1)
            )

        self.encoder = nn.Module()
        self.encoder.first_conv = convs(6, first, inside)
        self.encoder.second_conv = convs(2 * inside, second, c["enc_dim"])
        width = c["width"]
        self.encoder2trans = nn.Linear(c["enc_dim"], width)
        self.trans2embed = nn.Linear(width, c["embed_dim"])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.visual = timm_eva.load().Eva(
            img_size=28,
            patch_size=14,
            num_classes=7,
            embed_dim=width,
            depth=c["depth"],
            num_heads=c["heads"],
            mlp_ratio=c["hidden"] / width + 1e-6,
            swiglu_mlp=c["mlp"] != "gelu",
            scale_mlp=c["mlp"] == "swiglu_norm",
            qkv_fused=c["mlp"] != "swiglu_norm",
            use_rot_pos_emb=c["mlp"] != "gelu",
        )

    def forward(self, patches, centers):
        """[B, G, n, 6] and [B, G, 3] -> [B, D]."""
        batch, groups, members, _ = patches.shape
        x = self.encoder.first_conv(patches.reshape(-1, members, 6).transpose(1, 2))
        top = x.max(2, keepdim=True)[0].expand(-1, -1, members)
        x = self.encoder.second_conv(torch.cat([top, x], 1)).max(2)[0]
        x = self.encoder2trans(x.reshape(batch, groups, -1)) + self.pos_embed(centers)
        first = (self.cls_token + self.cls_pos).expand(batch, -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.visual.blocks:
            x = block(x)
        return self.trans2embed(self.visual.fc_norm(x[:, 0]))


class Uni3D(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        self.point_encoder = PointEncoder(c)


@pytest.mark.parametrize("case", CASES)
def test_every_layer_equals_the_torch_model(case):
    config, prefix = CASES[case], "module." if case == "tiny" else ""
    model = timm_eva.randomised(Uni3D(config), 2)
    encoder = model.point_encoder
    rng = np.random.default_rng(3)
    groups, members = 24, 16
    attributes = rng.normal(size=(2, 1, groups, members, 19)).astype(np.float32)
    centers = rng.normal(size=(2, groups, 3)).astype(np.float32)
    blocks = [f"visual.blocks.{i}" for i in range(config["depth"])]
    layers = {"encoder.first_conv", "encoder2trans", "pos_embed", "visual.fc_norm", *blocks}
    points = torch.from_numpy(attributes[:, 0, ..., :6].copy())
    theirs = timm_eva.outputs(encoder, layers, lambda: encoder(points, torch.from_numpy(centers)))

    sd = {prefix + key: value.numpy() for key, value in model.state_dict().items()}
    converted = uni3d.convert(sd, heads=config["heads"])
    assert any("visual.pos_embed" in key for key in converted.ignored)
    gs_widths = (8, 8, 8)
    module = uni3d.module(converted.fields, gaussian_branch=True, gs_widths=gs_widths)
    patches = tokenizer.Patches(attributes, centers, np.full((2, 1), 3, np.int32))
    wanted = name_tables.flat_shapes(jax.eval_shape(module.init, jax.random.key(0), patches))
    # The branch that is new computes something, and its gate lets nothing through.
    fresh = {path: np.float32(rng.uniform(0.5, 1.5, wanted[path])) for path in wanted}
    fresh["params/encoder/gaussian_branch/gate"][:] = 0
    assert {path for path in fresh if "gaussian_branch/" in path} == wanted.keys() - set(
        converted.arrays
    )
    variables = name_tables.nest({**fresh, **converted.arrays})
    found, state = jax.jit(
        lambda v, x: module.apply(v, x, capture_intermediates=True, mutable=["intermediates"])
    )(variables, patches)
    inside = state["intermediates"]["encoder"]

    def ours(*path):
        node = inside
        for name in path:
            node = node[name]
        return np.asarray(node["__call__"][0])

    first = theirs["encoder.first_conv"].transpose(0, 2, 1)
    pairs = [
        ("first_conv", ours("point_branch", "first_1").reshape(first.shape), first),
        ("encoder2trans", ours("point_branch"), theirs["encoder2trans"]),
        ("pos_embed", ours("pos_1"), theirs["pos_embed"]),
    ]
    for i, name in enumerate(blocks):
        pairs.append((name, ours("visual", f"blocks_{i}"), theirs[name]))
    pairs.append(("fc_norm", ours("fc_norm"), theirs["visual.fc_norm"]))
    pairs.append(("trans2embed", found[0], theirs[""]))
    print(f"\n{case}")
    for name, mine, other in pairs:
        error = np.abs(mine - other).max()
        print(f"  {name:18s} max error {error:.2e} of {np.abs(other).max():.2f}")
        assert error <= 1e-4, name
    assert float(found[1]) == pytest.approx(4.25)
