"""Residual perceptrons on the neighbourhoods of points, as in PointMLP (arXiv 2202.07123) and PCM.

Everything is masked: a masked point enters neither a group, nor a maximum, nor the statistics of a
norm. Whole networks are in ``models.backbones``; queries that learn nothing in ``core.points``.
PointNet++'s layers, with other groups, are in ``models.point_layers``.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import local_groups, point_groups
from gsjax.core import points as queries
from gsjax.models import linear, masked_norm
from gsjax.models.backbones import base

SPREAD_EPS = 1e-5


class Layer(nn.Module):
    """Dense layer, batch norm over valid rows and ReLU; masked rows are 0.

    Attributes:
        width: of the result.
        use_bias: whether the dense layer has one.
        relu: whether a ReLU follows.
        coordinates: whether the input holds absolute coordinates; the product is then float32 (at
            least) at full precision.
        dtype: of the result.
    """

    width: int
    use_bias: bool = False
    relu: bool = True
    coordinates: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """x: [..., C], mask: bool [...] -> [..., width]."""
        dtype, precision = self.dtype, None
        if self.coordinates:
            dtype, precision = jnp.promote_types(dtype, jnp.float32), jax.lax.Precision.HIGHEST
        dense = linear.Dense(
            self.width, use_bias=self.use_bias, dtype=dtype, precision=precision, name="dense"
        )
        x = masked_norm.MaskedBatchNorm(dtype=self.dtype, name="norm")(dense(x), mask, train)
        return nn.relu(x) if self.relu else x


class Residual(nn.Module):
    """``relu(x + layer(relu(layer(x))))``."""

    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """x: [..., C], mask: bool [...] -> [..., C]."""
        width = x.shape[-1]
        y = Layer(width, self.use_bias, dtype=self.dtype, name="layer_0")(x, mask, train)
        y = Layer(width, self.use_bias, relu=False, dtype=self.dtype, name="layer_1")(
            y, mask, train
        )
        return nn.relu(x + y)


class LocalGroup(nn.Module):
    """Fewer points: residual perceptrons over each centre's neighbours, and their maximum.

    Neighbours' features are offsets from the centre's, divided by one standard deviation of the whole
    cloud and scaled channel by channel (the geometric affine module of PointMLP).

    Attributes:
        width: of the result.
        reduce: how many times fewer centres than *valid* points there are.
        neighbours: of each centre, itself among them.
        blocks: residual ones on each neighbour.
        use_xyz: whether offsets of positions stand beside those of features.
        remat: recompute the blocks in the backward pass.
        dtype: of features; offsets and their deviation are float32 at least.
    """

    width: int
    reduce: int
    neighbours: int
    blocks: int
    use_xyz: bool = False
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, xyz: jax.Array, feat: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """xyz: [B, N, 3], feat: [B, N, C], mask: bool [B, N] -> rows of the centres among the points
        [B, M], their features [B, M, width] and whether they are valid [B, M], M = max(1, N // reduce)."""
        num = max(1, xyz.shape[1] // self.reduce)
        rows = queries.farthest_point_sampling(xyz, num, mask=mask)
        # Farthest points are sampled one by one: fewer centres are the first of many.
        count = jnp.sum(mask, -1, keepdims=True, dtype=jnp.int32)
        valid = (jnp.arange(num) < jnp.maximum(count // self.reduce, 1)) & (count > 0)
        take = lambda x: jnp.take_along_axis(x, rows[..., None], 1)  # noqa: E731
        near, squared = queries.knn(take(xyz), xyz, self.neighbours, mask=mask)
        found = jnp.isfinite(squared) & valid[..., None]
        columns = feat.astype(jnp.promote_types(feat.dtype, jnp.float32))
        if self.use_xyz:
            columns = jnp.concatenate([columns, xyz], -1)
        offsets = queries.gather(columns, near) - take(columns)[:, :, None]
        size = local_groups.spread(offsets, found)[:, None, None, None]
        scale = self.param("scale", nn.initializers.ones, offsets.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, offsets.shape[-1:])
        offsets = scale * (offsets / (size + SPREAD_EPS)) + bias
        # One dense layer on both, side by side; the centre's part is the same for all neighbours.
        dense = lambda name: linear.Dense(  # noqa: E731
            self.width, use_bias=False, dtype=self.dtype, name=name
        )
        x = dense("near")(offsets) + dense("own")(take(feat))[:, :, None]
        norm = masked_norm.MaskedBatchNorm(dtype=self.dtype, name="norm")
        x = nn.relu(norm(x, found, train))
        block = nn.remat(Residual, static_argnums=(3,)) if self.remat else Residual
        for i in range(self.blocks):
            x = block(dtype=self.dtype, name=f"blocks_{i}")(x, found, train)
        return rows, base.masked_max(x, found), valid


def places(xyz: jax.Array, rows: jax.Array, valid: jax.Array) -> jax.Array:
    """Positions [B, M, 3] of the rows [B, M] of xyz [B, N, 3]; 0 where not valid [B, M]."""
    return jnp.where(valid[..., None], jnp.take_along_axis(xyz, rows[..., None], 1), 0.0)


class Carry(nn.Module):
    """Features of a coarse level carried to a finer one: interpolation, a layer, residual blocks."""

    width: int
    blocks: int
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        fine: tuple[jax.Array, jax.Array, jax.Array],
        coarse: tuple[jax.Array, jax.Array, jax.Array],
        train: bool,
    ) -> jax.Array:
        """Two levels (xyz [B, N, 3], features [B, N, C], mask [B, N]) -> [B, N, width]."""
        (xyz, skip, mask), (places, feat, found) = fine, coarse
        carried = point_groups.interpolate(xyz, places, feat, mask=found)
        x = jnp.concatenate([skip, carried.astype(skip.dtype)], -1)
        x = Layer(self.width, self.use_bias, dtype=self.dtype, name="layer")(x, mask, train)
        for i in range(self.blocks):
            x = Residual(self.use_bias, self.dtype, name=f"blocks_{i}")(x, mask, train)
        return x
