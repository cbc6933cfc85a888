"""From diffusers' ``AutoencoderKL`` to ``sd_vae``: names, sizes read off shapes, ``config.json``.

Two namings of the attention's matrices are about: ``query, key, value, proj_attn`` (files written
before diffusers 0.13 or so, ``stabilityai/sd-vae-ft-mse`` among them) and ``to_q, to_k, to_v,
to_out.0``. Either is read.
"""

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from gsjax.models import name_tables, sd_vae
from gsjax.models.name_tables import Entry

_NAMINGS = {
    "old": dict(q="query", k="key", v="value", out="proj_attn"),
    "new": dict(q="to_q", k="to_k", v="to_v", out="to_out.0"),
}
# What config.json may say and what is built here; anything else is another network.
_FIXED = dict(
    act_fn="silu",
    in_channels=3,
    out_channels=3,
    mid_block_add_attention=True,
    use_quant_conv=True,
    use_post_quant_conv=True,
)
_SIZES = dict(
    block_out_channels="widths",
    layers_per_block="layers",
    latent_channels="latent",
    norm_num_groups="groups",
)


def naming(state_dict: Mapping) -> str:
    """'old' or 'new': how the attention's matrices are named."""
    return "old" if "encoder.mid_block.attentions.0.query.weight" in state_dict else "new"


def table(config: sd_vae.Config, naming: str = "new") -> list[Entry]:
    """Every parameter of ``sd_vae.SdVae``.

    Args:
        config: sizes.
        naming: of the attention, see :func:`naming`.
    """
    entries = [
        *_conv("quant_conv", "encoder/quant"),
        *_conv("post_quant_conv", "decoder/post_quant"),
    ]
    for half in ("encoder", "decoder"):
        entries += _conv(f"{half}.conv_in", f"{half}/conv_in")
        entries += _norm(f"{half}.conv_norm_out", f"{half}/norm_out")
        entries += _conv(f"{half}.conv_out", f"{half}/conv_out")
        entries += _middle(half, _NAMINGS[naming])
    last, previous = len(config.widths) - 1, config.widths[0]
    for level, width in enumerate(config.widths):
        for i in range(config.layers):
            theirs = f"encoder.down_blocks.{level}.resnets.{i}"
            entries += _block(theirs, f"encoder/down_{level}_block_{i}", previous != width)
            previous = width
        if level < last:
            theirs = f"encoder.down_blocks.{level}.downsamplers.0.conv"
            entries += _conv(theirs, f"encoder/down_{level}_conv")
    for level, width in enumerate(reversed(config.widths)):
        for i in range(config.layers + 1):
            theirs = f"decoder.up_blocks.{level}.resnets.{i}"
            entries += _block(theirs, f"decoder/up_{level}_block_{i}", previous != width)
            previous = width
        if level < last:
            theirs = f"decoder.up_blocks.{level}.upsamplers.0.conv"
            entries += _conv(theirs, f"decoder/up_{level}_conv")
    return entries


def _middle(half: str, names: Mapping[str, str]) -> list[Entry]:
    theirs, ours = f"{half}.mid_block", f"{half}/middle"
    entries = _norm(f"{theirs}.attentions.0.group_norm", f"{ours}/attention/norm")
    for mine, name in names.items():
        entries += [
            Entry(
                f"{theirs}.attentions.0.{name}.weight", f"{ours}/attention/{mine}/kernel", "linear"
            ),
            Entry(f"{theirs}.attentions.0.{name}.bias", f"{ours}/attention/{mine}/bias"),
        ]
    for i in range(2):
        entries += _block(f"{theirs}.resnets.{i}", f"{ours}/block_{i}", False)
    return entries


def _block(theirs: str, ours: str, shortcut: bool) -> list[Entry]:
    entries = []
    for i in (1, 2):
        entries += _norm(f"{theirs}.norm{i}", f"{ours}/norm{i}")
        entries += _conv(f"{theirs}.conv{i}", f"{ours}/conv{i}")
    return entries + (_conv(f"{theirs}.conv_shortcut", f"{ours}/shortcut") if shortcut else [])


