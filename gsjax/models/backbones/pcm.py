"""Point Cloud Mamba (arXiv 2403.00762): Mamba layers that each read the points in another order.

A hierarchy of four stages halves the points: farthest-point centres, a perceptron over each one's
neighbours, Mamba layers; a decoder carries features back to all points. Sizes are those of the
released code as UniPre3D (arXiv 2506.09952) configures it. What differs, and why:

* Orders are a fixed list, and a prompt belongs to a place in it; the release numbers its prompts by
  iterating over a set of strings, whose order changes from process to process.
* Sweeps are true snakes (``serialization.snake_key``), and curves have a fixed depth; the release's
  depth is that of the largest cloud in the batch.
* Half of the *valid* points are kept at a stage, whatever the padding.
* Mixers read in one direction, as in the release, where a bidirectional flag exists but reaches no
  mixer; ``backward='sequence'`` gives the second branch. Prompts stand before the points; after
  them only with a second branch, since nothing else would read them.
* ``pooled`` is that of the coarsest stage, on which the released classifier works. The release's
  perceptron after fusion, 384-384-128, belongs to a head, and its global-feature layers are unused.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import serialization
from gsjax.models import linear, local_mlps, mamba, transformer
from gsjax.models.backbones import base

FUSE_AT = "last"
NORM_EPS = 1e-5
PAPER_ORDERS = (*serialization.SNAKES, "hilbert", "z", "z-trans")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        channels: features a point beside its position (1: its height).
        embed: width of the first layer.
        widths: of the stages.
        layers: Mamba layers of each stage.
        reduce: how many times fewer points each stage has than the one before.
        neighbours: of each centre.
        orders: of ``serialization.ORDERS``, one a Mamba layer.
        prompts, prompt_width: learned tokens an order, and their width before the stage's projection.
        grid: edge of the cells that points are ordered by, units of the cloud.
        decoder: widths of the layers that carry features back, from the coarsest stage.
        state, expand, conv: of the mixers, see ``mamba.MambaConfig``.
        backward: second direction of the mixers: 'none' (as released), 'sequence' or 'channel'.
        chunk: tokens the scan takes at a time; None = all.
        drop_path: stochastic depth of the last layer; linear from 0.
    """

    channels: int = 1
    embed: int = 384
    widths: tuple[int, ...] = (384, 384, 768, 768)
    layers: tuple[int, ...] = (1, 2, 2, 4)
    reduce: tuple[int, ...] = (2, 2, 2, 2)
    neighbours: int = 12
    orders: tuple[str, ...] = PAPER_ORDERS
    prompts: int = 6
    prompt_width: int = 384
    grid: float = 0.02
    decoder: tuple[int, ...] = (768, 384, 384, 384)
    state: int = 16
    expand: int = 2
    conv: int = 4
    backward: str = "none"
    chunk: int | None = 64
    drop_path: float = 0.1

    def __post_init__(self):
        stages = len(self.widths)
        for name in ("layers", "reduce", "decoder"):
            if len(getattr(self, name)) != stages:
                raise ValueError(
                    f"{name}: expected one number for each of the {stages} stages of widths, found "
                    f"{getattr(self, name)}"
                )
        if min(*self.layers, *self.reduce, self.neighbours, self.prompts, stages) < 1:
            raise ValueError(
                "layers, reduce, neighbours, prompts: expected at least 1 each, found "
                f"{self.layers}, {self.reduce}, {self.neighbours}, {self.prompts}"
            )
        if len(self.orders) != sum(self.layers):
            raise ValueError(
                f"orders: expected one for each of {sum(self.layers)} Mamba layers, found "
                f"{len(self.orders)}"
            )
        unknown = sorted(set(self.orders) - set(serialization.ORDERS))
        if unknown:
            raise ValueError(f"orders: unknown {unknown}; known: {', '.join(serialization.ORDERS)}")
        if self.grid <= 0:
            raise ValueError(f"grid: expected a positive edge, found {self.grid}")
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path: expected [0, 1), found {self.drop_path}")
        self.mixer(self.widths[0])

    def mixer(self, width: int) -> mamba.MambaConfig:
        """Sizes of the mixers of a stage."""
        return mamba.MambaConfig(
            width, self.state, self.expand, self.conv, backward=self.backward, chunk=self.chunk,
            residual_layers=sum(self.layers),
        )  # fmt: skip


PRESETS = {
    "paper": Config(),
    "small": Config(
        embed=48, widths=(96, 96, 96, 96), layers=(1, 1, 1, 1), neighbours=8,
        orders=("xyz", "hilbert", "yzx", "z"), prompts=2, prompt_width=96,
        decoder=(96, 96, 96, 96), drop_path=0.0,
    ),
}  # fmt: skip


