"""Layers of PointNet and PointNet++: shared perceptrons, set abstraction, feature propagation.

Everything is masked: a masked point enters neither a group, nor a maximum, nor the statistics of a
norm. Whole networks are in ``models.backbones``; queries that learn nothing in ``core.points`` and
``core.point_groups``.

Sources: PointNet (arXiv 1612.00593), PointNet++ (arXiv 1706.02413).
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import point_groups, points
from gsjax.models import linear, masked_norm
from gsjax.models.backbones import base

ORDERS = ("features_first", "xyz_first")


class Scale(NamedTuple):
    """One size of neighbourhood of a set abstraction.

    Attributes:
        radius: of the ball, in units of the cloud.
        samples: slots of a ball; the lowest indices in it are taken.
        widths: of the shared perceptron.
    """

    radius: float
    samples: int
    widths: tuple[int, ...]


def join(xyz: jax.Array, feat: jax.Array, order: str) -> jax.Array:
    """Columns [..., 3 + C] in one of ``ORDERS``, of the type of ``feat``."""
    xyz = xyz.astype(feat.dtype)
    return jnp.concatenate([xyz, feat] if order == "xyz_first" else [feat, xyz], -1)


class PointLayer(nn.Module):
    """Dense layer, batch norm over valid rows and ReLU; masked rows of the result are 0.

    Attributes:
        width: of the result.
        relu: whether a ReLU follows.
        coordinates: whether the input holds absolute coordinates; the product is then float32 (at
            least) at full precision, since bfloat16 resolves 1/256 of the distance to the origin.
        dtype: of the result.
    """

    width: int
    relu: bool = True
    coordinates: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """x: [..., C], mask: bool [...] or broadcastable to that -> [..., width]."""
        dtype, precision = self.dtype, None
        if self.coordinates:
            dtype, precision = jnp.promote_types(dtype, jnp.float32), jax.lax.Precision.HIGHEST
        # The norm makes the bias redundant; kept, as in the original, so that weights transfer.
        x = linear.Dense(self.width, dtype=dtype, precision=precision, name="dense")(x)
        x = masked_norm.MaskedBatchNorm(dtype=self.dtype, name="norm")(x, mask, train)
        return nn.relu(x) if self.relu else x


class GroupedDense(nn.Module):
    """Dense layer on groups' columns: neighbours' features and their offsets from the centre.

    The product with the features is taken before they are gathered: the same result as a layer on
    the joined columns, at 1 / (groups x samples / points) of its cost.

    Attributes:
        width: of the result.
        order: of ``ORDERS``, in which rows of the kernel lie.
        dtype: of the result.
    """

    width: int
    order: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, offsets: jax.Array, feat: jax.Array, idx: jax.Array) -> jax.Array:
        """offsets: [B, M, k, 3], feat: [B, N, C], idx: int [B, M, k] -> [B, M, k, width]."""
        num = feat.shape[-1]
        kernel = self.param("kernel", nn.linear.default_kernel_init, (3 + num, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        offsets, feat, kernel, bias = nn.dtypes.promote_dtype(
            offsets, feat, kernel, bias, dtype=self.dtype
        )
        of_xyz, of_feat = (
            (kernel[:3], kernel[3:]) if self.order == "xyz_first" else (kernel[num:], kernel[:num])
        )
        x = linear.product(offsets, of_xyz) + bias
        return x + points.gather(linear.product(feat, of_feat), idx) if num else x


class GroupedLayer(nn.Module):
    """``PointLayer`` whose dense layer is a ``GroupedDense``."""

    width: int
    order: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, offsets: jax.Array, feat: jax.Array, idx: jax.Array, mask: jax.Array, train: bool
    ) -> jax.Array:
        """Arguments as of ``GroupedDense``; mask: bool, broadcastable to [B, M, k]."""
        x = GroupedDense(self.width, self.order, self.dtype, name="dense")(offsets, feat, idx)
        return nn.relu(masked_norm.MaskedBatchNorm(dtype=self.dtype, name="norm")(x, mask, train))


class BallMlp(nn.Module):
    """Neighbours in a ball -> one vector a centre: shared perceptron, then the maximum.

    A ball with fewer points than slots repeats its first point, as in the original: that changes no
    maximum, but the point counts once a slot in the statistics of the norms.
    """

    scale: Scale
    order: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        xyz: jax.Array,
        feat: jax.Array,
        mask: jax.Array,
        centers: jax.Array,
        valid: jax.Array,
        train: bool,
    ) -> jax.Array:
        """xyz: [B, N, 3], feat: [B, N, C], mask: [B, N], centers: [B, M, 3], valid: [B, M] ->
        [B, M, widths[-1]], 0 at centres that are not valid."""
        idx, _ = points.ball_query(centers, xyz, self.scale.radius, self.scale.samples, mask=mask)
        offsets = points.gather(xyz, idx) - centers[:, :, None]
        first, *rest = self.scale.widths
        rows = valid[..., None]
        x = GroupedLayer(first, self.order, self.dtype, name="layers_0")(
            offsets, feat, idx, rows, train
        )
        for i, width in enumerate(rest, 1):
            x = PointLayer(width, dtype=self.dtype, name=f"layers_{i}")(x, rows, train)
        return base.masked_max(x, rows)


class SetAbstraction(nn.Module):
    """Centres, and features of the balls around them (PointNet++, sections 3.2 and 3.3).

    Attributes:
        num: centres; a cloud with fewer valid points has fewer valid centres.
        scales: neighbourhoods of each centre, whose features are joined.
        order: of ``ORDERS``: columns that the first dense layers read.
        dtype: of features.
    """

    num: int
    scales: Sequence[Scale]
    order: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        xyz: jax.Array,
        feat: jax.Array,
        mask: jax.Array,
        train: bool,
        start: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """xyz: [B, N, 3], feat: [B, N, C], mask: bool [B, N], start: as of
        ``core.point_groups.sample_centers`` -> the same three, of ``num`` centres."""
        idx, valid = point_groups.sample_centers(xyz, self.num, mask=mask, start=start)
        centers = jnp.take_along_axis(xyz, idx[..., None], 1)
        found = [
            BallMlp(scale, self.order, self.dtype, name=f"scale_{i}")(
                xyz, feat, mask, centers, valid, train
            )
            for i, scale in enumerate(self.scales)
        ]
        centers = jnp.where(valid[..., None], centers, 0.0)
        return centers, jnp.concatenate(found, -1), valid


class GroupAll(nn.Module):
    """One vector a cloud: shared perceptron on all points, then the maximum.

    Attributes:
        widths: of the perceptron.
        order: of ``ORDERS``.
        centered: whether coordinates are relative to the mean of the valid points; else as they are.
        dtype: of features.
    """

    widths: Sequence[int]
    order: str
    centered: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, xyz: jax.Array, feat: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """xyz: [B, N, 3], feat: [B, N, C], mask: bool [B, N] -> the same three of one place, the
        origin of the coordinates read: [B, 1, 3], [B, 1, widths[-1]], bool [B, 1]."""
        valid = mask[..., None]
        origin = jnp.zeros_like(xyz[:, :1])
        if self.centered:
            count = jnp.maximum(jnp.sum(mask, 1), 1)[:, None, None]
            origin = jnp.sum(jnp.where(valid, xyz, 0.0), 1, keepdims=True) / count
        x = join(jnp.where(valid, xyz - origin, 0.0), feat.astype(self.dtype), self.order)
        for i, width in enumerate(self.widths):
            x = PointLayer(width, dtype=self.dtype, name=f"layers_{i}")(x, mask, train)
        return origin, base.masked_max(x, mask)[:, None], jnp.any(mask, 1, keepdims=True)


class FeaturePropagation(nn.Module):
    """Features of a coarse level carried to a finer one (PointNet++, section 3.4)."""

    widths: Sequence[int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        xyz: jax.Array,
        skip: jax.Array,
        mask: jax.Array,
        coarse: tuple[jax.Array, jax.Array, jax.Array],
        train: bool,
    ) -> jax.Array:
        """Interpolated features, joined behind the level's own, through a shared perceptron.

        Args:
            xyz: [B, N, 3].
            skip: [B, N, C], the finer level's features.
            mask: bool [B, N].
            coarse: xyz [B, M, 3], features [B, M, D] and mask [B, M]; with M = 1 every point gets
                that one's features.
            train: as of ``PointLayer``.

        Returns:
            [B, N, widths[-1]], 0 at masked points.
        """
        places, feat, valid = coarse
        if feat.shape[1] == 1:
            x = jnp.broadcast_to(feat, (*xyz.shape[:2], feat.shape[-1]))
        else:
            x = point_groups.interpolate(xyz, places, feat, mask=valid)
        x = jnp.concatenate([skip.astype(x.dtype), x], -1)
        for i, width in enumerate(self.widths):
            x = PointLayer(width, dtype=self.dtype, name=f"layers_{i}")(x, mask, train)
        return x
