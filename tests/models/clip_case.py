"""A small CLIP in torch's layout, and its forward pass in NumPy, written from the published names."""

import math

import numpy as np

from gsjax.models import clip

CONFIG = clip.ClipConfig(
    dim=12, image_size=24, patch=8, image_width=32, image_layers=2, image_heads=2, image_hidden=48,
    text_width=24, text_layers=2, text_heads=3, text_hidden=96, context=9, vocabulary=50,
)  # fmt: skip


def openclip_state(config=CONFIG, seed=0) -> dict[str, np.ndarray]:
    """Random arrays under OpenCLIP's names, large enough that each matters."""
    rng = np.random.default_rng(seed)
    c = config
    shapes = {
        "logit_scale": (),
        "visual.conv1.weight": (c.image_width, 3, c.patch, c.patch),
        "visual.class_embedding": (c.image_width,),
        "visual.positional_embedding": (c.tokens, c.image_width),
        "visual.proj": (c.image_width, c.dim),
        "token_embedding.weight": (c.vocabulary, c.text_width),
        "positional_embedding": (c.context, c.text_width),
        "text_projection": (c.text_width, c.dim),
    }
    norms = [("visual.ln_pre", c.image_width), ("visual.ln_post", c.image_width)]
    norms += [("ln_final", c.text_width)]
    for prefix, layers, width, hidden in (
        ("visual.transformer", c.image_layers, c.image_width, c.image_hidden),
        ("transformer", c.text_layers, c.text_width, c.text_hidden),
    ):
        for i in range(layers):
            block = f"{prefix}.resblocks.{i}"
            norms += [(f"{block}.ln_1", width), (f"{block}.ln_2", width)]
            for name, shape in (
                ("attn.in_proj_", (3 * width, width)),
                ("attn.out_proj.", (width, width)),
                ("mlp.c_fc.", (hidden, width)),
                ("mlp.c_proj.", (width, hidden)),
            ):
                shapes[f"{block}.{name}weight"], shapes[f"{block}.{name}bias"] = shape, shape[:1]
    for name, width in norms:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    state = {
        key: np.asarray(rng.normal(size=shape) / math.sqrt(shape[-1] if len(shape) > 1 else 4))
        for key, shape in shapes.items()
    }
    return {key: value.astype(np.float32) for key, value in state.items()}


def hf_state(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays under the names of transformers' CLIPModel."""
    result = {
        "vision_model.embeddings.position_ids": np.arange(4),
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
    }
    names = {
        "logit_scale": "logit_scale",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
    }
    parts = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
        "visual.transformer.resblocks": "vision_model.encoder.layers",
        "transformer.resblocks": "text_model.encoder.layers",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "c_fc": "fc1",
        "c_proj": "fc2",
    }
    for key, value in state.items():
        if key in ("visual.proj", "text_projection"):
            continue
        name = names.get(key, key)
        for old, new in parts.items() if key not in names else ():
            name = name.replace(old, new)
        if ".attn.in_proj_" in name:
            for letter, third in zip("qkv", np.split(value, 3), strict=True):
                result[name.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = third
        else:
            result[name] = value
    return result


def _norm(x, state, name):
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return unit * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(x, state, name):
    return x @ state[f"{name}weight"].T + state[f"{name}bias"]


def _gelu(x, quick):
    if quick:
        return x / (1 + np.exp(-1.702 * x))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _block(x, state, name, heads, causal, quick):
    """One example, [T, W]."""
    q, k, v = np.split(
        _linear(_norm(x, state, f"{name}.ln_1"), state, f"{name}.attn.in_proj_"), 3, -1
    )
    size = q.shape[-1] // heads
    out = np.zeros_like(q)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for t in range(len(x)):
            seen = slice(0, t + 1) if causal else slice(None)
            logits = k[seen, part] @ q[t, part] / math.sqrt(size)
            weights = np.exp(logits - logits.max())
            out[t, part] = weights / weights.sum() @ v[seen, part]
    x = x + _linear(out, state, f"{name}.attn.out_proj.")
    h = _gelu(_linear(_norm(x, state, f"{name}.ln_2"), state, f"{name}.mlp.c_fc."), quick)
    return x + _linear(h, state, f"{name}.mlp.c_proj.")


def image_features(state, picture, config=CONFIG):
    """Features [D] of normalised pixels [S, S, 3], in float64."""
    state = {key: np.float64(value) for key, value in state.items()}
    side, p = config.image_size // config.patch, config.patch
    tokens = [state["visual.class_embedding"]]
    for row in range(side):
        for column in range(side):
            patch = picture[row * p : (row + 1) * p, column * p : (column + 1) * p]
            tokens.append(np.einsum("oikl,kli->o", state["visual.conv1.weight"], patch))
    x = np.stack(tokens) + state["visual.positional_embedding"]
    x = _norm(x, state, "visual.ln_pre")
    for i in range(config.image_layers):
        name = f"visual.transformer.resblocks.{i}"
        x = _block(x, state, name, config.image_heads, False, config.quick_gelu)
    return _norm(x[0], state, "visual.ln_post") @ state["visual.proj"]


def text_features(state, ids, config=CONFIG):
    """Features [D] of ids [T], in float64."""
    state = {key: np.float64(value) for key, value in state.items()}
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: len(ids)]
    for i in range(config.text_layers):
        name = f"transformer.resblocks.{i}"
        x = _block(x, state, name, config.text_heads, True, config.quick_gelu)
    return _norm(x[int(np.argmax(ids))], state, "ln_final") @ state["text_projection"]
