"""A backbone with a head for one task: a class an object, or a class a point.

The backbone's parameters lie under ``backbone``, as in pre-training, so that they move over as they
are. The classification head is Point-MAE's (arXiv 2203.06604): two hidden layers with BatchNorm and
dropout. Points of objects take features from the three nearest places of the backbone, as in
PointNet++; points of scenes have the class of their voxel, by one linear layer, as in Pointcept's
segmentors.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import point_groups, voxels
from gsjax.models import linear, masked_norm
from gsjax.models.backbones import base as backbones

_DROPOUT_PLACE = 1 << 10  # numbers of random draws, beyond those of any backbone


class ObjectClassifier(nn.Module):
    """Logits [B, classes].

    Attributes:
        backbone: of ``models.backbones``.
        classes: to tell apart.
        hidden: widths of the head.
        dropout: rate behind each hidden layer.
        frozen: no gradient reaches the backbone, whose norms keep their statistics.
    """

    backbone: nn.Module
    classes: int
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.5
    frozen: bool = False

    @nn.compact
    def __call__(
        self, points: backbones.PointBatch, *, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        found = _features(self.backbone, points, train, keys, self.frozen)
        x = found.pooled
        for i, width in enumerate(self.hidden):
            x = linear.Dense(width, name=f"hidden_{i}")(x)
            x = masked_norm.MaskedBatchNorm(name=f"norm_{i}")(x, None, train)
            x = _drop(
                nn.relu(x), self.dropout, backbones.uniform(keys, _DROPOUT_PLACE + i, (width,))
            )
        return linear.Dense(self.classes, name="logits")(x).astype(jnp.float32)


class PointLabeller(nn.Module):
    """Logits [B, N, classes]; attributes as of :class:`ObjectClassifier`.

    A point reads the features interpolated at its place, the pooled vector and its own position and
    features.
    """

    backbone: nn.Module
    classes: int
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.5
    frozen: bool = False

    @nn.compact
    def __call__(
        self, points: backbones.PointBatch, *, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        points = backbones.clean(points)
        found = _features(self.backbone, points, train, keys, self.frozen)
        near = point_groups.interpolate(points.xyz, found.xyz, found.feat, mask=found.mask)
        near = near.astype(jnp.float32)
        own = jnp.concatenate([points.xyz, points.feat], -1)
        whole = linear.Dense(self.hidden[0], name="whole")(found.pooled)[:, None]
        x = jnp.concatenate([near, own], -1)
        for i, width in enumerate(self.hidden):
            x = linear.Dense(width, name=f"hidden_{i}")(x) + (whole if i == 0 else 0.0)
            x = masked_norm.MaskedBatchNorm(name=f"norm_{i}")(x, points.mask, train)
            draws = backbones.uniform(keys, _DROPOUT_PLACE + i, x.shape[1:2] + (width,))
            x = _drop(nn.relu(x), self.dropout, draws)
        return linear.Dense(self.classes, name="logits")(x).astype(jnp.float32)


class PointRows(NamedTuple):
    """Which voxel each point lies in.

    Attributes:
        points: the clouds with every point at the middle of its voxel; those outside the grid masked.
        ids: int32 [B, N], row of the point's voxel among the backbone's; V where it has none.
        placed: bool [B, N]: valid, inside the grid, and in a voxel that found a place.
    """

    points: backbones.PointBatch
    ids: jax.Array
    placed: jax.Array


def point_rows(points: backbones.PointBatch, size: float, capacity: int, cells: int) -> PointRows:
    """The voxels that a backbone makes of clouds, by the points.

    Backbones of voxels give features by voxel and do not tell which point is in which. Here points are
    put into voxels as they do it (``models.voxel_sites``) and moved to the middles, the lowest cell of
    each axis at 0. That leaves the points of every voxel together, and no rounding can make the backbone
    see other voxels, or in another order.

    Args:
        points: the clouds.
        size: edge of a voxel.
        capacity: V, voxels of a cloud.
        cells: of an axis of the grid.
    """

    def one(xyz, mask):
        keys, _ = voxels.keys_of(xyz, voxels.corner(xyz, size, mask), size, mask, cells=cells)
        inside = voxels.is_voxel(keys)
        places = voxels.decode(keys)
        low = jnp.min(jnp.where(inside[:, None], places, cells), 0)
        places = jnp.where(inside[:, None], places - low, 0)
        keys = jnp.where(inside, voxels.encode(places), voxels.SENTINEL)
        ids = voxels.voxelize(keys, capacity).ids
        middle = (places.astype(xyz.dtype) + 0.5) * size
        return middle, inside, ids, inside & (ids < capacity)

    middle, inside, ids, placed = jax.vmap(one)(backbones.clean(points).xyz, points.mask)
    return PointRows(points._replace(xyz=middle, mask=inside), ids, placed)


class VoxelLogits(NamedTuple):
    """What :class:`VoxelLabeller` returns.

    Attributes:
        logits: f32 [B, N, classes]; zeros for points that are not ``placed``.
        ids: int32 [B, N], row of the point's voxel; V where it has none.
        placed: bool [B, N]; a valid point is not placed where the capacity of voxels was exceeded.
    """

    logits: jax.Array
    ids: jax.Array
    placed: jax.Array


class VoxelLabeller(nn.Module):
    """Logits of points of scenes, the same for all points of a voxel.

    Attributes:
        backbone: of ``models.backbones``, one of voxels.
        classes: to tell apart.
        frozen: no gradient reaches the backbone, whose norms keep their statistics.
    """

    backbone: nn.Module
    classes: int
    frozen: bool = False

    @nn.compact
    def __call__(
        self, points: backbones.PointBatch, *, train: bool = False, keys: jax.Array | None = None
    ) -> VoxelLogits:
        config = self.backbone.config
        cells = getattr(config, "side", 0) or voxels.CELLS
        rows = point_rows(points, config.voxel_size, config.voxels, cells)
        found = _features(self.backbone, rows.points, train, keys, self.frozen)
        logits = linear.Dense(self.classes, name="logits")(found.feat).astype(jnp.float32)
        logits = jnp.where(found.mask[..., None], logits, 0.0)
        logits = jnp.pad(logits, ((0, 0), (0, 1), (0, 0)))  # row V: no voxel
        each = jnp.take_along_axis(logits, rows.ids[..., None], 1)
        return VoxelLogits(each, rows.ids, rows.placed)


def has_voxels(backbone: nn.Module) -> bool:
    """Whether a backbone is one of voxels, as :class:`VoxelLabeller` needs."""
    return hasattr(backbone.config, "voxels") and hasattr(backbone.config, "voxel_size")


def _features(backbone, points, train, keys, frozen):
    found = backbone(points, train=train and not frozen, keys=None if frozen else keys)
    return jax.lax.stop_gradient(found) if frozen else found


def _drop(x: jax.Array, rate: float, draws: jax.Array | None) -> jax.Array:
    """Dropout by given uniform numbers; none = inference."""
    if draws is None or rate == 0.0:
        return x
    return jnp.where(draws >= rate, x / (1 - rate), 0.0)
