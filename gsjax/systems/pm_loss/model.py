"""The network that ``config.model`` names, and what it says with depths other than its own."""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import gaussians
from gsjax.models.feedforward import depthsplat, gaussian_adapter, mvsplat

# Name -> (module, its presets).
NETWORKS = {
    "mvsplat": (mvsplat.MVSplat, mvsplat.PRESETS),
    "depthsplat": (depthsplat.DepthSplat, depthsplat.PRESETS),
}
_ADAPTER = {"offset": "", "sh_degree": -1}  # field -> what leaves it as it is


def build(model_config) -> nn.Module:
    """The module.

    Args:
        model_config: ``network``, ``size`` (a preset of it), ``changes`` (fields of the preset, nested ones
            as dicts), ``offset`` and ``sh_degree`` of the adapter ('' and -1: the preset's), ``remat``,
            ``dtype``.

    Raises:
        ValueError: unknown network, size or field, or values that do not go together.
    """
    m = model_config
    if m.network not in NETWORKS:
        raise ValueError(f"model.network: unknown {m.network!r}; known: {', '.join(NETWORKS)}")
    module, presets = NETWORKS[m.network]
    if m.size not in presets:
        raise ValueError(
            f"model.size: {m.network} has no preset {m.size!r}; known: {', '.join(presets)}"
        )
    changes = m.changes.to_dict() if hasattr(m.changes, "to_dict") else m.changes
    config = changed(presets[m.size], changes, "model.changes")
    adapter = {name: m[name] for name, none in _ADAPTER.items() if m[name] != none}
    config = dataclasses.replace(
        config,
        adapter=dataclasses.replace(config.adapter, **adapter),
        remat=m.remat,
        dtype=jnp.dtype(m.dtype),
    )
    if m.network == "depthsplat":
        config = dataclasses.replace(config, vit=dataclasses.replace(config.vit, remat=m.remat))
    return module(config)


def changed(config, changes: Mapping, name: str):
    """A frozen dataclass with some fields replaced; a mapping replaces fields of a field.

    Raises:
        ValueError: no such field; the message lists the known ones.
    """
    known = [field.name for field in dataclasses.fields(config)]
    values = {}
    for key, value in changes.items():
        if key not in known:
            raise ValueError(f"{name}: unknown field {key!r}; known: {', '.join(known)}")
        if isinstance(value, Mapping):
            value = changed(getattr(config, key), value, f"{name}.{key}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = tuple(value)
        values[key] = value
    return dataclasses.replace(config, **values)


def check_size(module: nn.Module, height: int, width: int) -> None:
    """Refuses pictures that the network's windows and levels do not divide.

    Raises:
        ValueError: naming the sizes.
    """
    stride = module.config.stride
    if height % stride or width % stride:
        raise ValueError(
            f"data.height, data.width: {height} x {width} are no multiples of {stride}, which this network "
            "needs; choose others"
        )


def with_depths(
    module: nn.Module, found: Mapping, depths: jax.Array, Ks: jax.Array, c2ws: jax.Array
) -> gaussians.Gaussians:
    """The network's Gaussians at other depths of the same pixels: places, and sizes where they follow.

    Args:
        module: which says how raw channels are read.
        found: its result.
        depths: [B, V, H, W].
        Ks: [B, V, 3, 3] normalised.
        c2ws: [B, V, 4, 4].
    """
    adapter, raw = module.config.adapter, found["raw"].astype(jnp.float32)
    moved = dict(means=gaussian_adapter.means(adapter, raw, depths, Ks, c2ws))
    if adapter.variant == "mvsplat":  # whose sizes are pixels
        scales = gaussian_adapter.scales(adapter, raw[..., 2:5], depths, Ks)
        moved["scales"] = scales.reshape(moved["means"].shape)
    return dataclasses.replace(found["gaussians"], **moved)
