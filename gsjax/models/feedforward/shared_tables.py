"""Names of the parts that MVSplat's and DepthSplat's published weights share, and how such files are read.

Both keep the layout of UniMatch (CNN, transformer) and of latent diffusion's U-Net. Instance norms have no
parameters there, nor here; neither have the adapters.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import dinov2_tables, name_tables
from gsjax.models.feedforward import unet
from gsjax.models.name_tables import Entry

# Training runs save the encoder beside losses and a decoder, which have nothing that inference needs.
PREFIX = "encoder."
# Kept by some versions beside the parameters: the mask of SH bands, a constant.
IGNORE = (r"gaussian_adapter\.sh_mask$",)

norm = dinov2_tables.norm


def layer(theirs: str, ours: str, layout: str = "conv2d", use_bias: bool = True) -> list[Entry]:
    """A convolution or projection."""
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", layout)]
    return entries + [Entry(f"{theirs}.bias", f"{ours}/bias")] * use_bias


def cnn(theirs: str, ours: str, widths: Sequence[int], strides: Sequence[int]) -> list[Entry]:
    """``cnn.Cnn``; a stage's first block has a shortcut unless neither width nor sides change."""
    entries = layer(f"{theirs}.conv1", f"{ours}/stem", use_bias=False)
    for i, width in enumerate(widths):
        for j in range(2):
            at, here = f"{theirs}.layer{i + 1}.{j}", f"{ours}/stage_{i}_block_{j}"
            for k in range(2):
                entries += layer(f"{at}.conv{k + 1}", f"{here}/conv_{k}", use_bias=False)
            if i and not j and (width != widths[i - 1] or strides[i] != 1):
                entries += layer(f"{at}.downsample.0", f"{here}/shortcut")
    return entries + layer(f"{theirs}.conv2", f"{ours}/out")


def transformer(theirs: str, ours: str, blocks: int) -> list[Entry]:
    """``mv_transformer.MultiViewTransformer``."""
    entries = []
    for i in range(blocks):
        for part, name in (("self_attn", "self_attention"), ("cross_attn_ffn", "cross_attention")):
            at, here = f"{theirs}.layers.{i}.{part}", f"{ours}/block_{i}/{name}"
            for old, new in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("merge", "merge")):
                entries += layer(f"{at}.{old}", f"{here}/{new}", "linear", use_bias=False)
            entries += norm(f"{at}.norm1", f"{here}/norm_0")
            if name == "cross_attention":
                entries += layer(f"{at}.mlp.0", f"{here}/mlp_0", "linear", use_bias=False)
                entries += layer(f"{at}.mlp.2", f"{here}/mlp_1", "linear", use_bias=False)
                entries += norm(f"{at}.norm2", f"{here}/norm_1")
    return entries


def _block(theirs: str, ours: str, shortcut: bool, post_norm: bool) -> list[Entry]:
    """``unet.ResidualBlock``: two sequences, of which only the order of norm and convolution differs."""
    places = ((0, 1), (0, 1)) if post_norm else ((2, 0), (3, 0))
    entries = []
    for i, (part, (conv_at, norm_at)) in enumerate(
        zip(("in_layers", "out_layers"), places, strict=True)
    ):
        entries += layer(f"{theirs}.{part}.{conv_at}", f"{ours}/conv_{i}")
        entries += norm(f"{theirs}.{part}.{norm_at}", f"{ours}/norm_{i}")
    return entries + (layer(f"{theirs}.skip_connection", f"{ours}/shortcut") if shortcut else [])


def _attention(theirs: str, ours: str) -> list[Entry]:
    """``unet.Attention``: queries, keys and values of a head lie together there as here."""
    return [
        *norm(f"{theirs}.norm", f"{ours}/norm"),
        *layer(f"{theirs}.qkv", f"{ours}/qkv", "conv1x1"),
        *layer(f"{theirs}.proj_out", f"{ours}/out", "conv1x1"),
    ]


def unet_entries(theirs: str, ours: str, config: unet.Config) -> list[Entry]:
    """``unet.UNet``: there a running number for every block and every step between levels."""
    widths = [config.width * m for m in config.multipliers]
    attended = [2**level in config.attention for level in range(len(widths))]
    post = config.post_norm
    entries = layer(f"{theirs}.input_blocks.0.0", f"{ours}/conv_in")
    channels, kept, place = config.width, [config.width], 1
    for level, width in enumerate(widths):
        at, here = f"{theirs}.input_blocks.{place}", f"{ours}/down_{level}"
        entries += _block(f"{at}.0", here, channels != width, post)
        if attended[level]:
            entries += _attention(f"{at}.1", f"{here}_attention")
        channels, place = width, place + 1
        kept.append(width)
        if level < len(widths) - 1:
            entries += layer(f"{theirs}.input_blocks.{place}.0.op", f"{here}_conv")
            kept.append(width)
            place += 1
    for i in range(2):  # an attention that is not used lies between them
        entries += _block(f"{theirs}.middle_block.{2 * i}", f"{ours}/middle_{i}", False, post)
    place = 0
    for level in reversed(range(len(widths))):
        for i in range(2):
            at, here = f"{theirs}.output_blocks.{place}", f"{ours}/up_{level}_{i}"
            shortcut = channels + kept.pop() != widths[level]
            entries += _block(f"{at}.0", here, shortcut, post)
            if attended[level]:
                entries += _attention(f"{at}.1", f"{here}_attention")
            channels, place = widths[level], place + 1
        if level:
            entries += layer(f"{at}.{1 + attended[level]}.conv", f"{ours}/up_{level}_conv")
    conv_at, norm_at = (0, 1) if post else (2, 0)
    entries += layer(f"{theirs}.out.{conv_at}", f"{ours}/conv_out")
    return entries + norm(f"{theirs}.out.{norm_at}", f"{ours}/norm_out")


def abstract_variables(model: nn.Module, stride: int) -> dict:
    """Shapes of all parameters of a network, without making any."""
    shapes = ((1, 2, stride, stride, 3), (1, 2, 3, 3), (1, 2, 4, 4), (1,), (1,))
    batch = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.eval_shape(model.init, jax.random.key(0), *batch)["params"]


def encoder_part(state_dict: Mapping[str, np.ndarray]) -> name_tables.View:
    """The encoder of a state dict, without its prefix; all of it where no name has the prefix."""
    names = {k[len(PREFIX) :]: k for k in state_dict if k.startswith(PREFIX)}
    return name_tables.View(state_dict, names or {k: k for k in state_dict})


def convert(
    state_dict: Mapping[str, np.ndarray],
    table: Sequence[Entry],
    model: nn.Module,
    stride: int,
    *,
    what: str,
    ignore: Sequence[str] = (),
    dtype=np.float32,
) -> dict:
    """Parameters of a network from a file of its training run.

    Args:
        state_dict: name -> array, read one at a time; with the prefix ``encoder.`` or without.
        table: of names without the prefix.
        model: the network.
        stride: of its pictures.
        what: the network, for messages.
        ignore: regular expressions of further names that are not used.
        dtype: of the result.

    Raises:
        ValueError: names are missing or unexpected, or shapes differ: one message lists them all.
    """
    shapes = name_tables.flat_shapes(abstract_variables(model, stride))
    found = encoder_part(state_dict)
    ignore = (*IGNORE, *ignore)
    return name_tables.convert(
        found, table, shapes, what=what, ignore=ignore, dtype=dtype
    ).variables
