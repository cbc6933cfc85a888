"""EVA-CLIP checkpoints with random arrays, and the image tower in NumPy, from timm's key names.

Written from the papers and the formats alone; nothing of the package is used.
"""

import math

import numpy as np

SIZE = dict(dim=6, image=12, patch=4, width=16, depth=2, heads=2, hidden=20)
TEXT = dict(width=8, layers=1, vocabulary=49_408, context=77)
ORIGINAL = {  # timm's name -> EVA-CLIP's own
    "attn.q_proj.bias": "attn.q_bias",
    "attn.v_proj.bias": "attn.v_bias",
    "attn.norm.": "attn.inner_attn_ln.",
    "mlp.norm.": "mlp.ffn_ln.",
    "mlp.fc1_g.": "mlp.w1.",
    "mlp.fc1_x.": "mlp.w2.",
    "mlp.fc2.": "mlp.w3.",
}


def image_shapes(eva02=True, dim=6, image=12, patch=4, width=16, depth=2, heads=2, hidden=20):
    """Key -> shape, in timm's names; ``eva02``: EVA02-B and -L, else EVA02-E."""
    del heads
    found = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (image // patch) ** 2, width),
    }

    def affine(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    affine("patch_embed.proj", width, 3, patch, patch)
    affine("norm", width)
    affine("head", dim, width)
    for i in range(depth):
        block = f"blocks.{i}"
        affine(f"{block}.norm1", width)
        affine(f"{block}.norm2", width)
        affine(f"{block}.attn.proj", width, width)
        affine(f"{block}.mlp.fc2", width, hidden)
        if eva02:
            affine(f"{block}.attn.q_proj", width, width)
            affine(f"{block}.attn.v_proj", width, width)
            found[f"{block}.attn.k_proj.weight"] = (width, width)
            affine(f"{block}.attn.norm", width)
            affine(f"{block}.mlp.fc1_g", hidden, width)
            affine(f"{block}.mlp.fc1_x", hidden, width)
            affine(f"{block}.mlp.norm", hidden)
        else:
            found[f"{block}.attn.qkv.weight"] = (3 * width, width)
            found[f"{block}.attn.q_bias"] = found[f"{block}.attn.v_bias"] = (width,)
            affine(f"{block}.mlp.fc1", hidden, width)
    return found


def text_shapes(dim=6, width=8, layers=1, vocabulary=49_408, context=77):
    """Key -> shape of the text tower and the logit scale."""
    found = {
        "logit_scale": (),
        "text.positional_embedding": (context, width),
        "text.text_projection": (width, dim),
        "text.token_embedding.weight": (vocabulary, width),
    }
    affine = {"text.ln_final": (width,)}
    for i in range(layers):
        block = f"text.transformer.resblocks.{i}"
        affine |= {f"{block}.ln_1": (width,), f"{block}.ln_2": (width,)}
        affine |= {
            f"{block}.mlp.c_fc": (4 * width, width),
            f"{block}.mlp.c_proj": (width, 4 * width),
        }
        affine[f"{block}.attn.out_proj"] = (width, width)
        found[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        found[f"{block}.attn.in_proj_bias"] = (3 * width,)
    for name, shape in affine.items():
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]
    return found


def _random(shapes, seed):
    rng = np.random.default_rng(seed)
    result = {}
    for key, shape in shapes.items():
        x = rng.normal(size=shape)
        last = f".{key}".rsplit(".", 2)[-2]
        if key.endswith("weight") and (last.startswith("norm") or last.startswith("ln_")):
            x = 1 + 0.2 * x
        elif key.endswith("weight") and len(shape) > 1:
            x = x / math.sqrt(np.prod(shape[1:]))
        else:
            x = 0.3 * x
        result[key] = np.asarray(x, np.float32)
    return result


def image_state_dict(seed=0, eva02=True, **size):
    """Random arrays of an image tower in timm's names."""
    return _random(image_shapes(eva02, **{**SIZE, **size}), seed)


def state_dict(seed=0, eva02=True, naming="timm"):
    """A whole pair, named as OpenCLIP ('timm') or EVA-CLIP ('original') stores it."""
    result = _random(text_shapes(SIZE["dim"], **TEXT), seed + 1)
    for key, value in image_state_dict(seed, eva02).items():
        if naming == "timm":
            result[f"visual.trunk.{key}"] = value
            continue
        for timms, original in ORIGINAL.items() if eva02 else ():
            key = key.replace(timms, original)
        result[f"visual.{key}"] = value
    if naming == "original":
        result["visual.rope.freqs_cos"] = np.zeros((4, 4), np.float32)
        result["visual.blocks.0.attn.rope.freqs_sin"] = np.zeros((4, 4), np.float32)
    return result


def forward(sd, pixels, eva02=True, heads=2, reference=16):
    """float64 features [D] of one normalised picture [S, S, 3]; ``sd`` in timm's names."""
    p = {key: np.float64(value) for key, value in sd.items()}
    kernel = p["patch_embed.proj.weight"]
    patch, grid = kernel.shape[-1], pixels.shape[0] // kernel.shape[-1]
    x = [p["cls_token"][0, 0]]
    for row in range(grid):
        for column in range(grid):
            y, z = row * patch, column * patch
            window = pixels[y : y + patch, z : z + patch]
            x.append(np.einsum("hwc,ochw->o", window, kernel) + p["patch_embed.proj.bias"])
    x = np.stack(x) + p["pos_embed"][0]
    for i in range(sum(key.endswith("norm1.weight") for key in p)):
        block = f"blocks.{i}"
        attention = lambda x, b=block: _attention(p, f"{b}.attn", x, heads, grid, reference, eva02)  # noqa: E731
        mlp = lambda x, b=block: _mlp(p, f"{b}.mlp", x, eva02)  # noqa: E731
        for name, branch in (("norm1", attention), ("norm2", mlp)):
            norm = lambda x, n=f"{block}.{name}": _norm(p, n, x)  # noqa: E731
            x = x + (branch(norm(x)) if eva02 else norm(branch(x)))
    return _dense(p, "head", _norm(p, "norm", x[0]))


def _dense(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _norm(p, name, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p[f"{name}.weight"] + p[f"{name}.bias"]


def _turned(x, grid, reference):
    """One head [1 + T, C]: channel pairs as complex numbers, times exp(i angle) of row or column."""
    pairs = x[:, 0::2] + 1j * x[:, 1::2]
    bands = pairs.shape[-1] // 2
    for token in range(1, len(x)):
        place = divmod(token - 1, grid)
        for axis in range(2):
            for band in range(bands):
                angle = place[axis] * reference / grid * 10_000.0 ** (-band / bands)
                pairs[token, axis * bands + band] *= np.exp(1j * angle)
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def _attention(p, name, x, heads, grid, reference, eva02):
    if eva02:
        q, v = _dense(p, f"{name}.q_proj", x), _dense(p, f"{name}.v_proj", x)
        k = x @ p[f"{name}.k_proj.weight"].T
    else:
        q, k, v = np.split(x @ p[f"{name}.qkv.weight"].T, 3, -1)
        q, v = q + p[f"{name}.q_bias"], v + p[f"{name}.v_bias"]
    out = []
    for hq, hk, hv in zip(*(np.split(part, heads, -1) for part in (q, k, v))):
        if eva02:
            hq, hk = _turned(hq, grid, reference), _turned(hk, grid, reference)
        scores = np.exp(hq @ hk.T / math.sqrt(hq.shape[-1]))
        out.append(scores / scores.sum(-1, keepdims=True) @ hv)
    x = np.concatenate(out, -1)
    return _dense(p, f"{name}.proj", _norm(p, f"{name}.norm", x) if eva02 else x)


def _mlp(p, name, x, eva02):
    if eva02:
        h = _dense(p, f"{name}.fc1_g", x)
        h = h / (1 + np.exp(-h)) * _dense(p, f"{name}.fc1_x", x)
        return _dense(p, f"{name}.fc2", _norm(p, f"{name}.norm", h))
    h = _dense(p, f"{name}.fc1", x)
    return _dense(p, f"{name}.fc2", h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2)