class Reader(nn.Module):
    """One Mamba layer: ``mixer(norm(tokens))``; the residual stream is kept by the caller."""

    config: mamba.MambaConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, prompts: jax.Array, mask: jax.Array) -> jax.Array:
        """x: [B, N, C], valid ones first, prompts: [P, C], mask: bool [B, N] -> [B, N, C]."""
        batch, num, width = x.shape
        many = prompts.shape[0]
        after = self.config.backward != "none"
        table = jnp.concatenate(
            [jnp.broadcast_to(prompts.astype(x.dtype), (batch, many, width)), x], 1
        )
        count = jnp.sum(mask, -1, dtype=jnp.int32)[:, None]
        # Prompts, valid points, prompts again, and what is masked: nothing masked lies between.
        place = jnp.arange(many + num + many * after, dtype=jnp.int32)[None]
        closing = (place >= many + count) & (place < 2 * many + count) & after
        rows = jnp.where(closing, place - many - count, jnp.minimum(place, many + num - 1))
        there = (place < many + count) | closing
        tokens = jnp.where(there[..., None], _rows(table, rows), 0.0)
        tokens = nn.RMSNorm(epsilon=NORM_EPS, dtype=self.dtype, name="norm")(tokens)
        y = mamba.Mixer(self.config, self.dtype, name="mixer")(tokens, there)
        return jnp.where(mask[..., None], y[:, many : many + num], 0.0)


class Model(nn.Module):
    """See ``base.Backbone``; sites are all points, in the order they came."""

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
        base.inputs(points, config.channels, "pcm")
        xyz, feat, mask = base.clean(points)
        embed = local_mlps.Layer(config.embed, dtype=self.dtype, name="embed")
        x = embed(jnp.concatenate([xyz, feat], -1), mask, train)
        levels = [(xyz, x, mask)]
        names = list(dict.fromkeys(config.orders))
        prompts = self.param(
            "prompts",
            nn.initializers.normal(1.0),
            (len(names), config.prompts, config.prompt_width),
        )
        stream, layer = None, 0
        for i, width in enumerate(config.widths):
            dense = lambda name, width=width: linear.Dense(  # noqa: E731
                width, use_bias=False, dtype=self.dtype, name=name
            )
            group = local_mlps.LocalGroup(
                width, config.reduce[i], config.neighbours, 1, True, dtype=self.dtype,
                name=f"group_{i}",
            )  # fmt: skip
            rows, x, mask = group(*levels[-1], train)
            xyz = local_mlps.places(levels[-1][0], rows, mask)
            if stream is not None:
                stream = _rows(stream, rows)
                stream = stream if stream.shape[-1] == width else dense(f"stream_{i}")(stream)
            place, ask = dense(f"place_{i}"), dense(f"prompt_{i}")
            for _ in range(config.layers[i]):
                order = config.orders[layer]
                rows = serialization.reading_order(xyz, order, config.grid, mask=mask)
                xyz, x, mask = _rows(xyz, rows), _rows(x, rows), _rows(mask, rows)
                x = x + place(xyz)
                if stream is None:
                    stream = x
                else:
                    stream = _rows(stream, rows)
                    stream = stream + transformer.drop_path(x, *self._drop(keys, layer))
                # Residuals add up in float32 at least.
                stream = stream.astype(jnp.promote_types(stream.dtype, jnp.float32))
                reader = Reader(config.mixer(width), self.dtype, name=f"layers_{layer}")
                x = reader(stream, ask(prompts[names.index(order)]), mask)
                layer += 1
            levels.append((xyz, x, mask))
        feat = self._decode(levels, train)
        xyz, mask = levels[0][0], levels[0][2]
        pooled = base.pool(levels[-1][1], levels[-1][2])
        dropped = jnp.zeros(feat.shape[0], jnp.int32)
        sites = base.Sites(xyz, feat, mask, dropped=dropped)
        sites = sites if fuse is None else fuse(sites)
        return base.PointFeatures(sites.xyz, sites.feat, sites.mask, pooled, dropped)

    def _drop(self, keys, layer):
        """Rate of a layer and the draws [B] that decide."""
        last = max(sum(self.config.layers) - 1, 1)
        return self.config.drop_path * layer / last, base.uniform(keys, layer)

    def _decode(self, levels, train):
        """Features of all points [B, N, decoder[-1]] from those of every level, finest first."""
        (places, x, found), finer = levels[-1], levels[-2::-1]
        for i, (xyz, own, mask) in enumerate(finer):
            carry = local_mlps.Carry(
                self.config.decoder[i], 1, True, self.dtype, name=f"decoder_{i}"
            )
            x = carry((xyz, own, mask), (places, x, found), train)
            places, found = xyz, mask
        return x


def _rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows [B, M] of x [B, N, ...]."""
    shape = (*rows.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, rows.reshape(shape), 1)
