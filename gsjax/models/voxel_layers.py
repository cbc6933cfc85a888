"""Sparse convolutions as layers, and the pyramid of voxel sets that they share.

What a convolution needs besides features (who is whose neighbour, who is whose parent) depends on the
voxels alone: :func:`pyramid` makes it once a forward pass for all layers. Voxels are those of
``core.voxels``; nothing here reads points.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import dense_conv, sparse_conv, voxel_pooling, voxels

CONVS = (*sparse_conv.FORMS, "dense")


class Level(NamedTuple):
    """One resolution of a pyramid.

    Attributes:
        keys: int32 [B, V] sorted voxel keys.
        mask: bool [B, V], True for voxels that take part.
        table: int32 [B, 27, V] of 3^3 neighbours; None where convolutions are dense.
        family: of these voxels and the next coarser level's; None at the coarsest.
    """

    keys: jax.Array
    mask: jax.Array
    table: jax.Array | None
    family: voxels.Parents | None


def pyramid(
    keys: jax.Array, capacities: tuple[int, ...], *, side: int | None = None
) -> tuple[list[Level], jax.Array]:
    """Voxel sets of 1, 2, 4, ... times the size.

    Neighbours are searched at the coarsest level alone and handed down (``voxels.refine``).

    Args:
        keys: int32 [B, V], sorted.
        capacities: of the levels after the first.
        side: of the finest dense grid, where convolutions are dense; None = by tables.

    Returns:
        The levels, finest first; and int32 [B], voxels that found no place in some level.
    """
    sets, families = [keys], []
    dropped = jnp.zeros(keys.shape[0], jnp.int32)
    for capacity in capacities:
        family = jax.vmap(lambda k, c=capacity: voxels.parents(k, c))(sets[-1])
        sets.append(family.keys)
        families.append(family)
        dropped = dropped + family.dropped
    tables = [None] * len(sets)
    if side is None:
        tables[-1] = jax.vmap(lambda k: voxels.neighbours(k, voxels.cube(3)))(sets[-1])
        for i in reversed(range(len(families))):
            tables[i] = finer_table(sets[i], tables[i + 1], families[i], 3)
        masks = [voxels.is_voxel(k) for k in sets]
    else:
        masks = [dense_conv.inside(k, side >> i) for i, k in enumerate(sets)]
        dropped = dropped + jnp.sum((voxels.is_voxel(keys) & ~masks[0]).astype(jnp.int32), -1)
    return [Level(*x) for x in zip(sets, masks, tables, [*families, None], strict=True)], dropped


def without_masked(levels: list[Level], mask: jax.Array) -> list[Level]:
    """The levels without masked voxels, and without parents that have no others.

    Args:
        levels: of :func:`pyramid`.
        mask: bool [B, V] of the finest level's voxels; False is masked.
    """
    found = []
    for level in levels:
        mask = mask & level.mask
        found.append(level._replace(mask=mask))
        if level.family is not None:
            mask = voxel_pooling.any_child(mask, level.family)
    return found


def finer_table(keys: jax.Array, table: jax.Array, family: voxels.Parents, size: int) -> jax.Array:
    """``voxels.refine`` of batches: int32 [B, size^3, V]."""
    return jax.vmap(lambda *x: voxels.refine(*x, size))(keys, table, family)


class SubmanifoldConv(nn.Module):
    """Convolution whose outputs are at the input's voxels, without bias.

    Attributes:
        features: output channels.
        size: edge of the kernel in voxels.
        conv: 'scan', 'gather' (``core.sparse_conv``) or 'dense' (``core.dense_conv``).
        side: of the dense grid.
        dtype: of computation and result.
    """

    features: int
    size: int = 3
    conv: str = "scan"
    side: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feat: jax.Array, keys: jax.Array, table: jax.Array | None) -> jax.Array:
        """feat [B, V, C] at keys [B, V] with table [B, size^3, V] -> [B, V, features]."""
        shape = (self.size**3, feat.shape[-1], self.features)
        # Standard deviation of the reference (Pointcept); a BatchNorm follows each.
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape)
        feat = feat.astype(self.dtype)
        if self.conv == "dense":
            return dense_conv.submanifold(feat, keys, kernel, self.side)
        return sparse_conv.submanifold(feat, table, kernel, form=self.conv)


def _fan_in(key, shape, dtype=jnp.float32):
    """Uniform in +-1/sqrt(8 C), torch's way for a 2^3 convolution."""
    bound = (shape[0] * shape[1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class StridedConv(nn.Module):
    """2^3 convolution of stride 2 to the parents, without bias. Attributes as above."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feat: jax.Array, family: voxels.Parents) -> jax.Array:
        """feat [B, V, C] -> [B, P, features]."""
        kernel = self.param("kernel", _fan_in, (8, feat.shape[-1], self.features))
        return sparse_conv.strided(feat.astype(self.dtype), family, kernel)


class InverseConv(nn.Module):
    """2^3 convolution from parents back to their children, without bias. Attributes as above."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, coarse: jax.Array, family: voxels.Parents) -> jax.Array:
        """coarse [B, P, C] -> [B, V, features]."""
        kernel = self.param("kernel", _fan_in, (8, coarse.shape[-1], self.features))
        return sparse_conv.inverse(coarse.astype(self.dtype), family, kernel)
