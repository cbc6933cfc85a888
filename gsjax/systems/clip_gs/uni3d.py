"""Uni3D's weights (arXiv 2310.06773) as this encoder's: names, layouts, and the size of a file.

CLIP-GS starts from Uni3D: point branch, positions, transformer, read-out and temperature come from
it; the Gaussian branch and the order indicator have no counterpart there and stay as initialised.
With its gate at zero the Gaussian branch adds nothing, so training starts at Uni3D's function.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.io import weights
from gsjax.models import name_tables, transformer
from gsjax.models.name_tables import Entry
from gsjax.systems.clip_gs import model, presets, tokenizer

_ROOT = "point_encoder."
# What Uni3D's files carry of the image transformer they were started from, and torch's counters.
# Its own class token and positions lie directly under 'point_encoder.'.
IGNORED = (
    r"point_encoder\.visual\.(patch_embed|head|rope)\.",
    r"point_encoder\.visual\.(cls_token|pos_embed)$",
    r"point_encoder\.encoder\.(first|second)_conv\.1\.num_batches_tracked$",
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Converted weights.

    Attributes:
        arrays: path in CLIP-GS's variables ('params/encoder/cls_token') -> array.
        fields: of ``config.model``: width, depth, heads, hidden, mlp, enc_hidden, enc_dim, embed_dim.
        size: name in ``presets.SIZES``; '' where the sizes are nobody's.
        ignored: keys of the file that are known and not used.
        new: paths of CLIP-GS's variables that the file does not bring.
    """

    arrays: dict[str, np.ndarray]
    fields: dict
    size: str
    ignored: tuple[str, ...]
    new: tuple[str, ...]


def read(path, heads: int | None = None) -> Weights:
    """:func:`convert` of a file, as ``io.weights.open_state_dict`` takes it."""
    return convert(weights.open_state_dict(path), heads=heads)


def convert(state_dict: Mapping[str, np.ndarray], *, heads: int | None = None) -> Weights:
    """CLIP-GS's variables from Uni3D's state dict; types are kept.

    Args:
        state_dict: names with or without 'module.' in front.
        heads: attention heads; None = of the public size, since arrays do not show it.

    Raises:
        ValueError: not Uni3D's, keys missing or left over, wrong shapes, or heads that are needed.
    """
    names = {key.removeprefix("module."): key for key in state_dict}
    found = weights.shapes(state_dict)
    shapes = {name: found[key] for name, key in names.items()}
    size, fields = architecture(shapes, heads)
    ignored = tuple(sorted(n for n in names if any(re.match(p, n) for p in IGNORED)))
    plain = {name: state_dict[key] for name, key in names.items() if name not in ignored}
    converted = name_tables.convert(
        plain,
        table(fields, fused=f"{_ROOT}visual.blocks.0.attn.qkv.weight" in shapes),
        _shapes(fields, gaussian_branch=False),
        what=f"uni3d ({size or 'no public size'})",
    )
    arrays = name_tables.flatten(converted.variables)
    new = sorted(_shapes(fields, gaussian_branch=True).keys() - arrays.keys())
    return Weights(arrays, fields, size, ignored, tuple(new))


def architecture(shapes: Mapping[str, Sequence[int]], heads: int | None = None) -> tuple[str, dict]:
    """Size name ('' = none of ours) and model fields that a state dict's shapes imply.

    Args:
        shapes: name -> shape.
        heads: attention heads; None = those of the named size.

    Raises:
        ValueError: not Uni3D's names, arrays with another number of axes, or no named size and no
            ``heads``.
    """
    name_tables.check_ranks(shapes, _RANKS, "uni3d")
    try:
        fields = _fields(shapes)
    except KeyError as error:
        raise ValueError(
            f"uni3d: key {error} is missing, so this is not a Uni3D checkpoint; its keys are "
            f"{', '.join(sorted(shapes)[:4])} ..."
        ) from None
    size = next(
        (
            name
            for name, preset in presets.SIZES.items()
            if all(preset[key] == fields[key] for key in ("width", "depth", "hidden", "mlp"))
        ),
        "",
    )
    heads = heads or (presets.SIZES[size]["heads"] if size else None)
    if heads is None:
        found = {key: fields[key] for key in ("width", "depth", "hidden", "mlp")}
        raise ValueError(
            f"uni3d: {found} is no named size ({', '.join(presets.SIZES)}), and the number of "
            "attention heads cannot be seen in the arrays; pass it"
        )
    return size, fields | dict(heads=heads)


def _fields(shapes) -> dict:
    blocks = f"{_ROOT}visual.blocks."
    depth = len({key[len(blocks) :].split(".")[0] for key in shapes if key.startswith(blocks)})
    width, hidden = shapes[f"{blocks}0.mlp.fc2.weight"]
    if f"{blocks}0.mlp.fc1_g.weight" in shapes:
        mlp = "swiglu_norm"
    else:
        mlp = "gelu" if shapes[f"{blocks}0.mlp.fc1.weight"][0] == hidden else "packed_swiglu"
    convs = [shapes[f"{_ROOT}encoder.{c}.weight"][0] for c in _CONVS]
    return dict(
        width=width,
        depth=depth,
        hidden=hidden,
        mlp=mlp,
        enc_hidden=tuple(convs[:3]),
        enc_dim=convs[3],
        embed_dim=shapes[f"{_ROOT}trans2embed.weight"][0],
    )


