"""Where a backbone of voxels begins: clouds as sites of averaged features, and other sites by fusion.

Shared by the backbones that work on the sets of ``core.voxels``; layers on them are in
``models.voxel_layers``.
"""

import jax
import jax.numpy as jnp

from gsjax.core import voxels
from gsjax.models.backbones import base


def from_points(
    points: base.PointBatch,
    channels: int,
    size: float,
    capacity: int,
    what: str,
    *,
    cells: int = voxels.CELLS,
) -> base.Sites:
    """Clouds as voxels: the mean position and features of the points in each.

    Args:
        points: the clouds, F = ``channels``.
        channels: of ``feat`` that the network was made for.
        size: edge of a voxel, in the unit of the positions.
        capacity: V, voxels of a cloud; those that exceed it, and points outside the grid, are
            counted in ``dropped``.
        what: name of the network for messages.
        cells: of an axis of the grid.

    Raises:
        ValueError: shapes that do not fit each other or ``channels``.
    """
    feat = base.inputs(points, channels, what)
    xyz = base.clean(points).xyz

    def one(xyz, feat, mask):
        origin = voxels.corner(xyz, size, mask)
        keys, outside = voxels.keys_of(xyz, origin, size, mask, cells=cells)
        found = voxels.voxelize(keys, capacity)
        return base.Sites(
            voxels.mean(xyz, found.ids, capacity),
            voxels.mean(feat, found.ids, capacity),
            voxels.is_voxel(found.keys),
            found.keys,
            origin,
            found.dropped + outside,
        )

    return jax.vmap(one)(xyz, feat, points.mask)


def fused(sites: base.Sites, fuse: base.Fuse) -> base.Sites:
    """What ``fuse`` makes of sites, checked: any capacity, on the same grid.

    Args:
        sites: with the features that ``fuse`` reads.
        fuse: may return other voxels, sorted by key; features of masked sites become 0, and
            ``dropped`` stays as it was where it returns None.

    Raises:
        ValueError: it returned no voxels, or shapes that do not fit each other.
    """
    found = fuse(sites)
    if found.voxels is None or found.voxels.shape != found.mask.shape:
        shape = None if found.voxels is None else list(found.voxels.shape)
        raise ValueError(
            f"fuse: expected Sites with voxels {list(found.mask.shape)}, found {shape}; return the "
            "sorted keys of the sites' voxels"
        )
    if found.feat.shape[:2] != found.mask.shape or found.xyz.shape[:2] != found.mask.shape:
        raise ValueError(
            f"fuse: xyz {list(found.xyz.shape)} and feat {list(found.feat.shape)} do not fit mask "
            f"{list(found.mask.shape)}"
        )
    if found.feat.shape[-1] != sites.feat.shape[-1]:
        raise ValueError(
            f"fuse: expected {sites.feat.shape[-1]} channels as it was given, found "
            f"{found.feat.shape[-1]}"
        )
    feat = jnp.where(found.mask[..., None], found.feat.astype(sites.feat.dtype), 0)
    dropped = sites.dropped if found.dropped is None else found.dropped
    return found._replace(feat=feat, dropped=dropped)
