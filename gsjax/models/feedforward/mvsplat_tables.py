"""Where each parameter of MVSplat (arXiv 2403.14627) comes from: the names of its released files.

Read from the layers of donydchen/mvsplat at 4bcc493 (``encoder_costvolume``): the table names every parameter that
its network of the released configuration (re10k, acid) has. Its numbers were trained with two views.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from gsjax.models.feedforward import cnn, mvsplat, shared_tables
from gsjax.models.feedforward.shared_tables import layer, norm
from gsjax.models.name_tables import Entry


def table(config: mvsplat.Config) -> list[Entry]:
    """Entries of ``mvsplat.MVSplat``, names without ``encoder.``."""
    there = "depth_predictor."
    entries = [
        *shared_tables.cnn(
            "backbone.backbone", "backbone/cnn", config.cnn_widths,
            cnn.stage_strides(mvsplat.FACTOR, mvsplat.LAST_STRIDE),
        ),
        *shared_tables.transformer(
            "backbone.transformer", "backbone/transformer", config.blocks
        ),
        *layer(f"{there}corr_refine_net.0", "cost/conv_in"),
        *norm(f"{there}corr_refine_net.1", "cost/norm_in"),
        *shared_tables.unet_entries(
            f"{there}corr_refine_net.3", "cost/unet", config.cost_unet
        ),
        *layer(f"{there}corr_refine_net.4", "cost/conv_out"),
        *layer(f"{there}regressor_residual", "cost/residual"),
        *layer(f"{there}upsampler.0", "refine/upsample_conv"),
        *layer(f"{there}proj_feature", "refine/project"),
        *layer(f"{there}refine_unet.0", "refine/conv_in"),
        *norm(f"{there}refine_unet.1", "refine/norm_in"),
        *shared_tables.unet_entries(
            f"{there}refine_unet.3", "refine/unet", config.refine_unet
        ),
    ]  # fmt: skip
    heads = (
        ("depth_head_lowres", "cost/head"),
        ("to_gaussians", "refine/gaussians"),
        ("to_disparity", "refine/disparity"),
    )
    for theirs, ours in heads:
        for i in range(2):  # GELU has the place between
            entries += layer(f"{there}{theirs}.{2 * i}", f"{ours}_{i}")
    return entries


def published(config: mvsplat.Config) -> mvsplat.Config:
    """The config with what published weights were trained with where ours differs: the rotation of colours."""
    adapter = dataclasses.replace(config.adapter, sh_rotation="e3nn_compat")
    return dataclasses.replace(config, adapter=adapter)


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: mvsplat.Config = mvsplat.PRESETS["mvsplat"],
    *,
    what: str = "MVSplat",
    dtype=np.float32,
) -> dict:
    """Parameters of ``mvsplat.MVSplat`` from a released file.

    Args:
        state_dict: see ``shared_tables.convert``.
        config: sizes; to run them take ``published(config)``.
        what: the file, for messages.
        dtype: of the result.

    Raises:
        ValueError: names are missing or unexpected, or shapes differ: one message lists them all.
    """
    model = mvsplat.MVSplat(config)
    return shared_tables.convert(
        state_dict, table(config), model, config.stride, what=what, dtype=dtype
    )