_CONVS = {
    "first_conv.0": "first_0",
    "first_conv.3": "first_1",
    "second_conv.0": "second_0",
    "second_conv.3": "second_1",
}
# Arrays that tell sizes: number of axes.
_RANKS = {
    f"{_ROOT}visual.blocks.0.mlp.fc1.weight": 2,
    f"{_ROOT}visual.blocks.0.mlp.fc2.weight": 2,
    f"{_ROOT}trans2embed.weight": 2,
    **{f"{_ROOT}encoder.{name}.weight": 3 for name in _CONVS},
}


def table(fields: Mapping, *, fused: bool) -> list[Entry]:
    """Where every variable of the encoder without its Gaussian branch comes from.

    Args:
        fields: of :func:`architecture`.
        fused: queries, keys and values in one matrix (tiny, small, giant) or in three.
    """
    entries = [Entry("logit_scale", "params/logit_scale")]
    for theirs, ours in _CONVS.items():
        entries += _dense(f"encoder.{theirs}", f"point_branch/{ours}", "conv1x1")
    for part in ("first", "second"):
        theirs, ours = f"{_ROOT}encoder.{part}_conv.1", f"encoder/point_branch/{part}_bn"
        entries += [
            Entry(f"{theirs}.weight", f"params/{ours}/scale"),
            Entry(f"{theirs}.bias", f"params/{ours}/bias"),
            Entry(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
            Entry(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
        ]
    entries += [Entry(f"{_ROOT}{name}", f"params/encoder/{name}") for name in _TOKENS]
    for theirs, ours in _DENSES.items():
        entries += _dense(theirs, ours)
    entries += _norm("visual.fc_norm", "fc_norm")
    for i in range(fields["depth"]):
        entries += _block(f"visual.blocks.{i}", f"visual/blocks_{i}", fields["mlp"], fused)
    return entries


_TOKENS = ("cls_token", "cls_pos")
_DENSES = {
    "encoder2trans": "point_branch/encoder2trans",
    "pos_embed.0": "pos_0",
    "pos_embed.2": "pos_1",
    "trans2embed": "trans2embed",
}
MLP_DENSES = {
    "packed_swiglu": ("fc1", "fc2"),
    "gelu": ("fc1", "fc2"),
    "swiglu_norm": ("fc1_g", "fc1_x", "fc2"),
}


def _block(theirs: str, ours: str, mlp: str, fused: bool) -> list[Entry]:
    entries = _norm(f"{theirs}.norm1", f"{ours}/norm1") + _norm(f"{theirs}.norm2", f"{ours}/norm2")
    attn, attn_ours = f"{_ROOT}{theirs}.attn", f"params/encoder/{ours}/attn"
    if fused:
        kernel, biases = f"{attn}.qkv.weight", ("q_bias", "v_bias")
    else:
        kernel = tuple(f"{attn}.{x}_proj.weight" for x in "qkv")
        biases = ("q_proj.bias", "v_proj.bias")
    entries.append(Entry(kernel, f"{attn_ours}/qkv_kernel", "linear"))
    for name, bias in zip(("q_bias", "v_bias"), biases):
        entries.append(Entry(f"{attn}.{bias}", f"{attn_ours}/{name}"))
    entries += _dense(f"{theirs}.attn.proj", f"{ours}/attn/proj")
    for name in MLP_DENSES[mlp]:
        entries += _dense(f"{theirs}.mlp.{name}", f"{ours}/mlp/{name}")
    if mlp == "swiglu_norm":
        entries += _norm(f"{theirs}.mlp.norm", f"{ours}/mlp/norm")
    return entries


def _dense(theirs: str, ours: str, layout: str = "linear") -> list[Entry]:
    return [
        Entry(f"{_ROOT}{theirs}.weight", f"params/encoder/{ours}/kernel", layout),
        Entry(f"{_ROOT}{theirs}.bias", f"params/encoder/{ours}/bias"),
    ]


def _norm(theirs: str, ours: str) -> list[Entry]:
    return [
        Entry(f"{_ROOT}{theirs}.weight", f"params/encoder/{ours}/scale"),
        Entry(f"{_ROOT}{theirs}.bias", f"params/encoder/{ours}/bias"),
    ]


def module(fields: Mapping, *, gaussian_branch: bool = False, **options) -> model.ClipGS:
    """The encoder that ``fields`` of :func:`architecture` describe; ``options`` of ``Encoder``."""
    blocks = transformer.TransformerConfig(
        fields["width"], fields["depth"], fields["heads"], fields["hidden"], fields["mlp"]
    )
    encoder = model.Encoder(
        blocks,
        enc_hidden=tuple(fields["enc_hidden"]),
        enc_dim=fields["enc_dim"],
        gs_widths=options.pop("gs_widths", presets.SIZES["base"]["gs_widths"]),
        embed_dim=fields["embed_dim"],
        gaussian_branch=gaussian_branch,
        **options,
    )
    return model.ClipGS(encoder)


def _shapes(fields: Mapping, gaussian_branch: bool) -> dict[str, tuple[int, ...]]:
    """Path -> shape of all variables; nothing is computed."""
    channels = tokenizer.NUM_ATTRIBUTES if gaussian_branch else tokenizer.NUM_POINT_ATTRIBUTES
    patches = tokenizer.Patches(
        jax.ShapeDtypeStruct((1, 1, 1, 4, channels), jnp.float32),
        jax.ShapeDtypeStruct((1, 1, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, 1), jnp.int32),
    )
    encoder = module(fields, gaussian_branch=gaussian_branch)
    return name_tables.flat_shapes(jax.eval_shape(encoder.init, jax.random.key(0), patches))
