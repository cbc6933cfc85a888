"""Where each parameter of ``clip.Clip`` comes from: OpenCLIP's names and Hugging Face's.

Tables for ``name_tables.convert`` and ``invert``, and the sizes that a checkpoint's shapes tell.
OpenAI's own state dicts have OpenCLIP's names. Files with text keys under ``text.`` are of other
classes (EVA, SigLIP) and not read here.
"""

from collections.abc import Mapping, Sequence

from gsjax.models import clip, name_tables

NAMINGS = ("openclip", "hf")
# Known and not used: sizes that OpenAI stored as arrays, buffers of position indices and masks.
IGNORE = {
    "openclip": (r"input_resolution$", r"context_length$", r"vocab_size$", r"attn_mask$"),
    "hf": (r".*\.position_ids$",),
}


def table(config: clip.ClipConfig, naming: str) -> list[name_tables.Entry]:
    """Entries of every parameter.

    Args:
        config: sizes of the towers.
        naming: of ``NAMINGS``: 'openclip' (class ``CLIP``) or 'hf' (``CLIPModel`` of transformers).

    Raises:
        ValueError: unknown naming.
    """
    if naming not in NAMINGS:
        raise ValueError(f"naming: unknown {naming!r}; known: {NAMINGS}")
    return _openclip(config) if naming == "openclip" else _hf(config)


def _norm(theirs: str, ours: str) -> list[name_tables.Entry]:
    return [
        name_tables.Entry(f"{theirs}.weight", f"{ours}/scale"),
        name_tables.Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]


def _dense(theirs: str | Sequence[str], ours: str) -> list[name_tables.Entry]:
    """A Linear with bias, or several side by side."""
    theirs = (theirs,) if isinstance(theirs, str) else theirs
    weights, biases = (tuple(f"{name}.{end}" for name in theirs) for end in ("weight", "bias"))
    return [
        name_tables.Entry(weights, f"{ours}/kernel", "linear"),
        name_tables.Entry(biases, f"{ours}/bias"),
    ]


def _openclip(config: clip.ClipConfig) -> list[name_tables.Entry]:
    entry = name_tables.Entry
    result = [
        entry("logit_scale", "logit_scale"),
        entry("visual.conv1.weight", "image/patch/kernel", "conv2d"),
        entry("visual.class_embedding", "image/class_embedding"),
        entry("visual.positional_embedding", "image/positions"),
        *_norm("visual.ln_pre", "image/ln_pre"),
        *_norm("visual.ln_post", "image/ln_post"),
        entry("visual.proj", "image/proj"),
        entry("token_embedding.weight", "text/token_embedding"),
        entry("positional_embedding", "text/positions"),
        *_norm("ln_final", "text/ln_final"),
        entry("text_projection", "text/proj"),
    ]
    for tower, prefix, layers in (
        ("image", "visual.transformer", config.image_layers),
        ("text", "transformer", config.text_layers),
    ):
        for i in range(layers):
            theirs, ours = f"{prefix}.resblocks.{i}", f"{tower}/blocks_{i}"
            result += [
                *_norm(f"{theirs}.ln_1", f"{ours}/ln_1"),
                *_norm(f"{theirs}.ln_2", f"{ours}/ln_2"),
                entry(f"{theirs}.attn.in_proj_weight", f"{ours}/attn/qkv/kernel", "linear"),
                entry(f"{theirs}.attn.in_proj_bias", f"{ours}/attn/qkv/bias"),
                *_dense(f"{theirs}.attn.out_proj", f"{ours}/attn/out"),
                *_dense(f"{theirs}.mlp.c_fc", f"{ours}/fc"),
                *_dense(f"{theirs}.mlp.c_proj", f"{ours}/proj"),
            ]
    return result


def _hf(config: clip.ClipConfig) -> list[name_tables.Entry]:
    entry = name_tables.Entry
    image, text = "vision_model", "text_model"
    result = [
        entry("logit_scale", "logit_scale"),
        entry(f"{image}.embeddings.patch_embedding.weight", "image/patch/kernel", "conv2d"),
        entry(f"{image}.embeddings.class_embedding", "image/class_embedding"),
        entry(f"{image}.embeddings.position_embedding.weight", "image/positions"),
        *_norm(f"{image}.pre_layrnorm", "image/ln_pre"),  # their spelling
        *_norm(f"{image}.post_layernorm", "image/ln_post"),
        entry("visual_projection.weight", "image/proj", "linear"),
        entry(f"{text}.embeddings.token_embedding.weight", "text/token_embedding"),
        entry(f"{text}.embeddings.position_embedding.weight", "text/positions"),
        *_norm(f"{text}.final_layer_norm", "text/ln_final"),
        entry("text_projection.weight", "text/proj", "linear"),
    ]
    for tower, prefix, layers in (
        ("image", image, config.image_layers),
        ("text", text, config.text_layers),
    ):
        for i in range(layers):
            theirs, ours = f"{prefix}.encoder.layers.{i}", f"{tower}/blocks_{i}"
            result += [
                *_norm(f"{theirs}.layer_norm1", f"{ours}/ln_1"),
                *_norm(f"{theirs}.layer_norm2", f"{ours}/ln_2"),
                *_dense([f"{theirs}.self_attn.{x}_proj" for x in "qkv"], f"{ours}/attn/qkv"),
                *_dense(f"{theirs}.self_attn.out_proj", f"{ours}/attn/out"),
                *_dense(f"{theirs}.mlp.fc1", f"{ours}/fc"),
                *_dense(f"{theirs}.mlp.fc2", f"{ours}/proj"),
            ]
    return result


