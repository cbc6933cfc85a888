"""Where each parameter of a DPT decoder comes from: the names of four projects.

"facebook": Depth Anything V2 (prefix ``depth_head.``) and VGGT (``point_head.``). "depthsplat": its two
decoders (``depth_predictor.upsampler.``, ``feature_upsampler.``). "transformers":
``DepthAnythingForDepthEstimation``, whose neck and head lie at the top.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import dpt, name_tables
from gsjax.models.name_tables import Entry

NAMINGS = ("facebook", "depthsplat", "transformers")
# The coarsest step adds no map: its first residual convolution exists in some files and does nothing.
IGNORE = (
    r"scratch\.refinenet4\.resConfUnit1\.",
    r"neck\.fusion_stage\.layers\.0\.residual_layer1\.",
)


def table(
    config: dpt.DptConfig,
    naming: str = "facebook",
    joined: Sequence[int] = (),
    theirs: str = "",
    ours: str = "",
) -> list[Entry]:
    """Entries of ``dpt.DPT``.

    Args:
        config: sizes.
        naming: of ``NAMINGS``.
        joined: levels that other maps join, see ``dpt.depthsplat_extras``: 0, 1 and 2 in DepthSplat.
        theirs, ours: prefixes of the names on either side, with the separator at their end.

    Raises:
        ValueError: unknown naming.
    """
    if naming not in NAMINGS:
        raise ValueError(f"naming: unknown {naming!r}; known: {NAMINGS}")
    hub = naming == "transformers"
    entries = []
    if config.norm:
        entries += [Entry("norm.weight", "norm/scale"), Entry("norm.bias", "norm/bias")]
    for i in range(dpt.LEVELS):
        stage = f"neck.reassemble_stage.layers.{i}"
        entries += _conv(f"{stage}.projection" if hub else f"projects.{i}", f"project_{i}")
        if i != 2:
            layout = "conv2d" if i == 3 else "conv2d_transpose"
            name = f"{stage}.resize" if hub else f"resize_layers.{i}"
            entries += _conv(name, f"resize_{i}", layout)
        reduce = f"neck.convs.{i}" if hub else f"scratch.layer{i + 1}_rn"
        entries.append(Entry(f"{reduce}.weight", f"reduce_{i}/kernel", "conv2d"))
        entries += _fusion(i, hub)
    for i in joined:
        entries += _conv(f"concat_projects.{i}", f"join_{i}")
    if config.head != "features":
        names = {
            "facebook": [f"scratch.output_conv{x}" for x in ("1", "2.0", "2.2")],
            "depthsplat": [f"scratch.output_conv.{x}" for x in (0, 2, 4)],
            "transformers": [f"head.conv{x}" for x in (1, 2, 3)],
        }[naming]
        for i, name in enumerate(names):
            entries += _conv(name, f"out_{i}")
    return name_tables.prefixed(entries, theirs, ours)


def _fusion(level: int, hub: bool) -> list[Entry]:
    if hub:  # numbered from coarse to fine
        at = f"neck.fusion_stage.layers.{dpt.LEVELS - 1 - level}"
        mix, units, conv = "projection", ("residual_layer1", "residual_layer2"), "convolution"
    else:
        at = f"scratch.refinenet{level + 1}"
        mix, units, conv = "out_conv", ("resConfUnit1", "resConfUnit2"), "conv"
    entries = _conv(f"{at}.{mix}", f"fuse_{level}/mix")
    for unit, ours in zip(units, ("level", "refine"), strict=True):
        if ours == "level" and level == dpt.LEVELS - 1:
            continue
        for i in range(2):
            entries += _conv(f"{at}.{unit}.{conv}{i + 1}", f"fuse_{level}/{ours}/conv_{i}")
    return entries


def _conv(theirs: str, ours: str, layout: str = "conv2d") -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", layout),
        Entry(f"{theirs}.bias", f"{ours}/bias"),
    ]


def abstract_variables(
    config: dpt.DptConfig, width: int, extras: Mapping[int, int] | None = None
) -> dict:
    """Shapes of all parameters, without making any.

    Args:
        config: sizes.
        width: channels of the four maps.
        extras: level -> channels that join it.
    """
    maps = [jax.ShapeDtypeStruct((1, 2, 2, width), jnp.float32)] * dpt.LEVELS
    sizes = (8, 4, 2, 1)
    others = None
    if extras:
        others = [
            dpt.Extra((jnp.zeros((1, sizes[i], sizes[i], extras[i])),)) if i in extras else None
            for i in range(dpt.LEVELS)
        ]
    model = dpt.DPT(config)
    return jax.eval_shape(lambda key, x: model.init(key, x, others), jax.random.key(0), maps)[
        "params"
    ]


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: dpt.DptConfig,
    width: int,
    *,
    naming: str = "facebook",
    prefix: str = "",
    extras: Mapping[int, int] | None = None,
    what: str = "DPT",
    dtype=np.float32,
) -> dict:
    """Parameters of ``dpt.DPT`` from the part of a state dict behind a prefix.

    Args:
        state_dict: name -> array, read one at a time.
        config: sizes.
        width: channels of the four maps.
        naming: of ``NAMINGS``.
        prefix: of the decoder's names; names without it are left out. For ``transformers`` the
            names under ``neck.`` and ``head.`` behind it are the decoder's.
        extras: level -> channels that join it (DepthSplat).
        what: the file, for messages.
        dtype: of the result.

    Raises:
        ValueError: keys are missing or unexpected, or shapes differ: one message lists them all.
    """
    parts = ("neck.", "head.") if naming == "transformers" else ("",)
    names = {
        key[len(prefix) :]: key
        for key in state_dict
        if key.startswith(tuple(prefix + part for part in parts))
    }
    return name_tables.convert(
        name_tables.View(state_dict, names),
        table(config, naming, sorted(extras or ())),
        name_tables.flat_shapes(abstract_variables(config, width, extras)),
        what=what,
        ignore=IGNORE,
        dtype=dtype,
    ).variables
