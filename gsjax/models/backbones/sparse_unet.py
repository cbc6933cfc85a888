"""SparseUNet (SpUNet-34): a U-Net of residual blocks of sparse convolutions over voxels.

The indoor backbone of Choy et al. (Minkowski networks, arXiv 1904.08755) in the sizes of Pointcept's
SpUNet-34, which UniPre3D (arXiv 2506.09952) pre-trains. It reads features alone, averaged over the
points of a voxel; positions enter through the voxels. One feature a voxel comes out.

All sets of voxels have static capacities; voxels that exceed one are left out and counted in
``dropped``. Level l holds voxels of ``2^l voxel_size``.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import dense_conv, voxels
from gsjax.models import linear, voxel_layers, voxel_sites
from gsjax.models.backbones import base
from gsjax.models.masked_norm import MaskedBatchNorm

FUSE_AT = "stem"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a SparseUNet.

    Attributes:
        channels: features a point has besides its position (normal and colour: 6).
        voxel_size: edge of a voxel, in the unit of the positions (metres).
        voxels: V, capacity of the finest level.
        shares: capacities of the coarser levels, as parts of the finest's (which ``fuse`` may change).
            Surfaces lose about a factor 4 a level.
        stem: channels after the 5^3 stem.
        encoder, encoder_blocks: channels and residual blocks of levels 1, 2, ...
        decoder, decoder_blocks: the same of the way back, deepest first; the last one is at level 0.
        conv: 'scan' (least memory), 'gather' (one multiplication a convolution) or 'dense' (ordinary
            convolutions on a grid, for which ``side`` is needed).
        side: cells an axis of the dense grid, at most 128 and a multiple of 2^levels; points beyond
            are dropped. 0 without 'dense'.
        remat: recompute residual blocks in the backward pass.
    """

    channels: int = 6
    voxel_size: float = 0.02
    voxels: int = 131_072
    shares: tuple[float, ...] = (1 / 2, 1 / 6, 1 / 20, 1 / 60)
    stem: int = 32
    encoder: tuple[int, ...] = (32, 64, 128, 256)
    encoder_blocks: tuple[int, ...] = (2, 3, 4, 6)
    decoder: tuple[int, ...] = (256, 128, 96, 96)
    decoder_blocks: tuple[int, ...] = (2, 2, 2, 2)
    conv: str = "scan"
    side: int = 0
    remat: bool = False

    def __post_init__(self):
        depth = len(self.encoder)
        for name in ("shares", "encoder", "encoder_blocks", "decoder", "decoder_blocks"):
            values = getattr(self, name)
            if len(values) != depth or depth == 0:
                raise ValueError(f"{name}: expected {max(depth, 1)} entries as encoder, {values}")
            if any(v <= 0 for v in values):
                raise ValueError(f"{name}: expected positive entries, found {values}")
        if max(self.shares) > 1:
            raise ValueError(f"shares: expected parts of the finest level, found {self.shares}")
        for name in ("channels", "voxel_size", "voxels", "stem"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, found {getattr(self, name)}")
        if self.conv not in voxel_layers.CONVS:
            raise ValueError(f"conv: unknown {self.conv!r}; known: {', '.join(voxel_layers.CONVS)}")
        if self.conv == "dense":
            if not 0 < self.side <= dense_conv.MAX_SIDE or self.side % (1 << depth):
                raise ValueError(
                    f"side: dense convolutions over {depth} levels need a multiple of {1 << depth} "
                    f"up to {dense_conv.MAX_SIDE}, found {self.side}"
                )
        elif self.side:
            raise ValueError(
                f"side: {self.side} has no meaning with conv {self.conv!r}; leave it 0"
            )

    def capacities(self, num: int) -> tuple[int, ...]:
        """Rows of the coarser levels when the finest has ``num``, multiples of 8."""
        return tuple(max(8, -(-int(num * share) // 8) * 8) for share in self.shares)


PRESETS = {
    "paper": Config(),
    "small": Config(
        voxel_size=0.1,
        voxels=8192,
        stem=16,
        encoder=(16, 32, 64, 96),
        encoder_blocks=(1, 1, 1, 1),
        decoder=(96, 64, 48, 48),
        decoder_blocks=(1, 1, 1, 1),
    ),
}


class Model(nn.Module):
    """The network; ``pooled`` is the maximum and the mean over voxels.

    Attributes:
        config: sizes.
        dtype: what it computes in.
    """

    config: Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        points: base.PointBatch,
        *,
        fuse: base.Fuse | None = None,
        train: bool = False,
        keys: jax.Array | None = None,
    ) -> base.PointFeatures:
        """Features of voxels; ``xyz`` is the mean position of a voxel's points.

        ``fuse`` may return another set of voxels of another capacity, on the grid that ``origin`` and
        ``voxel_size`` define; the rest of the network runs on that.

        Raises:
            ValueError: other shapes than the configuration's; ``fuse`` returned no voxels.
        """
        del keys  # nothing is random
        cfg, side = self.config, self.config.side or None
        sites = voxel_sites.from_points(
            points,
            cfg.channels,
            cfg.voxel_size,
            cfg.voxels,
            "sparse_unet",
            cells=side or voxels.CELLS,
        )
        levels, lost = self._pyramid(sites)
        table = None
        if side is None:
            table = voxel_layers.finer_table(sites.voxels, levels[1].table, levels[0].family, 5)
        feat = Conv(cfg.stem, 5, cfg.conv, side, self.dtype, name="stem")(
            sites.feat, sites.voxels, table, levels[0].mask, train
        )
        sites = sites._replace(feat=feat)
        if fuse is not None:
            before = sites.voxels
            sites = voxel_sites.fused(sites, fuse)
            if sites.voxels is not before:
                levels, lost = self._pyramid(sites)
        levels = voxel_layers.without_masked(levels, sites.mask)
        feat = jnp.where(levels[0].mask[..., None], sites.feat, 0.0)
        feat = self._unet(feat, levels, train)
        mask = levels[0].mask
        return base.PointFeatures(
            sites.xyz, feat, mask, base.pool(feat, mask), sites.dropped + lost
        )

    def _pyramid(self, sites: base.Sites):
        num, side = sites.voxels.shape[1], self.config.side or None
        return voxel_layers.pyramid(sites.voxels, self.config.capacities(num), side=side)

    def _unet(self, feat: jax.Array, levels: list[voxel_layers.Level], train: bool) -> jax.Array:
        cfg = self.config
        sides = [cfg.side >> i if cfg.side else None for i in range(len(levels))]
        skips = []
        for i, (width, blocks) in enumerate(zip(cfg.encoder, cfg.encoder_blocks, strict=True)):
            skips.append(feat)
            stage = Encoder(width, blocks, cfg, sides[i + 1], self.dtype, name=f"encoder_{i}")
            feat = stage(feat, levels[i].family, levels[i + 1], train)
        for i, (width, blocks) in enumerate(zip(cfg.decoder, cfg.decoder_blocks, strict=True)):
            at = len(cfg.decoder) - 1 - i
            stage = Decoder(width, blocks, cfg, sides[at], self.dtype, name=f"decoder_{i}")
            feat = stage(feat, skips.pop(), levels[at], train)
        return feat


def _norm(dtype, name: str) -> MaskedBatchNorm:
    # Reference values (Pointcept): torch momentum 0.01, eps 1e-3.
    return MaskedBatchNorm(0.99, 1e-3, dtype, name=name)


class Conv(nn.Module):
    """Submanifold convolution, norm and ReLU."""

    features: int
    size: int
    conv: str
    side: int | None
    dtype: Any

    @nn.compact
    def __call__(self, feat, keys, table, mask, train: bool) -> jax.Array:
        feat = voxel_layers.SubmanifoldConv(
            self.features, self.size, self.conv, self.side, self.dtype, name="conv"
        )(feat, keys, table)
        return nn.relu(_norm(self.dtype, "norm")(feat, mask, train))


class Block(nn.Module):
    """Residual block: two 3^3 convolutions; the shortcut is projected where widths differ."""

    features: int
    config: Config
    side: int | None
    dtype: Any

    @nn.compact
    def __call__(self, feat: jax.Array, level: voxel_layers.Level, train: bool) -> jax.Array:
        """feat [B, V, C] -> [B, V, features]; zeros at masked voxels."""
        conv = self.config.conv
        x = Conv(self.features, 3, conv, self.side, self.dtype, name="first")(
            feat, level.keys, level.table, level.mask, train
        )
        x = voxel_layers.SubmanifoldConv(
            self.features, 3, conv, self.side, self.dtype, name="second"
        )(x, level.keys, level.table)
        x = _norm(self.dtype, "second_norm")(x, level.mask, train)
        if feat.shape[-1] != self.features:
            feat = linear.Dense(
                self.features,
                use_bias=False,
                kernel_init=nn.initializers.normal(0.02),
                dtype=self.dtype,
                name="shortcut",
            )(feat)
            feat = _norm(self.dtype, "shortcut_norm")(feat, level.mask, train)
        return nn.relu(x + feat)


def _blocks(feat, level, train, features, num, config, side, dtype):
    """``num`` residual blocks named blocks_0, blocks_1, ... of the calling module."""
    block = nn.remat(Block, static_argnums=(3,)) if config.remat else Block
    for i in range(num):
        feat = block(features, config, side, dtype, name=f"blocks_{i}")(feat, level, train)
    return feat


class Encoder(nn.Module):
    """Down one level by a 2^3 convolution, then residual blocks."""

    features: int
    num_blocks: int
    config: Config
    side: int | None
    dtype: Any

    @nn.compact
    def __call__(self, feat, family: voxels.Parents, level, train: bool) -> jax.Array:
        """feat [B, V, C] of the finer level -> [B, P, features] of ``level``."""
        feat = voxel_layers.StridedConv(self.features, self.dtype, name="down")(feat, family)
        feat = nn.relu(_norm(self.dtype, "down_norm")(feat, level.mask, train))
        return _blocks(
            feat, level, train, self.features, self.num_blocks, self.config, self.side, self.dtype
        )


class Decoder(nn.Module):
    """Up one level by an inverse convolution, joined to the skip, then residual blocks."""

    features: int
    num_blocks: int
    config: Config
    side: int | None
    dtype: Any

    @nn.compact
    def __call__(self, coarse, skip, level, train: bool) -> jax.Array:
        """coarse [B, P, C], skip [B, V, S] of ``level`` -> [B, V, features]."""
        feat = voxel_layers.InverseConv(self.features, self.dtype, name="up")(coarse, level.family)
        feat = nn.relu(_norm(self.dtype, "up_norm")(feat, level.mask, train))
        return _blocks(
            jnp.concatenate([feat, skip], -1),
            level,
            train,
            self.features,
            self.num_blocks,
            self.config,
            self.side,
            self.dtype,
        )