# Keys that tell sizes: patches, image positions, MLP, image projection, ids, text positions, MLP,
# text projection.
_TELLING = {
    "openclip": (
        *("visual.conv1.weight", "visual.positional_embedding"),
        *("visual.transformer.resblocks.0.mlp.c_fc.weight", "visual.proj"),
        *("token_embedding.weight", "positional_embedding"),
        *("transformer.resblocks.0.mlp.c_fc.weight", "text_projection"),
    ),
    "hf": (
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        *("vision_model.encoder.layers.0.mlp.fc1.weight", "visual_projection.weight"),
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        *("text_model.encoder.layers.0.mlp.fc1.weight", "text_projection.weight"),
    ),
}
_RANKS = (4, 2, 2, 2, 2, 2, 2, 2)
_LAYERS = {
    "openclip": ("visual.transformer.resblocks.{}.ln_1.weight", "transformer.resblocks.{}.ln_1.weight"),
    "hf": (
        "vision_model.encoder.layers.{}.layer_norm1.weight",
        "text_model.encoder.layers.{}.layer_norm1.weight",
    ),
}  # fmt: skip


def sizes(shapes: Mapping[str, Sequence[int]], naming: str, what: str = "checkpoint") -> dict:
    """What shapes tell: the fields of ``ClipConfig`` but for heads and activation.

    Args:
        shapes: key -> shape of a state dict.
        naming: of ``NAMINGS``.
        what: the file, for messages.

    Raises:
        ValueError: no state dict of this class and naming, arrays with another number of axes, or
            towers that do not share a width.
    """
    telling = _TELLING[naming]
    missing = [key for key in telling if key not in shapes]
    if missing:
        hint = _hint(shapes, naming)
        raise ValueError(
            f"{what}: no CLIP with {naming} names: it lacks {missing}; it has e.g. "
            f"{sorted(shapes)[:4]}. {hint}"
        )
    name_tables.check_ranks(shapes, dict(zip(telling, _RANKS, strict=True)), what)
    conv, places, image_fc, image_proj, table_, context, text_fc, text_proj = (
        tuple(shapes[key]) for key in telling
    )
    if naming == "hf":  # Linear layers there, plain matrices in OpenCLIP
        image_proj, text_proj = image_proj[::-1], text_proj[::-1]
    if image_proj[-1] != text_proj[-1]:
        raise ValueError(
            f"{what}: the image tower projects to {image_proj[-1]} values, the text tower to "
            f"{text_proj[-1]}; a pair shares one width"
        )
    side = round((places[0] - 1) ** 0.5)
    if side * side + 1 != places[0]:
        raise ValueError(
            f"{what}: {places[0]} image positions are not a class token and a square of patches"
        )
    layers = [_count(shapes, pattern) for pattern in _LAYERS[naming]]
    return dict(
        dim=image_proj[-1],
        image_size=side * conv[-1],
        patch=conv[-1],
        image_width=conv[0],
        image_layers=layers[0],
        image_hidden=image_fc[0],
        text_width=table_[1],
        text_layers=layers[1],
        text_hidden=text_fc[0],
        context=context[0],
        vocabulary=table_[0],
    )


def _count(shapes: Mapping, pattern: str) -> int:
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    return count


def _hint(shapes: Mapping, naming: str) -> str:
    """What the file may be instead."""
    for other in NAMINGS:
        if other != naming and all(key in shapes for key in _TELLING[other]):
            kind = {"openclip": "openclip", "hf": "hf_clip"}[other]
            return f"Its names are those of kind {kind!r}: load it as {kind}:PATH"
    if any(key.startswith("visual.trunk.") for key in shapes):
        return "Its image tower has timm's names (EVA, SigLIP, ...): a pair of another class"
    if any(key.startswith("visual.layer1.") for key in shapes):
        return "Its image tower is a ResNet, which is not supported"
    return "Choose the file of a ViT tower pair, see docs/weights.md"
