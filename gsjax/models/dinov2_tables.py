"""Where each parameter of a DINOv2 backbone comes from: three namings of the same arrays.

"facebook": the original files, and with a prefix those of Depth Anything V2 (``pretrained.``),
DepthSplat (``depth_predictor.pretrained.``) and VGGT (``aggregator.patch_embed.``). "transformers":
files on Hugging Face's hub for ``Dinov2Model``, with a prefix for models that hold one
(``backbone.``). "transformers5": state dicts of that model in memory since version 5.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from gsjax.models import dinov2, name_tables
from gsjax.models.name_tables import Entry

NAMINGS = ("facebook", "transformers", "transformers5")
PREFIXES = {
    "facebook": (
        "",
        "pretrained.",
        "depth_predictor.pretrained.",
        "encoder.depth_predictor.pretrained.",
        "aggregator.patch_embed.",
    ),
    "transformers": ("", "backbone.", "dinov2.", "dinov2_with_registers."),
}
# The token of masked training, which inference does not use.
IGNORE = (r"mask_token$", r"embeddings\.mask_token$")


def table(
    config: dinov2.DinoConfig, naming: str = "facebook", theirs: str = "", ours: str = ""
) -> list[Entry]:
    """Entries of ``dinov2.DinoV2``.

    Args:
        config: sizes.
        naming: of ``NAMINGS``.
        theirs, ours: prefixes of the names on either side, with the separator at their end.

    Raises:
        ValueError: unknown naming.
    """
    if naming not in NAMINGS:
        raise ValueError(f"naming: unknown {naming!r}; known: {NAMINGS}")
    plain = naming == "facebook"
    ahead = "" if plain else "embeddings."
    entries = [
        Entry(f"{ahead}cls_token", "cls_token"),
        Entry(f"{ahead}{'pos_embed' if plain else 'position_embeddings'}", "positions"),
        *_named("patch_embed.proj" if plain else "embeddings.patch_embeddings.projection", "patch",
                "conv2d"),
        *norm("norm" if plain else "layernorm", "norm"),
    ]  # fmt: skip
    if config.registers:
        entries.append(Entry(f"{ahead}register_tokens", "registers"))
    for i in range(config.depth):
        if plain:
            entries += block(f"blocks.{i}", f"blocks_{i}")
        else:
            entries += _hub_block(f"encoder.layer.{i}", f"blocks_{i}", naming)
    return name_tables.prefixed(entries, theirs, ours)


def block(theirs: str, ours: str, qk_norm: bool = False) -> list[Entry]:
    """Entries of a ``vit_blocks.Block`` in the original naming, which VGGT shares."""
    entries = [
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *_named(f"{theirs}.attn.qkv", f"{ours}/attn/qkv", "linear"),
        *_named(f"{theirs}.attn.proj", f"{ours}/attn/proj", "linear"),
        *_named(f"{theirs}.mlp.fc1", f"{ours}/fc1", "linear"),
        *_named(f"{theirs}.mlp.fc2", f"{ours}/fc2", "linear"),
        Entry(f"{theirs}.ls1.gamma", f"{ours}/gamma1"),
        Entry(f"{theirs}.ls2.gamma", f"{ours}/gamma2"),
    ]
    if qk_norm:
        entries += norm(f"{theirs}.attn.q_norm", f"{ours}/attn/q_norm")
        entries += norm(f"{theirs}.attn.k_norm", f"{ours}/attn/k_norm")
    return entries


def _hub_block(theirs: str, ours: str, naming: str) -> list[Entry]:
    if naming == "transformers":
        parts = [f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value")]
        out = f"{theirs}.attention.output.dense"
    else:
        parts = [f"{theirs}.attention.{part}_proj" for part in "qkv"]
        out = f"{theirs}.attention.o_proj"
    return [
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        Entry(tuple(f"{part}.weight" for part in parts), f"{ours}/attn/qkv/kernel", "linear"),
        Entry(tuple(f"{part}.bias" for part in parts), f"{ours}/attn/qkv/bias"),
        *_named(out, f"{ours}/attn/proj", "linear"),
        *_named(f"{theirs}.mlp.fc1", f"{ours}/fc1", "linear"),
        *_named(f"{theirs}.mlp.fc2", f"{ours}/fc2", "linear"),
        Entry(f"{theirs}.layer_scale1.lambda1", f"{ours}/gamma1"),
        Entry(f"{theirs}.layer_scale2.lambda1", f"{ours}/gamma2"),
    ]


def _named(theirs: str, ours: str, layout: str) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", layout),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]


def norm(theirs: str, ours: str) -> list[Entry]:
    """Entries of a LayerNorm."""
    return [Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")]


def find(state_dict: Mapping[str, np.ndarray], what: str = "checkpoint") -> tuple[str, str]:
    """(naming, prefix) of the backbone in a state dict.

    Raises:
        ValueError: there is no DINOv2 under any of the known prefixes.
    """
    for prefix in PREFIXES["facebook"]:
        if f"{prefix}cls_token" in state_dict and f"{prefix}pos_embed" in state_dict:
            return "facebook", prefix
    for prefix in PREFIXES["transformers"]:
        if f"{prefix}embeddings.cls_token" in state_dict:
            new = f"{prefix}encoder.layer.0.attention.q_proj.weight" in state_dict
            return ("transformers5" if new else "transformers"), prefix
    raise ValueError(
        f"{what}: no DINOv2: it lacks 'cls_token' with 'pos_embed' and 'embeddings.cls_token', alone "
        f"or behind one of {sorted({p for ps in PREFIXES.values() for p in ps if p})}; it has e.g. "
        f"{sorted(state_dict)[:4]}"
    )


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: dinov2.DinoConfig,
    *,
    what: str = "DINOv2",
    ignore: Iterable[str] = (),
    dtype=np.float32,
) -> dict:
    """Parameters of ``dinov2.DinoV2`` from a state dict that holds one, behind a prefix or not.

    Names without the prefix (heads, other networks) are left out.

    Args:
        state_dict: name -> array, read one at a time.
        config: sizes.
        what: the file, for messages.
        ignore: regular expressions of further keys, without the prefix, that are not used.
        dtype: of the result.

    Raises:
        ValueError: no DINOv2 in it; keys are missing or unexpected, or shapes differ: one message
            lists them all.
    """
    naming, prefix = find(state_dict, what)
    part = {key[len(prefix) :]: key for key in state_dict if key.startswith(prefix)}
    return name_tables.convert(
        name_tables.View(state_dict, part),
        table(config, naming),
        name_tables.flat_shapes(dinov2.abstract_variables(config)),
        what=what,
        ignore=(*IGNORE, *ignore),
        dtype=dtype,
    ).variables
