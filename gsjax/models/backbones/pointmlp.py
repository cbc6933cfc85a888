"""PointMLP (Ma et al., ICLR 2022, arXiv 2202.07123): residual perceptrons on growing neighbourhoods.

The classification network of the released code with a decoder that carries features back to every
point, as UniPre3D (arXiv 2506.09952) pre-trains it. Sites are all points, in the order they came;
``pooled`` is that of the coarsest stage, on which the released classifier works, and which ``fuse``
does not reach.

Differently from the released code, clouds may be padded: deviations, norms and maxima leave masked
points out, and a stage keeps its share of the *valid* points.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import local_mlps
from gsjax.models.backbones import base

FUSE_AT = "last"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a PointMLP.

    Attributes:
        channels: features a point beside its position (1: its height).
        embed: width of the first layer.
        widths: of the stages.
        reduce: how many times fewer points each stage has than the one before.
        neighbours: of each centre, in each stage.
        pre_blocks: residual blocks of each stage on neighbours, before their maximum.
        post_blocks: residual blocks of each stage on centres, after it.
        decoder: widths of the layers that carry features back, from the coarsest stage.
        decoder_blocks: residual blocks of each of them.
        use_xyz: whether neighbours' offsets in space stand beside those of their features.
        remat: recompute the blocks on neighbours in the backward pass.
    """

    channels: int = 1
    embed: int = 64
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    reduce: tuple[int, ...] = (2, 2, 2, 2)
    neighbours: tuple[int, ...] = (24, 24, 24, 24)
    pre_blocks: tuple[int, ...] = (2, 2, 2, 2)
    post_blocks: tuple[int, ...] = (2, 2, 2, 2)
    decoder: tuple[int, ...] = (512, 256, 128, 128)
    decoder_blocks: tuple[int, ...] = (2, 2, 2, 2)
    use_xyz: bool = False
    remat: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, base.plain(getattr(self, field.name)))
        if self.channels < 0 or self.embed < 1:
            raise ValueError(
                f"channels, embed: expected at least 0 and 1, found {self.channels}, {self.embed}"
            )
        stages = len(self.widths)
        if not stages or min(self.widths) < 1:
            raise ValueError(f"widths: expected positive numbers, found {self.widths}")
        for name, least in [
            ("reduce", 1),
            ("neighbours", 1),
            ("pre_blocks", 0),
            ("post_blocks", 0),
            ("decoder", 1),
            ("decoder_blocks", 0),
        ]:
            values = getattr(self, name)
            if len(values) != stages or min(values) < least:
                raise ValueError(
                    f"{name}: expected a number of at least {least} for each of the {stages} stages "
                    f"of widths, found {values}"
                )


PRESETS = {
    "paper": Config(),
    # For 512 points.
    "small": Config(
        embed=24,
        widths=(48, 96),
        reduce=(4, 4),
        neighbours=(12, 12),
        pre_blocks=(1, 1),
        post_blocks=(1, 1),
        decoder=(96, 96),
        decoder_blocks=(1, 1),
    ),
}


class Stage(nn.Module):
    """Groups, and residual blocks on their centres."""

    index: int
    config: Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, xyz: jax.Array, feat: jax.Array, mask: jax.Array, train: bool):
        """xyz [B, N, 3], feat [B, N, C], mask bool [B, N] -> the same three of fewer points."""
        cfg, i = self.config, self.index
        group = local_mlps.LocalGroup(
            cfg.widths[i],
            cfg.reduce[i],
            cfg.neighbours[i],
            cfg.pre_blocks[i],
            cfg.use_xyz,
            cfg.remat,
            self.dtype,
            name="group",
        )
        rows, x, found = group(xyz, feat, mask, train)
        xyz, mask = local_mlps.places(xyz, rows, found), found
        for j in range(cfg.post_blocks[i]):
            x = local_mlps.Residual(dtype=self.dtype, name=f"blocks_{j}")(x, mask, train)
        return xyz, x, mask


class Model(nn.Module):
    """The network; its call is that of ``base.Backbone``.

    Stages are ``stage_0`` ... and ``decoder_0`` ... (from the coarsest stage to the points). ``feat``
    has ``decoder[-1]`` channels, ``pooled`` twice ``widths[-1]``: maximum and mean.
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
        """See ``base.Backbone``; nothing is random.

        Raises:
            ValueError: other shapes.
        """
        del keys
        cfg = self.config
        base.inputs(points, cfg.channels, "pointmlp")
        xyz, feat, mask = base.clean(points)
        embed = local_mlps.Layer(cfg.embed, coordinates=True, dtype=self.dtype, name="embed")
        levels = [(xyz, embed(jnp.concatenate([xyz, feat], -1), mask, train), mask)]
        for i in range(len(cfg.widths)):
            levels.append(Stage(i, cfg, self.dtype, name=f"stage_{i}")(*levels[-1], train))
        _, top, found = coarse = levels[-1]
        for i, fine in enumerate(levels[-2::-1]):
            carry = local_mlps.Carry(
                cfg.decoder[i], cfg.decoder_blocks[i], dtype=self.dtype, name=f"decoder_{i}"
            )
            coarse = (fine[0], carry(fine, coarse, train), fine[2])
        dropped = jnp.zeros(xyz.shape[0], jnp.int32)
        sites = base.Sites(*coarse, dropped=dropped)
        sites = sites if fuse is None else fuse(sites)
        return base.PointFeatures(sites.xyz, sites.feat, sites.mask, base.pool(top, found), dropped)
