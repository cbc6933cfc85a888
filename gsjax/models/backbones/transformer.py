"""Plain transformer over point patches, in the shape of Point-BERT and Point-MAE.

UniPre3D (arXiv 2506.09952) trains it with 16 blocks and fine-tunes with 12; 'paper' has 12 throughout,
so that nothing is dropped between the two, 'paper16' is what was pre-trained. The positions' MLP is
added anew before every block. Sources: arXiv 2111.14819, 2203.06604.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import linear, patch_embed, transformer
from gsjax.models.backbones import base

FUSE_AT = "last"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        channels: features a point beside its position.
        num_patches, patch_size: G and n.
        grouping, radius: how a patch is filled, see ``patch_embed.patches``.
        embed: widths of the patch embedding.
        width, depth, heads: of the blocks; their MLP is four times as wide.
        drop_path: stochastic depth of the last block.
    """

    channels: int = 0
    num_patches: int = 128
    patch_size: int = 32
    grouping: str = "ball"
    radius: float = 0.1
    embed: tuple[int, int, int, int] = (128, 256, 512, 384)
    width: int = 384
    depth: int = 12
    heads: int = 6
    drop_path: float = 0.1

    def __post_init__(self):
        if self.grouping not in patch_embed.GROUPINGS:
            raise ValueError(
                f"grouping: unknown {self.grouping!r}; known: {', '.join(patch_embed.GROUPINGS)}"
            )
        if self.width % self.heads:
            raise ValueError(
                f"heads: {self.heads} heads do not divide width {self.width}; choose a divisor"
            )


PRESETS = {
    "paper": Config(),
    "paper16": Config(depth=16),
    "small": Config(
        num_patches=64, patch_size=16, grouping="knn", embed=(32, 64, 128, 96), width=96, depth=4,
        heads=4, drop_path=0.0,
    ),
}  # fmt: skip


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
        base.inputs(points, config.channels, "transformer")
        found = patch_embed.patches(
            base.clean(points), config.num_patches, config.patch_size,
            grouping=config.grouping, radius=config.radius,
        )  # fmt: skip
        embed = patch_embed.PatchEmbed(config.embed, self.dtype, name="embed")
        tokens = embed(found.values, found.mask, train)
        tokens = linear.Dense(config.width, dtype=self.dtype, name="reduce")(tokens)
        x, places, mask = self._with_class_token(tokens, found)
        blocks = transformer.TransformerConfig(
            config.width, config.depth, config.heads, 4 * config.width, "gelu", config.drop_path,
            qkv_bias=False,
        )  # fmt: skip
        last = max(config.depth - 1, 1)
        for i in range(config.depth):
            block = transformer.Block(
                blocks, config.drop_path * i / last, self.dtype, name=f"blocks_{i}"
            )
            x = block(x + places, base.uniform(keys, i, (2,)), mask=mask)
        x = transformer.layer_norm("norm", self.dtype)(x)
        token, feat = x[:, 0], jnp.where(found.mask[..., None], x[:, 1:], 0.0)
        pooled = jnp.concatenate([token, base.pool(feat, found.mask)], -1)
        dropped = jnp.zeros(feat.shape[0], jnp.int32)
        sites = base.Sites(found.centres, feat, found.mask, dropped=dropped)
        sites = sites if fuse is None else fuse(sites)
        return base.PointFeatures(sites.xyz, sites.feat, sites.mask, pooled, dropped)

    def _with_class_token(self, tokens, found):
        """Tokens, positions [B, 1 + G, width] and mask, the class token first."""
        width, batch = self.config.width, tokens.shape[0]
        normal = nn.initializers.normal(0.02)
        token = self.param("cls_token", normal, (1, width)).astype(self.dtype)
        place = self.param("cls_pos", normal, (1, width)).astype(self.dtype)
        h = linear.Dense(128, dtype=self.dtype, name="pos_0")(found.centres)
        places = linear.Dense(width, dtype=self.dtype, name="pos_1")(nn.gelu(h, approximate=False))

        def first(one, others):
            return jnp.concatenate([jnp.broadcast_to(one, (batch, 1, width)), others], 1)

        return (
            first(token, tokens),
            first(place, places),
            jnp.pad(found.mask, ((0, 0), (1, 0)), constant_values=True),
        )
