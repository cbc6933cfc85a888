"""Where each parameter of an EVA-CLIP pair comes from: timm's names and the original ones.

OpenCLIP stores the image tower under ``visual.trunk.`` with timm's names; EVA-CLIP's own files have it
under ``visual.`` with other names for the same arrays, which ``image_view`` translates. Text towers
are OpenCLIP's under ``text.`` in both.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gsjax.models import clip_tables, eva, name_tables
from gsjax.models.eva_presets import EvaClipConfig
from gsjax.models.name_tables import Entry

PREFIXES = ("visual.trunk.", "visual.", "")
# Original name -> timm's, within a block.
_RENAMES = (
    (".attn.inner_attn_ln.", ".attn.norm."),
    (".mlp.ffn_ln.", ".mlp.norm."),
    (".mlp.w12.", ".mlp.fc1."),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
)
# Buffers: tables of rotary positions, and the text tower's mask.
IGNORE = (r"(.*\.)?rope\.", r"text\.attn_mask$", r"attn_mask$")


def image_view(state_dict: Mapping[str, np.ndarray], what: str = "checkpoint") -> name_tables.View:
    """The image tower alone, under timm's names, whichever naming the file has.

    Raises:
        ValueError: there is no EVA image tower in it.
    """
    for prefix in PREFIXES:
        if {f"{prefix}cls_token", f"{prefix}patch_embed.proj.weight"} <= set(state_dict):
            break
    else:
        raise ValueError(
            f"{what}: no EVA tower: it lacks 'visual.trunk.cls_token' (timm's names) and "
            f"'visual.cls_token' (EVA-CLIP's); it has e.g. {sorted(state_dict)[:4]}"
        )
    found = {key[len(prefix) :]: key for key in state_dict if key.startswith(prefix)}
    if not prefix:
        found = {name: key for name, key in found.items() if not key.startswith("text.")}
    apart = any(name.endswith(".attn.q_proj.weight") for name in found)
    return name_tables.View(
        state_dict, {_timm_name(name, apart): key for name, key in found.items()}
    )


def _timm_name(name: str, apart: bool) -> str:
    """``apart``: queries, keys and values have matrices of their own."""
    for theirs, timms in _RENAMES:
        name = name.replace(theirs, timms)
    return re.sub(r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias", name) if apart else name


def text_view(state_dict: Mapping[str, np.ndarray]) -> name_tables.View:
    """Everything that is not of the image tower: ``text.`` names and the logit scale."""
    return name_tables.View(state_dict, {k: k for k in state_dict if not k.startswith("visual.")})


def image_table(config: eva.EvaConfig, fused: bool) -> list[Entry]:
    """Entries of ``eva.EvaTower`` in timm's names.

    Args:
        config: sizes.
        fused: queries, keys and values in one matrix (g, E) or in three (B, L).
    """
    return [
        entry for layer in eva.layer_names(config) for entry in layer_table(config, layer, fused)
    ]


def layer_table(config: eva.EvaConfig, layer: str, fused: bool) -> list[Entry]:
    """The part of :func:`image_table` of one layer of ``eva.layer_names``."""
    if layer == "stem":
        return [
            Entry("patch_embed.proj.weight", "stem/patch/kernel", "conv2d"),
            Entry("patch_embed.proj.bias", "stem/patch/bias"),
            Entry("cls_token", "stem/cls_token"),
            Entry("pos_embed", "stem/positions"),
        ]
    if layer == "readout":
        return _norm("norm", "readout/norm") + _dense("head", "readout/head")
    theirs = f"blocks.{layer.partition('_')[2]}"
    attn = f"{theirs}.attn"
    kernel = f"{attn}.qkv.weight" if fused else tuple(f"{attn}.{x}_proj.weight" for x in "qkv")
    biases = [f"{attn}.{x}_bias" if fused else f"{attn}.{x}_proj.bias" for x in "qv"]
    entries = [
        *_norm(f"{theirs}.norm1", f"{layer}/norm1"),
        *_norm(f"{theirs}.norm2", f"{layer}/norm2"),
        Entry(kernel, f"{layer}/attn/qkv_kernel", "linear"),
        Entry(biases[0], f"{layer}/attn/q_bias"),
        Entry(biases[1], f"{layer}/attn/v_bias"),
        *_dense(f"{attn}.proj", f"{layer}/attn/proj"),
    ]
    if config.inner_norm:
        entries += _norm(f"{attn}.norm", f"{layer}/attn/norm")
    names = ("fc1_g", "fc1_x", "fc2") if config.mlp == "swiglu_norm" else ("fc1", "fc2")
    for name in names:
        entries += _dense(f"{theirs}.mlp.{name}", f"{layer}/mlp/{name}")
    if config.mlp == "swiglu_norm":
        entries += _norm(f"{theirs}.mlp.norm", f"{layer}/mlp/norm")
    return entries


def _dense(theirs: str, ours: str) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", "linear"),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]


def _norm(theirs: str, ours: str) -> list[Entry]:
    return [Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")]


def text_table(config: EvaClipConfig) -> list[Entry]:
    """Entries of ``clip.TextTower`` under 'text/', in the names of ``CustomTextCLIP``."""
    return [
        Entry(tuple(f"text.{key}" for key in entry.keys), entry.ours, entry.layout)
        for entry in clip_tables.table(config.text, "openclip")
        if entry.ours.startswith("text/")
    ]


def is_fused(view: Mapping) -> bool:
    """Whether queries, keys and values share a matrix."""
    return "blocks.0.attn.qkv.weight" in view


def layer_reader(
    config: eva.EvaConfig, state_dict: Mapping[str, np.ndarray]
) -> Callable[[str], dict]:
    """For ``eva.stream_encode``: reads one layer's parameters of a (lazy) state dict.

    Raises:
        ValueError: there is no EVA image tower in it; the function it returns: keys are missing or
            of other shapes.
    """
    view = image_view(state_dict)
    fused = is_fused(view)
    shapes = name_tables.flat_shapes(eva.abstract_variables(config))

    def read(layer: str) -> dict:
        table = layer_table(config, layer, fused)
        part = name_tables.View(
            view, {key: key for entry in table for key in entry.keys if key in view}
        )
        wanted = {name: s for name, s in shapes.items() if name.startswith(f"{layer}/")}
        return name_tables.convert(part, table, wanted, what=f"EVA, {layer}").variables[layer]

    return read


# Arrays that tell sizes: number of axes.
_RANKS = {
    **{"patch_embed.proj.weight": 4, "pos_embed": 3, "head.weight": 2},
    **{"blocks.0.mlp.fc1.weight": 2, "blocks.0.mlp.fc2.weight": 2},
}


def sizes(shapes: Mapping[str, Sequence[int]], what: str = "checkpoint") -> dict:
    """What the shapes of an image tower tell: fields of ``EvaConfig``.

    Heads, rotary positions and the place of the norms cannot be seen; published sizes
    (``eva_presets``) imply them.

    Args:
        shapes: of :func:`image_view`.
        what: the file, for messages.

    Raises:
        ValueError: keys are missing, arrays have another number of axes, or the positions are not a
            class token and a square.
    """
    name_tables.check_ranks(shapes, _RANKS, what)
    try:
        width, _, patch, _ = shapes["patch_embed.proj.weight"]
        tokens = shapes["pos_embed"][1]
        hidden = shapes["blocks.0.mlp.fc2.weight"][1]
        dim = shapes["head.weight"][0]
        if "blocks.0.mlp.fc1_g.weight" in shapes:
            mlp = "swiglu_norm"
        else:
            packed = shapes["blocks.0.mlp.fc1.weight"][0] == 2 * hidden
            mlp = "packed_swiglu" if packed else "gelu"
    except KeyError as error:
        raise ValueError(f"{what}: no EVA tower: it lacks {error}") from None
    grid = round((tokens - 1) ** 0.5)
    if grid * grid + 1 != tokens:
        raise ValueError(
            f"{what}: {tokens} positions are not a class token and a square of patches"
        )
    return dict(
        dim=dim,
        image_size=grid * patch,
        patch=patch,
        width=width,
        depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        hidden=hidden,
        mlp=mlp,
        inner_norm="blocks.0.attn.norm.weight" in shapes,
    )
