"""Scene level: image features as voxels of their own beside the cloud's (UniPre3D, arXiv 2506.09952).

After the stem, pixels of the reference views are back-projected by their depth, put into the cloud's
grid and merged with its voxels by key: where both have a voxel their features are added, and a learned
vector tells which sources a voxel has. A 3^3 convolution follows, then the rest of the network on the
union. The released code concatenates the two sets, which leaves voxels twice, on origins that differ
by up to a voxel.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import cameras, voxels
from gsjax.models import masked_norm, voxel_layers
from gsjax.models.backbones import base
from gsjax.systems.unipre3d import fusion

MIN_DEPTH = 0.05  # metres; as the released code


def back_project(depths: jax.Array, viewmats: jax.Array, Ks: jax.Array) -> jax.Array:
    """World places [..., H, W, 3] of the pixels' centres.

    Args:
        depths: [..., H, W] along the optical axis.
        viewmats: [..., 4, 4]. Ks: [..., 3, 3].
    """
    height, width = depths.shape[-2:]
    row, column = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    fx, fy, skew = (Ks[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 1)))
    cx, cy = (Ks[..., i, 2, None, None] for i in (0, 1))
    y = (row - cy) / fy
    x = (column - cx - skew * y) / fx
    camera = jnp.stack([x, y, jnp.ones_like(x)], -1) * depths[..., None]
    poses = cameras.invert_rigid(viewmats)
    turned = jnp.einsum("...ij,...hwj->...hwi", poses[..., :3, :3], camera, precision="highest")
    return turned + poses[..., None, None, :3, 3]


class PointFusion(nn.Module):
    """Merges image voxels into the stem's.

    Attributes:
        voxel_size: of the backbone's grid, metres.
        pixels: capacity of image voxels.
        union: capacity of the merged set.
        dtype: what it computes in.
    """

    voxel_size: float
    pixels: int
    union: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        sites: base.Sites,
        views: fusion.Views | None,
        train: bool,
    ) -> tuple[base.Sites, jax.Array]:
        """The union of voxels, and the share [] of the cloud's voxels that got image features.

        Args:
            sites: the cloud's voxels, with ``voxels`` and ``origin``.
            views: R reference views with features, depths and masks; None = there are none (the
                adapter's parameters must be there already).
            train: whether the norm uses the batch's statistics.

        Raises:
            ValueError: sites that are no voxels.
        """
        if sites.voxels is None or sites.origin is None:
            raise ValueError(
                "fuse: point fusion merges voxels, and this backbone has none; use "
                "model.fusion='feature', or a voxel backbone"
            )
        width = sites.feat.shape[-1]
        batch = sites.feat.shape[0]
        if views is None:
            points = jnp.zeros((batch, 1, 3))
            features, usable = jnp.zeros((batch, 1, width)), jnp.zeros((batch, 1), bool)
        else:
            adapted = fusion.Adapter(width, name="adapter")(views.features)
            points, features, usable = _pixels(adapted, views)
        sources = self.param("sources", nn.initializers.normal(0.02), (2, width))
        merge = jax.vmap(self._merge, (0, 0, 0, 0, None))
        merged, seen = merge(sites, points, features.astype(self.dtype), usable, sources)
        table = jax.vmap(lambda k: voxels.neighbours(k, voxels.cube(3)))(merged.voxels)
        feat = voxel_layers.SubmanifoldConv(width, 3, dtype=self.dtype, name="conv")(
            merged.feat, merged.voxels, table
        )
        norm = masked_norm.MaskedBatchNorm(0.99, 1e-3, self.dtype, name="norm")
        feat = nn.relu(norm(feat, merged.mask, train))
        share = jnp.sum(seen) / jnp.maximum(jnp.sum(sites.mask), 1)
        return merged._replace(feat=feat), share

    def _merge(self, sites: base.Sites, points, features, usable, sources):
        """One cloud: sites with all voxels, and bool [V]: voxels of the cloud with image features."""
        size, union = self.voxel_size, self.union
        low = jnp.min(jnp.where(sites.mask[:, None], sites.xyz, jnp.inf), 0) - size / 2
        low = jnp.maximum(low, sites.origin)  # below is outside the box, not a loss of capacity
        high = jnp.max(jnp.where(sites.mask[:, None], sites.xyz, -jnp.inf), 0) + size / 2
        usable = usable & jnp.all((points >= low) & (points <= high), -1)
        keys, outside = voxels.keys_of(points, sites.origin, size, usable)
        found = voxels.voxelize(keys, self.pixels)
        merged = voxels.merge(sites.voxels, found.keys, union)
        xyz_b = voxels.mean(points, found.ids, self.pixels)
        feat_b = voxels.mean(features, found.ids, self.pixels)

        def spread(values, ids):
            rows = jnp.zeros((union + 1, values.shape[-1]), values.dtype)
            return rows.at[ids].set(values)[:union]

        has_a, has_b = (
            spread(mask[:, None].astype(features.dtype), ids)
            for mask, ids in (
                (sites.mask, merged.ids_a),
                (voxels.is_voxel(found.keys), merged.ids_b),
            )
        )
        feat = spread(sites.feat.astype(features.dtype), merged.ids_a) + spread(
            feat_b, merged.ids_b
        )
        feat = feat + has_a * sources[0] + has_b * sources[1]
        xyz = jnp.where(has_a > 0, spread(sites.xyz, merged.ids_a), spread(xyz_b, merged.ids_b))
        dropped = merged.dropped + found.dropped + outside
        dropped = dropped if sites.dropped is None else dropped + sites.dropped
        joined = base.Sites(
            xyz, feat, voxels.is_voxel(merged.keys), merged.keys, sites.origin, dropped
        )
        return joined, (has_a[:, 0] > 0) & (has_b[:, 0] > 0)


def _pixels(adapted, views: fusion.Views):
    """Places [B, P, 3], features [B, P, C] and bool [B, P] of all pixels of the feature maps."""
    depths, pixel_mask = views.depths, views.pixel_mask
    batch, count, height, width = adapted.shape[:4]
    rows, columns = depths.shape[-2:]
    # The depth at the middle of each cell of the map, which may be coarser than the picture.
    row = ((jnp.arange(height) + 0.5) * rows / height).astype(jnp.int32)[:, None]
    column = ((jnp.arange(width) + 0.5) * columns / width).astype(jnp.int32)
    scale = jnp.asarray([width / columns, height / rows, 1.0])
    depths = depths[..., row, column]
    usable = pixel_mask[..., row, column] & (depths > MIN_DEPTH)
    points = back_project(depths, views.viewmats, views.Ks * scale[:, None])
    return (
        points.reshape(batch, -1, 3),
        adapted.reshape(batch, count * height * width, -1),
        usable.reshape(batch, -1),
    )
