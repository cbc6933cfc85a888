"""Where each parameter of DepthSplat (arXiv 2410.13862) comes from: the names of its released files.

Two layouts that do not fit each other: March 2025 (read from cvg/depthsplat at 1f5e548) and October 2024
(at 3e71cff), which PM-Loss (arXiv 2506.05327) keeps. ``find`` tells which one a file has, and of which size.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from gsjax.models import dinov2_tables, dpt_tables
from gsjax.models.feedforward import cnn, depthsplat, shared_tables
from gsjax.models.feedforward.shared_tables import layer, norm
from gsjax.models.name_tables import Entry

# Levels of the DPT decoders that other networks' maps join.
_JOINED = (0, 1, 2)
_THERE = "depth_predictor."
IGNORE = (
    r"depth_predictor\.pretrained\.mask_token$",
    *(rf"(depth_predictor\.upsampler|feature_upsampler)\.{part}" for part in dpt_tables.IGNORE),
)


def table(config: depthsplat.Config) -> list[Entry]:
    """Entries of ``depthsplat.DepthSplat``, names without ``encoder.``."""
    entries = [
        *shared_tables.cnn(
            f"{_THERE}backbone", "backbone/cnn", config.cnn_widths,
            cnn.stage_strides(config.lowest),
        ),
        *shared_tables.transformer(
            f"{_THERE}transformer", "backbone/transformer", config.blocks
        ),
        *dinov2_tables.table(config.vit, theirs=f"{_THERE}pretrained.", ours="vit/"),
        *dpt_tables.table(
            config.depth_head, "depthsplat", _JOINED, f"{_THERE}upsampler.", "depth_head/"
        ),
    ]  # fmt: skip
    if config.scales > 1:
        for name in ("mv_pyramid", "mono_pyramid"):  # the first stage is the map itself
            entries += layer(f"{_THERE}{name}.stages.1.0", f"{name}/up", "conv2d_transpose")
            entries += layer(f"{_THERE}{name}.stages.1.2", f"{name}/conv")
    for i in range(config.scales):
        entries += _sweep(config, i)
    entries += _features(config) + _regressor(config)
    for i in range(2):
        entries += layer(f"gaussian_head.{2 * i}", f"gaussian_head/conv_{i}")
    return entries


def _sweep(config: depthsplat.Config, scale: int) -> list[Entry]:
    at, ours = f"{_THERE}regressor.{scale}", f"cost_{scale}"
    entries = [
        *layer(f"{at}.0", f"{ours}/conv_in"),
        *norm(f"{at}.1", f"{ours}/norm_in"),
        *shared_tables.unet_entries(f"{at}.3", f"{ours}/unet", config.unet(scale)),
        *layer(f"{at}.4", f"{ours}/conv_out"),
        *layer(f"{_THERE}regressor_residual.{scale}", f"{ours}/residual"),
    ]
    for i in range(2):
        entries += layer(f"{_THERE}depth_head.{scale}.{2 * i}", f"{ours}/head_{i}")
    return entries


def _features(config: depthsplat.Config) -> list[Entry]:
    """The DPT decoder of March 2025, or the repeated upsampling of October 2024."""
    if config.feature_head is not None:
        prefixes = "feature_upsampler.", "feature_head/"
        return dpt_tables.table(config.feature_head, "depthsplat", _JOINED, *prefixes)
    entries = []
    for i in range(config.scales):
        at, ours = f"feature_upsampler.upsampler.{i}", f"feature_upsampler/scale_{i}"
        entries += layer(f"{at}.0", f"{ours}_in")
        for step in range((config.lowest >> i).bit_length() - 1):
            # Upsampling, convolution, GELU.
            entries += layer(f"{at}.{2 + 3 * step}", f"{ours}_conv_{step}")
    return entries


def _regressor(config: depthsplat.Config) -> list[Entry]:
    entries = layer("gaussian_regressor.0", "regressor/conv_0")
    if config.regressor_unet is None:
        return entries + layer("gaussian_regressor.2", "regressor/conv_1")
    return [
        *entries,
        *norm("gaussian_regressor.1", "regressor/norm"),
        *shared_tables.unet_entries(
            "gaussian_regressor.3", "regressor/unet", config.regressor_unet
        ),
        *layer("gaussian_regressor.4", "regressor/conv_1"),
    ]  # fmt: skip


def _signature(config: depthsplat.Config) -> dict[str, tuple[int, ...]]:
    """Shapes that no two presets but those of October 2024 and PM-Loss share."""
    first = config.depth_head.channels[0]
    joined = config.cnn_widths[0] + first
    if config.factor < 4 or config.scales < 2 and config.factor == 4:
        joined += config.cnn_widths[1]
    if config.factor < 4:  # the last sweep's map and depth, at the same level
        joined += config.channels // 2 + 1
    channels = 1 + config.adapter.channels
    hidden = 2 * channels if config.wide_head else channels
    last = config.scales - 1
    return {
        f"{_THERE}pretrained.cls_token": (1, 1, config.vit.width),
        f"{_THERE}upsampler.concat_projects.0.weight": (first, joined, 1, 1),
        f"{_THERE}regressor_residual.{last}.bias": (config.unet_width >> last,),
        "gaussian_head.2.weight": (channels, hidden, 3, 3),
    }


def find(state_dict: Mapping[str, np.ndarray], what: str = "DepthSplat") -> str:
    """The name of the preset that a file has the sizes of.

    PM-Loss's files have the layout of 'base_448_oct2024', which is what they are called here; how offsets are
    read differs, see ``depthsplat.PRESETS['pm_loss']``.

    Raises:
        ValueError: no preset; the message says what was found and what each has.
    """
    part = shared_tables.encoder_part(state_dict)
    keys = {key for config in depthsplat.PRESETS.values() for key in _signature(config)}
    found = {key: part.shape(key) for key in sorted(keys) if key in part}
    for name, config in depthsplat.PRESETS.items():
        signature = _signature(config)
        second = f"{_THERE}regressor_residual.{config.scales}.bias" in found
        if not second and all(found.get(key) == shape for key, shape in signature.items()):
            return name
    known = {name: _signature(config) for name, config in depthsplat.PRESETS.items()}
    raise ValueError(
        f"{what}: no DepthSplat of a published size: found {found or 'none of its names'}; known are "
        + ", ".join(f"{name} {list(shapes.values())}" for name, shapes in known.items())
    )


def published(config: depthsplat.Config) -> depthsplat.Config:
    """The config with what published weights were trained with where ours differs: the rotation of colours."""
    adapter = dataclasses.replace(config.adapter, sh_rotation="e3nn_compat")
    return dataclasses.replace(config, adapter=adapter)


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: depthsplat.Config,
    *,
    what: str = "DepthSplat",
    dtype=np.float32,
) -> dict:
    """Parameters of ``depthsplat.DepthSplat`` from a released file.

    Args:
        state_dict: see ``shared_tables.convert``.
        config: sizes, such as ``depthsplat.PRESETS[find(state_dict)]``; to run them take
            ``published(config)``.
        what: the file, for messages.
        dtype: of the result.

    Raises:
        ValueError: names are missing or unexpected, or shapes differ: one message lists them all.
    """
    model = depthsplat.DepthSplat(config)
    return shared_tables.convert(
        state_dict, table(config), model, config.stride, what=what, ignore=IGNORE, dtype=dtype
    )