def _conv(theirs: str, ours: str) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", "conv2d"),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]


def _norm(theirs: str, ours: str) -> list[Entry]:
    return [Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")]


def config_of_json(text: str, what: str = "config.json") -> sd_vae.Config:
    """The sizes of a ``config.json``.

    Entries that are absent have the values of Stable Diffusion's autoencoder.

    Raises:
        ValueError: no JSON object, sizes that make no sense, or a network that is not built here
            (other activations, no attention in the middle, blocks of other kinds); one message lists
            what it asks for.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: not readable JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{what}: expected an object, found a {type(found).__name__}")
    name = found.get("_class_name", "AutoencoderKL")
    wrong = [] if name == "AutoencoderKL" else [f"_class_name={name!r}, expected 'AutoencoderKL'"]
    for key, value in _FIXED.items():
        if found.get(key, value) != value:
            wrong.append(f"{key}={found[key]!r}, expected {value!r}")
    for key, kind in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        kinds = found.get(key) or []
        if not isinstance(kinds, list) or any(one != kind for one in kinds):
            wrong.append(f"{key}={kinds!r}, expected {kind!r} alone")
    sizes = {}
    for theirs, ours in _SIZES.items():
        value = found.get(theirs, getattr(sd_vae.Config(), ours))
        numbers = value if isinstance(value, list | tuple) else [value]
        if (ours == "widths") is (numbers is not value) or any(type(n) is not int for n in numbers):
            wrong.append(f"{theirs}={value!r}, expected whole numbers")
        sizes[ours] = tuple(numbers) if ours == "widths" else value
    if wrong:
        raise ValueError(f"{what}: not the network that is built here:\n" + "\n".join(wrong))
    return sd_vae.Config(**sizes)


def config_of_shapes(
    shapes: Mapping[str, Sequence[int]], what: str = "checkpoint", groups: int = 32
) -> sd_vae.Config:
    """The sizes that a state dict's shapes tell.

    Args:
        shapes: key -> shape.
        what: the file, for messages.
        groups: of the norms, which cannot be seen; 32 in all published ones.

    Raises:
        ValueError: it is of no ``AutoencoderKL``.
    """
    pattern = re.compile(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")
    places = [tuple(map(int, m.groups())) for key in shapes if (m := pattern.fullmatch(key))]
    needed = ["decoder.conv_in.weight"]
    levels = 1 + max((level for level, _ in places), default=-1)
    needed += [f"encoder.down_blocks.{level}.resnets.0.conv1.weight" for level in range(levels)]
    absent = [key for key in needed if key not in shapes]
    if absent or not levels:
        missing = ", ".join(absent or ["encoder.down_blocks.0.resnets.0.conv1.weight"])
        raise ValueError(
            f"{what}: no AutoencoderKL of diffusers: it lacks {missing}. Files with names like "
            "'encoder.down.0.block.0' are of the original repository; take the diffusers version"
        )
    name_tables.check_ranks(shapes, dict.fromkeys(needed, 4), what)
    return sd_vae.Config(
        widths=tuple(int(shapes[key][0]) for key in needed[1:]),
        layers=1 + max(i for level, i in places if level == 0),
        latent=int(shapes["decoder.conv_in.weight"][1]),
        groups=groups,
    )


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: sd_vae.Config,
    what: str = "sd_vae",
    dtype=np.float32,
) -> dict:
    """Parameters of ``sd_vae.SdVae`` from a state dict of diffusers.

    Args:
        state_dict: name -> array, read one at a time.
        config: sizes.
        what: the file, for messages.
        dtype: of the kernels; vectors (biases, norms) stay float32.

    Raises:
        ValueError: missing or unexpected keys or other shapes; one message lists them all.
    """
    entries, shapes = table(config, naming(state_dict)), sd_vae.param_shapes(config)
    found = name_tables.flatten(
        name_tables.convert(state_dict, entries, shapes, what=what, dtype=None).variables
    )
    cast = {
        path: np.array(value, np.float32 if value.ndim == 1 else dtype, order="C")
        for path, value in found.items()
    }
    return name_tables.nest(cast)
