"""Point Transformer V3 (arXiv 2312.10035): attention along space-filling curves over voxels.

A U-Net whose blocks attend within patches of consecutive voxels of an order; a 3^3 submanifold
convolution in every block is what tells it about positions. In the sizes that UniPre3D (arXiv
2506.09952) pre-trains. It reads features alone, averaged over the points of a voxel; one feature a
voxel comes out.

As in the released code stochastic depth drops single voxels, and the order of the orders is drawn
anew at every level; both only where keys are given. Differently from it, the last patch of a cloud is
masked, not filled with voxels of the one before, and curves have a fixed depth, not that of the
largest cloud in the batch.

All sets of voxels have static capacities; voxels that exceed one are left out and counted in
``dropped``. Level l holds voxels of ``2^l voxel_size``.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import serialization, sparse_conv, voxel_orders, voxel_pooling
from gsjax.models import linear, transformer, voxel_layers, voxel_sites
from gsjax.models.backbones import base
from gsjax.models.masked_norm import MaskedBatchNorm
from gsjax.models.patch_attention import PatchAttention

FUSE_AT = "stem"
CPES = ("subm", "conv1d")
REACH = 2  # of the convolution along an order, to either side
LAYER_NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a Point Transformer V3.

    Attributes:
        channels: features a point has besides its position (normal and colour: 6).
        voxel_size: edge of a voxel, in the unit of the positions (metres).
        voxels: V, capacity of the finest level.
        shares: capacities of the coarser levels, as parts of the finest's (which ``fuse`` may change).
        encoder, encoder_blocks, encoder_heads: channels, blocks and heads of levels 0, 1, ...; the
            stem makes ``encoder[0]`` channels.
        decoder, decoder_blocks, decoder_heads: the same of the way back, deepest first (the released
            code lists them the other way round); the last one is at level 0.
        patch: voxels that attend to one another. No parameter depends on it.
        orders: names of ``serialization.ORDERS``; blocks of a stage take them in turn.
        shuffle_orders: whether their sequence is random where keys are given.
        mlp_ratio: hidden units of a block's perceptron, times its width.
        qkv_bias: whether queries, keys and values have biases.
        cpe: what gives position: 'subm', a submanifold convolution, or 'conv1d', one of width 5 along
            the block's order, channel by channel: cheaper, and other parameters.
        conv: form of submanifold convolutions, 'scan' (least memory) or 'gather'.
        drop_path: stochastic depth of the deepest block; linear from 0 at level 0, on the way down
            and back up.
        chunk: patches that a block takes at a time; 0 = all. For large patches.
        remat: recompute blocks in the backward pass.
    """

    channels: int = 6
    voxel_size: float = 0.02
    voxels: int = 131_072
    shares: tuple[float, ...] = (1 / 2, 1 / 6, 1 / 20, 1 / 60)
    encoder: tuple[int, ...] = (32, 64, 128, 256, 512)
    encoder_blocks: tuple[int, ...] = (2, 2, 2, 6, 2)
    encoder_heads: tuple[int, ...] = (2, 4, 8, 16, 32)
    decoder: tuple[int, ...] = (256, 128, 64, 64)
    decoder_blocks: tuple[int, ...] = (2, 2, 2, 2)
    decoder_heads: tuple[int, ...] = (16, 8, 4, 4)
    patch: int = 48
    orders: tuple[str, ...] = ("z", "z-trans")
    shuffle_orders: bool = True
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    cpe: str = "subm"
    conv: str = "scan"
    drop_path: float = 0.3
    chunk: int = 0
    remat: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, base.plain(getattr(self, field.name)))
        levels = len(self.encoder)
        if levels < 2:
            raise ValueError(f"encoder: expected two levels or more, found {self.encoder}")
        for name, count in [
            ("encoder_blocks", levels),
            ("encoder_heads", levels),
            ("shares", levels - 1),
            ("decoder", levels - 1),
            ("decoder_blocks", levels - 1),
            ("decoder_heads", levels - 1),
        ]:
            values = getattr(self, name)
            if len(values) != count or min(values) <= 0:
                raise ValueError(
                    f"{name}: expected {count} positive entries for the {levels} levels of encoder, "
                    f"found {values}"
                )
        for name in ("encoder", "decoder"):
            for width, heads in zip(
                getattr(self, name), getattr(self, f"{name}_heads"), strict=True
            ):
                if width <= 0 or width % heads:
                    raise ValueError(
                        f"{name}_heads: {heads} heads do not divide {width} channels; choose a "
                        "divisor"
                    )
        if max(self.shares) > 1:
            raise ValueError(f"shares: expected parts of the finest level, found {self.shares}")
        for name in ("channels", "voxel_size", "voxels", "patch", "mlp_ratio"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, found {getattr(self, name)}")
        if self.chunk < 0:
            raise ValueError(f"chunk: expected 0 or more patches, found {self.chunk}")
        known = serialization.ORDERS
        unknown = sorted(set(self.orders) - set(known))
        if unknown or not self.orders:
            raise ValueError(f"orders: found {self.orders}, unknown {unknown}; known: {known}")
        for name, known in [("cpe", CPES), ("conv", sparse_conv.FORMS)]:
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: unknown {getattr(self, name)!r}; known: {known}")
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path: expected [0, 1), found {self.drop_path}")

    def capacities(self, num: int) -> tuple[int, ...]:
        """Rows of the coarser levels when the finest has ``num``, multiples of 8."""
        return tuple(max(8, -(-int(num * share) // 8) * 8) for share in self.shares)


PRESETS = {
    "paper": Config(),
    "small": Config(
        voxel_size=0.1,
        voxels=8192,
        shares=(1 / 2, 1 / 6),
        encoder=(24, 48, 96),
        encoder_blocks=(1, 1, 2),
        encoder_heads=(2, 4, 8),
        decoder=(48, 48),
        decoder_blocks=(1, 1),
        decoder_heads=(4, 4),
        patch=64,
        drop_path=0.1,
    ),
}


class Model(nn.Module):
    """The network; ``pooled`` is the maximum and the mean over voxels.

    Attributes:
        config: sizes.
        dtype: what it computes in.
    """

    config: Config
    dtype: jnp.dtype = jnp.float32

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
        cfg = self.config
        sites = voxel_sites.from_points(points, cfg.channels, cfg.voxel_size, cfg.voxels, "ptv3")
        levels, lost = self._pyramid(sites)
        table = voxel_layers.finer_table(sites.voxels, levels[1].table, levels[0].family, 5)
        feat = Stem(cfg.encoder[0], cfg.conv, self.dtype, name="stem")(
            sites.feat, sites.voxels, table, sites.mask, train
        )
        sites = sites._replace(feat=feat)
        if fuse is not None:
            before = sites.voxels
            sites = voxel_sites.fused(sites, fuse)
            if sites.voxels is not before:
                levels, lost = self._pyramid(sites)
        levels = voxel_layers.without_masked(levels, sites.mask)
        feat = self._unet(sites.feat.astype(self.dtype), levels, train, keys)
        mask = levels[0].mask
        return base.PointFeatures(
            sites.xyz, feat, mask, base.pool(feat, mask), sites.dropped + lost
        )

    def _pyramid(self, sites: base.Sites):
        return voxel_layers.pyramid(sites.voxels, self.config.capacities(sites.voxels.shape[1]))

    def _unet(self, feat, levels, train: bool, keys) -> jax.Array:
        cfg = self.config
        down, up = sum(cfg.encoder_blocks), sum(cfg.decoder_blocks)
        curves = [_curves(cfg, level, i, keys, down + up + i) for i, level in enumerate(levels)]
        skips, done = [], 0
        for i, (width, heads, num) in enumerate(
            zip(cfg.encoder, cfg.encoder_heads, cfg.encoder_blocks, strict=True)
        ):
            plans = [(done + j, _rate(cfg, done + j, down)) for j in range(num)]
            stage = Stage(width, heads, tuple(plans), cfg, self.dtype, name=f"encoder_{i}")
            finer = levels[i - 1] if i else None
            feat = stage(feat, levels[i], curves[i], train, keys, finer=finer)
            skips.append(feat)
            done += num
        skips.pop()
        for i, (width, heads, num) in enumerate(
            zip(cfg.decoder, cfg.decoder_heads, cfg.decoder_blocks, strict=True)
        ):
            at = len(cfg.decoder) - 1 - i
            last = down + up - 1
            plans = [(done + j, _rate(cfg, last - done - j, up)) for j in range(num)]
            stage = Stage(width, heads, tuple(plans), cfg, self.dtype, name=f"decoder_{i}")
            coarse = (levels[at + 1], skips.pop())
            feat = stage(feat, levels[at], curves[at], train, keys, coarse=coarse)
            done += num
        return feat


class Curves(NamedTuple):
    """Orders of a level's voxels and their inverses: int32 [B, k, V] each."""

    orders: jax.Array
    inverses: jax.Array


def _rate(config: Config, index: int, count: int) -> float:
    return config.drop_path * index / max(count - 1, 1)


def _curves(config: Config, level: voxel_layers.Level, number: int, keys, place: int) -> Curves:
    orders = voxel_orders.voxel_orders(level.keys, config.orders, level=number, mask=level.mask)
    if config.shuffle_orders and keys is not None:
        draws = base.uniform(keys, place, (len(config.orders),))
        orders = jnp.take_along_axis(orders, jnp.argsort(draws, -1)[..., None], -2)
    return Curves(orders, voxel_orders.inverse(orders))


class Norm(nn.Module):
    """Batch norm over valid voxels, then GELU; 0 at masked ones."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, feat: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """feat [B, V, C], mask bool [B, V] -> [B, V, C]."""
        # Reference values (Pointcept): torch momentum 0.01, eps 1e-3.
        norm = MaskedBatchNorm(0.99, 1e-3, self.dtype, name="norm")
        return nn.gelu(norm(feat, mask, train), approximate=False)


class Stem(nn.Module):
    """5^3 submanifold convolution, norm and GELU."""

    features: int
    conv: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, feat, keys, table, mask, train: bool) -> jax.Array:
        """feat [B, V, C] at voxels keys [B, V] with table [B, 125, V] -> [B, V, features]."""
        conv = voxel_layers.SubmanifoldConv(
            self.features, 5, self.conv, dtype=self.dtype, name="conv"
        )
        return Norm(self.dtype, name="out")(conv(feat, keys, table), mask, train)


class Down(nn.Module):
    """To the parents: dense layer, maximum over children, norm and GELU."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, feat, finer: voxel_layers.Level, mask, train: bool) -> jax.Array:
        """feat [B, V, C] of the finer level, mask bool [B, P] of parents -> [B, P, features]."""
        feat = linear.Dense(self.features, dtype=self.dtype, name="proj")(feat)
        feat = voxel_pooling.maximum(feat, finer.family, finer.mask)
        return Norm(self.dtype, name="out")(feat, mask, train)


class Up(nn.Module):
    """Features of the parents, and those from before pooling, each through a layer; their sum."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, feat, coarse: voxel_layers.Level, skip, level, train: bool) -> jax.Array:
        """feat [B, P, C], skip [B, V, S] of ``level`` -> [B, V, features]."""
        dense = lambda name: linear.Dense(self.features, dtype=self.dtype, name=name)  # noqa: E731
        feat = Norm(self.dtype, name="out")(dense("proj")(feat), coarse.mask, train)
        skip = Norm(self.dtype, name="skip_out")(dense("skip")(skip), level.mask, train)
        feat = skip + voxel_pooling.expand(feat, level.family)
        return jnp.where(level.mask[..., None], feat, 0)


class Position(nn.Module):
    """Conditional positional encoding: what each voxel learns of its neighbours'."""

    config: Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, feat, level: voxel_layers.Level, order, back) -> jax.Array:
        """feat [B, V, C], 0 at masked voxels -> [B, V, C], junk there."""
        width = feat.shape[-1]
        bias = self.param("bias", nn.initializers.zeros, (width,))
        if self.config.cpe == "subm":
            conv = voxel_layers.SubmanifoldConv(
                width, 3, self.config.conv, dtype=self.dtype, name="conv"
            )
            x = conv(feat, level.keys, level.table)
        else:
            fan = nn.initializers.variance_scaling(1.0, "fan_in", "uniform", in_axis=0, out_axis=1)
            kernel = self.param("kernel", fan, (2 * REACH + 1, width))
            x = voxel_orders.reorder(feat, order, back)
            x = voxel_orders.reorder(along(x, kernel), back, order)
        x = x + bias.astype(self.dtype)
        x = linear.Dense(width, dtype=self.dtype, name="proj")(x)
        return nn.LayerNorm(LAYER_NORM_EPS, dtype=self.dtype, name="norm")(x)


def along(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution along the rows, each channel by itself, with zeros beyond the ends.

    Args:
        x: [B, V, C].
        kernel: [K, C], K odd; row 0 weighs the row furthest before.

    Returns:
        [B, V, C] of the type of ``x``, accumulated in float32 at least.
    """
    num, reach = x.shape[1], kernel.shape[0] // 2
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows = jnp.pad(x, ((0, 0), (reach, reach), (0, 0))).astype(wide)
    total = sum(rows[:, i : i + num] * kernel[i] for i in range(kernel.shape[0]))
    return total.astype(x.dtype)


class Block(nn.Module):
    """Position, attention and perceptron, each added to what it reads.

    Attributes:
        heads: of the attention.
        place: number of the block, for its draws.
        rate: probability that a residual of a voxel is dropped.
        config, dtype: of the model.
    """

    heads: int
    place: int
    rate: float
    config: Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, feat, level: voxel_layers.Level, order, back, keys) -> jax.Array:
        """feat [B, V, C], 0 at masked voxels -> the same."""
        cfg, rate = self.config, self.rate
        norm = lambda name: nn.LayerNorm(LAYER_NORM_EPS, dtype=self.dtype, name=name)  # noqa: E731
        draws = base.uniform(keys if rate else None, self.place, (2, feat.shape[1]))
        first, second = (None, None) if draws is None else (draws[:, 0], draws[:, 1])
        feat = feat + Position(cfg, self.dtype, name="position")(feat, level, order, back)
        attention = PatchAttention(
            self.heads, cfg.patch, cfg.qkv_bias, cfg.chunk, self.dtype, name="attn"
        )
        x = attention(norm("norm1")(feat), level.mask, order, back)
        feat = feat + _drop(x, rate, first)
        hidden = round(feat.shape[-1] * cfg.mlp_ratio)
        x = transformer.Mlp(hidden, "gelu", self.dtype, name="mlp")(norm("norm2")(feat))
        feat = feat + _drop(x, rate, second)
        return jnp.where(level.mask[..., None], feat, 0)


def _drop(x: jax.Array, rate: float, draw: jax.Array | None) -> jax.Array:
    """Zeros at a share ``rate`` of the voxels, the others scaled up: x [B, V, C], draw [B, V]."""
    if draw is None:
        return x
    return x * ((draw >= rate) / (1.0 - rate)).astype(x.dtype)[..., None]


class Stage(nn.Module):
    """Blocks of a level, after the way down or up to it; ``plans``: place and rate of each."""

    features: int
    heads: int
    plans: tuple[tuple[int, float], ...]
    config: Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        feat: jax.Array,
        level: voxel_layers.Level,
        curves: Curves,
        train: bool,
        keys: jax.Array | None,
        *,
        finer: voxel_layers.Level | None = None,
        coarse: tuple[voxel_layers.Level, jax.Array] | None = None,
    ) -> jax.Array:
        """Features [B, V, features] of ``level``, from [B, ., C] of it, or of ``finer``, or of
        ``coarse`` (the level, and ``level``'s features from before pooling)."""
        if finer is not None:
            down = Down(self.features, self.dtype, name="down")
            feat = down(feat, finer, level.mask, train)
        if coarse is not None:
            up = Up(self.features, self.dtype, name="up")
            feat = up(feat, coarse[0], coarse[1], level, train)
        block = nn.remat(Block) if self.config.remat else Block
        for i, (place, rate) in enumerate(self.plans):
            which = i % curves.orders.shape[1]
            feat = block(self.heads, place, rate, self.config, self.dtype, name=f"blocks_{i}")(
                feat, level, curves.orders[:, which], curves.inverses[:, which], keys
            )
        return feat
