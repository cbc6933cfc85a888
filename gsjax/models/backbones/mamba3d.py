"""Mamba3D (arXiv 2404.14966): local norm pooling and a bidirectional Mamba mixer over point patches.

Sizes and layers are those of the released code. What differs, and why:

* The backward branch reads the tokens from last to first. In the release it reads them in the same
  order with the channels reversed (``backward='channel'``), and the class token, which comes first,
  then sees no other token in any layer: its output is the same for every cloud. The number of
  parameters is the same, so released weights fit either way, but belong to 'channel'.
* Local norm divides by a standard deviation of each cloud, not of the whole batch.
* Sites are the patch centres; the release returns the class token's position in their place.
* The final norm comes before fusion, so that it sees the same features with and without images.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import local_groups
from gsjax.core import points as queries
from gsjax.models import linear, mamba, patch_embed, transformer
from gsjax.models.backbones import base

FUSE_AT = "last"
LAYER_NORM_EPS = 1e-5
SPREAD_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        channels: features a point beside its position.
        num_patches, patch_size: patches, and nearest points in each.
        embed: widths of the patch embedding; the last one is ``width``.
        width, depth: of the blocks.
        neighbours: patches, its own included, over which each patch is normalised and pooled.
        state, expand, conv: of the mixer, see ``mamba.MambaConfig``.
        backward: second direction of the mixer: 'sequence', 'channel' (as released) or 'none'.
        chunk: tokens the scan takes at a time; None = all.
        drop_path: stochastic depth of the last block; linear from 0.
    """

    channels: int = 0
    num_patches: int = 128
    patch_size: int = 32
    embed: tuple[int, int, int, int] = (128, 256, 512, 384)
    width: int = 384
    depth: int = 12
    neighbours: int = 4
    state: int = 16
    expand: int = 2
    conv: int = 4
    backward: str = "sequence"
    chunk: int | None = 64
    drop_path: float = 0.1

    def __post_init__(self):
        for name in ("num_patches", "patch_size", "depth", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.channels < 0:
            raise ValueError(f"channels: expected at least 0, found {self.channels}")
        if self.embed[-1] != self.width:
            raise ValueError(
                f"embed: patches come out {self.embed[-1]} wide, blocks are {self.width} wide; make "
                "the last width of embed that of the blocks"
            )
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path: expected [0, 1), found {self.drop_path}")
        self.mixer()

    def mixer(self) -> mamba.MambaConfig:
        """Sizes of each block's mixer."""
        return mamba.MambaConfig(
            self.width, self.state, self.expand, self.conv, backward=self.backward, chunk=self.chunk
        )


PRESETS = {
    "paper": Config(),
    "paper16": Config(depth=16),
    "small": Config(
        num_patches=64, patch_size=16, embed=(32, 64, 128, 96), width=96, depth=4, drop_path=0.0
    ),
}


def _norm(name: str, dtype) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=LAYER_NORM_EPS, dtype=dtype, name=name)


class LocalNormPool(nn.Module):
    """Each patch's difference from its neighbours, normalised and pooled, joined to its own feature.

    Section 3.2 of Mamba3D: K-norm, K-pooling, a shared layer.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, feat: jax.Array, near: jax.Array, found: jax.Array) -> jax.Array:
        """feat: [B, G, C], near: int [B, G, K] of G, found: bool [B, G, K] -> [B, G, C]."""
        width = feat.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (2 * width,))
        bias = self.param("bias", nn.initializers.zeros, (2 * width,))
        feat = feat.astype(jnp.promote_types(feat.dtype, jnp.float32))
        offsets = queries.gather(feat, near) - feat[:, :, None]
        size = local_groups.spread(offsets, found)[:, None, None, None]
        offsets = scale[:width] * (offsets / (size + SPREAD_EPS)) + bias[:width]
        # The other half is the patch's own feature for every neighbour; pooling leaves it as it is.
        own = scale[width:] * feat + bias[width:]
        x = jnp.concatenate([local_groups.soft_maximum(offsets, found), own], -1)
        x = _norm("norm", self.dtype)(x)
        return nn.silu(linear.Dense(width, dtype=self.dtype, name="proj")(x))


class Block(nn.Module):
    """``x += drop(pool(norm(x))); x += drop(mixer(norm(x)))``; pooling leaves the class token alone."""

    config: Config
    rate: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        near: jax.Array,
        found: jax.Array,
        draws: jax.Array | None,
    ) -> jax.Array:
        """x: [B, 1 + G, C], mask: bool [B, 1 + G], near, found: [B, G, K], draws: [B, 2] or None."""
        first, second = (None, None) if draws is None else (draws[:, 0], draws[:, 1])
        y = _norm("norm1", self.dtype)(x)
        pooled = LocalNormPool(self.dtype, name="local")(y[:, 1:], near, found)
        y = jnp.concatenate([y[:, :1], pooled.astype(y.dtype)], 1)
        x = x + transformer.drop_path(y, self.rate, first)
        y = _norm("norm2", self.dtype)(x)
        y = mamba.Mixer(self.config.mixer(), self.dtype, name="mixer")(y, mask)
        return x + transformer.drop_path(y, self.rate, second)


class Model(nn.Module):
    """See ``base.Backbone``; sites are the patch centres, ``pooled`` is class token, maximum, mean."""

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
        config = self.config
        base.inputs(points, config.channels, "mamba3d")
        cut = patch_embed.patches(base.clean(points), config.num_patches, config.patch_size)
        tokens = patch_embed.PatchEmbed(config.embed, self.dtype, name="embed")(
            cut.values, cut.mask, train
        )
        near, squared = queries.knn(cut.centres, cut.centres, config.neighbours, mask=cut.mask)
        found = jnp.isfinite(squared) & cut.mask[..., None]
        x, places, mask = self._with_class_token(tokens, cut)
        last = max(config.depth - 1, 1)
        for i in range(config.depth):
            block = Block(config, config.drop_path * i / last, self.dtype, name=f"blocks_{i}")
            x = block(x + places, mask, near, found, base.uniform(keys, i, (2,)))
        x = _norm("norm", self.dtype)(x)
        token, feat = x[:, 0], jnp.where(cut.mask[..., None], x[:, 1:], 0.0)
        pooled = jnp.concatenate([token, base.pool(feat, cut.mask)], -1)
        dropped = jnp.zeros(feat.shape[0], jnp.int32)
        sites = base.Sites(cut.centres, feat, cut.mask, dropped=dropped)
        sites = sites if fuse is None else fuse(sites)
        return base.PointFeatures(sites.xyz, sites.feat, sites.mask, pooled, dropped)

    def _with_class_token(self, tokens, cut):
        """Tokens, positions [B, 1 + G, width] and mask, the class token first."""
        width, batch = self.config.width, tokens.shape[0]
        normal = nn.initializers.truncated_normal(0.02)
        token = self.param("cls_token", normal, (1, width)).astype(self.dtype)
        place = self.param("cls_pos", normal, (1, width)).astype(self.dtype)
        h = linear.Dense(128, dtype=self.dtype, name="pos_0")(cut.centres)
        places = linear.Dense(width, dtype=self.dtype, name="pos_1")(nn.silu(h))

        def first(one, others):
            return jnp.concatenate([jnp.broadcast_to(one, (batch, 1, width)), others], 1)

        mask = jnp.pad(cut.mask, ((0, 0), (1, 0)), constant_values=True)
        return first(token, tokens), first(place, places), mask
