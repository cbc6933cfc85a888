"""UniPre3D (arXiv 2506.09952): backbone, fusion, head; and what they draw.

Only ``backbone`` is kept after pre-training. Without fusion the head reads the backbone's own
features.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import gaussians
from gsjax.models.backbones import base as backbones
from gsjax.raster import batched
from gsjax.systems.unipre3d import fusion, point_fusion
from gsjax.systems.unipre3d import head as head_lib

NEAR = 0.01


class UniPre3D(nn.Module):
    """Points (and reference views) to Gaussians.

    Attributes:
        backbone: of ``models.backbones``.
        head: settings of the Gaussian head.
        make_fusion: makes the layer that mixes image features in, given its name; None = no fusion.
    """

    backbone: nn.Module
    head: head_lib.HeadConfig
    make_fusion: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(
        self,
        points: backbones.PointBatch,
        views: fusion.Views | None,
        *,
        train: bool = False,
        keys: jax.Array | None = None,
    ) -> tuple[gaussians.Gaussians, dict[str, jax.Array]]:
        """Gaussians [B, M K], and {'seen': share of sites with an image feature, 'dropped': [B]}.

        ``views`` None with fusion on gives nothing in place of image features: what the points alone
        carry.
        """
        facts = {}
        fuse = None
        if self.make_fusion is not None:
            # Made here: inside the backbone's call it would become one of its own modules.
            layer = self.make_fusion(name="fusion")

            def fuse(sites):
                if isinstance(layer, point_fusion.PointFusion):
                    sites, facts["seen"] = layer(sites, views, train)
                else:
                    sites, facts["seen"] = layer(sites, points.xyz, points.mask, views)
                return sites

        found = self.backbone(points, fuse=fuse, train=train, keys=keys)
        scene = head_lib.GaussianHead(self.head, name="head")(found.xyz, found.feat, found.mask)
        return scene, {**facts, "dropped": found.dropped}


def build(config) -> UniPre3D:
    """The module of ``config.model``.

    Raises:
        ValueError: an unknown backbone, size, feature or fusion, or a fusion that does not suit the
            backbone.
    """
    m = config.model
    backbone = backbones.of_config(m)
    return UniPre3D(backbone, head_lib.HeadConfig(**m.head.to_dict()), _fusion(m, backbone))


FUSIONS = {"none": None, "feature": "last", "point": "stem"}  # where each comes in


def _fusion(m, backbone) -> Callable[..., nn.Module] | None:
    if m.fusion not in FUSIONS:
        raise ValueError(f"model.fusion: unknown {m.fusion!r}; known: {', '.join(FUSIONS)}")
    place, place_of_backbone = FUSIONS[m.fusion], backbones.module(m.backbone).FUSE_AT
    if place is None:
        return None
    if place != place_of_backbone:
        known = ", ".join(name for name, at in FUSIONS.items() if at in (None, place_of_backbone))
        raise ValueError(
            f"model.fusion: {m.fusion!r} does not suit the backbone {m.backbone!r}; choose {known}"
        )
    if m.fusion == "feature":
        return functools.partial(fusion.FeatureFusion, m.fusion_grid, m.fusion_tolerance)
    return functools.partial(
        point_fusion.PointFusion,
        backbone.config.voxel_size,
        m.fusion_pixels,
        m.fusion_union,
        jnp.dtype(m.dtype),
    )


def render(
    scene: gaussians.Gaussians, viewmats, Ks, size: tuple[int, int], config
) -> tuple[jax.Array, jax.Array]:
    """Pictures f32 [B, V, H, W, 3] over the background and opacities [B, V, H, W].

    Args:
        scene: leading axis [B].
        viewmats: [B, V, 4, 4]. Ks: [B, V, 3, 3].
        size: (width, height).
        config: the whole tree; ``loss.background``, ``model.antialiased``.
    """
    background = jnp.full((*viewmats.shape[:2], 3), config.loss.background, jnp.float32)
    image, alpha, _ = batched.rasterize_batch(
        scene,
        viewmats,
        Ks,
        *size,
        backgrounds=background,
        near_plane=NEAR,
        rasterize_mode="antialiased" if config.model.antialiased else "classic",
    )
    return image, alpha[..., 0]
