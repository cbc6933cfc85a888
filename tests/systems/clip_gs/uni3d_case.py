"""A checkpoint in Uni3D's format with random arrays, and its forward pass in NumPy, from its keys.

Written from the published format and the paper alone; nothing of the package is used.
"""

import math

import numpy as np

HEADS = 2
SMALL = dict(width=16, depth=2, hidden=24, convs=(8, 12, 20, 28), dim=10)


def shapes(width, depth, hidden, convs, dim, mlp="packed_swiglu", fused=True, images=True):
    """Key -> shape of every array of a checkpoint."""
    root = "point_encoder."
    found = {"logit_scale": (), f"{root}cls_token": (1, 1, width), f"{root}cls_pos": (1, 1, width)}

    def affine(name, *shape):
        found[f"{root}{name}.weight"] = shape
        found[f"{root}{name}.bias"] = shape[:1]

    for part, (a, b), inside in (
        ("first", convs[:2], 6),
        ("second", convs[2:], 2 * convs[1]),
    ):
        affine(f"encoder.{part}_conv.0", a, inside, 1)
        affine(f"encoder.{part}_conv.1", a)
        found[f"{root}encoder.{part}_conv.1.running_mean"] = (a,)
        found[f"{root}encoder.{part}_conv.1.running_var"] = (a,)
        found[f"{root}encoder.{part}_conv.1.num_batches_tracked"] = ()
        affine(f"encoder.{part}_conv.3", b, a, 1)
    affine("encoder2trans", width, convs[3])
    affine("trans2embed", dim, width)
    affine("pos_embed.0", 128, 3)
    affine("pos_embed.2", width, 128)
    affine("visual.fc_norm", width)
    for i in range(depth):
        block = f"visual.blocks.{i}"
        affine(f"{block}.norm1", width)
        affine(f"{block}.norm2", width)
        affine(f"{block}.attn.proj", width, width)
        if fused:
            found[f"{root}{block}.attn.qkv.weight"] = (3 * width, width)
            found[f"{root}{block}.attn.q_bias"] = found[f"{root}{block}.attn.v_bias"] = (width,)
        else:
            affine(f"{block}.attn.q_proj", width, width)
            affine(f"{block}.attn.v_proj", width, width)
            found[f"{root}{block}.attn.k_proj.weight"] = (width, width)
        if mlp == "swiglu_norm":
            affine(f"{block}.mlp.fc1_g", hidden, width)
            affine(f"{block}.mlp.fc1_x", hidden, width)
            affine(f"{block}.mlp.norm", hidden)
        else:
            affine(f"{block}.mlp.fc1", hidden * (2 if mlp == "packed_swiglu" else 1), width)
        affine(f"{block}.mlp.fc2", width, hidden)
    if images:
        affine("visual.patch_embed.proj", width, 3, 14, 14)
        found[f"{root}visual.cls_token"] = (1, 1, width)
        found[f"{root}visual.pos_embed"] = (1, 257, width)
    return found


def state_dict(seed=0, **case):
    """Random float32 arrays under those keys; norms near one, variances positive."""
    rng = np.random.default_rng(seed)
    result = {}
    for key, shape in shapes(**case).items():
        x = rng.normal(size=shape)
        last = f".{key}".rsplit(".", 2)[-2]
        if key.endswith("running_var"):
            x = 0.5 + x**2
        elif key.endswith("weight") and ("norm" in last or last == "1"):
            x = 1 + 0.2 * x
        elif key.endswith("weight"):
            x = x / math.sqrt(np.prod(shape[1:]))
        elif key == "logit_scale":
            x = np.asarray(4.25)
        else:
            x = 0.3 * x
        result[key] = np.asarray(x, np.float32)
    return result


def forward(sd, patches, centers, heads=HEADS):
    """float64 embedding [D] of one object.

    Args:
        sd: the state dict.
        patches: [G, n, 6] centre-relative positions and colours.
        centers: [G, 3].
    """
    p = {k.removeprefix("point_encoder."): np.float64(v) for k, v in sd.items()}
    h = _conv_norm_conv(p, "first", patches)
    top = np.broadcast_to(h.max(1, keepdims=True), h.shape)
    tokens = _conv_norm_conv(p, "second", np.concatenate([top, h], -1)).max(1)
    tokens = _dense(p, "encoder2trans", tokens)
    pos = _dense(p, "pos_embed.2", _gelu(_dense(p, "pos_embed.0", np.float64(centers))))
    x = np.concatenate([(p["cls_token"] + p["cls_pos"])[0], tokens + pos])
    for i in range(sum(key.endswith("norm1.weight") for key in p)):
        block = f"visual.blocks.{i}"
        x = x + _attention(p, f"{block}.attn", _norm(p, f"{block}.norm1", x), heads)
        x = x + _mlp(p, f"{block}.mlp", _norm(p, f"{block}.norm2", x))
    return _dense(p, "trans2embed", _norm(p, "visual.fc_norm", x[0]))


def _dense(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _conv_norm_conv(p, part, x):
    name = f"encoder.{part}_conv"
    x = x @ p[f"{name}.0.weight"][..., 0].T + p[f"{name}.0.bias"]
    x = (x - p[f"{name}.1.running_mean"]) / np.sqrt(p[f"{name}.1.running_var"] + 1e-5)
    x = np.maximum(x * p[f"{name}.1.weight"] + p[f"{name}.1.bias"], 0)
    return x @ p[f"{name}.3.weight"][..., 0].T + p[f"{name}.3.bias"]


def _norm(p, name, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p[f"{name}.weight"] + p[f"{name}.bias"]


def _attention(p, name, x, heads):
    if f"{name}.qkv.weight" in p:
        q, k, v = np.split(x @ p[f"{name}.qkv.weight"].T, 3, -1)
        q, v = q + p[f"{name}.q_bias"], v + p[f"{name}.v_bias"]
    else:
        q, v = _dense(p, f"{name}.q_proj", x), _dense(p, f"{name}.v_proj", x)
        k = x @ p[f"{name}.k_proj.weight"].T
    out = []
    for hq, hk, hv in zip(*(np.split(part, heads, -1) for part in (q, k, v))):
        scores = np.exp(hq @ hk.T / math.sqrt(hq.shape[-1]))
        out.append(scores / scores.sum(-1, keepdims=True) @ hv)
    return _dense(p, f"{name}.proj", np.concatenate(out, -1))


def _gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _silu(x):
    return x / (1 + np.exp(-x))


def _mlp(p, name, x):
    if f"{name}.fc1_g.weight" in p:
        h = _silu(_dense(p, f"{name}.fc1_g", x)) * _dense(p, f"{name}.fc1_x", x)
        h = _norm(p, f"{name}.norm", h)
    else:
        h = _dense(p, f"{name}.fc1", x)
        gate, value = np.split(h, 2, -1)
        packed = h.shape[-1] == 2 * p[f"{name}.fc2.weight"].shape[1]
        h = _silu(gate) * value if packed else _gelu(h)
    return _dense(p, f"{name}.fc2", h)
