"""Depth Anything V2 (arXiv 2406.09414): inverse depth of one picture, up to scale and shift.

A DINOv2 backbone and a DPT decoder; DepthSplat starts from the backbone alone. Names of published
weights: ``dinov2_tables`` and ``dpt_tables``.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import dinov2, dinov2_tables, dpt, dpt_tables


@dataclasses.dataclass(frozen=True)
class DepthAnythingConfig:
    """Backbone and decoder; the backbone gives four layers."""

    vit: dinov2.DinoConfig
    dpt: dpt.DptConfig

    def __post_init__(self):
        if len(self.vit.layers) != dpt.LEVELS or self.dpt.head != "dense" or self.dpt.outputs != 1:
            raise ValueError(
                f"DepthAnythingConfig: expected {dpt.LEVELS} layers and a dense decoder of one output, "
                f"found layers {self.vit.layers}, head {self.dpt.head!r} of {self.dpt.outputs}"
            )


PRESETS = {
    name: DepthAnythingConfig(dinov2.PRESETS[name], dpt.PRESETS[f"depth_anything_{name}"])
    for name in ("vits14", "vitb14", "vitl14")
}


class DepthAnything(nn.Module):
    """Normalised pictures to inverse depth. Parts: ``vit``, ``dpt``."""

    config: DepthAnythingConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, 3] after ``dinov2.normalise``, sides multiples of the patch -> [B, H, W], >= 0."""
        maps = dinov2.DinoV2(self.config.vit, self.dtype, name="vit")(images)
        head = dpt.DPT(self.config.dpt, self.dtype, name="dpt")
        return nn.relu(head(maps, size=images.shape[1:3])[..., 0])


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: DepthAnythingConfig,
    what: str = "Depth Anything",
) -> dict:
    """Parameters of :class:`DepthAnything` from the original file or from Hugging Face's.

    Raises:
        ValueError: neither naming, keys missing or unexpected, or shapes differ.
    """
    naming, _ = dinov2_tables.find(state_dict, what)
    hub = naming != "facebook"
    return {
        "vit": dinov2_tables.convert(state_dict, config.vit, what=what),
        "dpt": dpt_tables.convert(
            state_dict,
            config.dpt,
            config.vit.width,
            naming="transformers" if hub else "facebook",
            prefix="" if hub else "depth_head.",
            what=what,
        ),
    }
