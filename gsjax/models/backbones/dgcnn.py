"""DGCNN (Wang et al., arXiv 1801.07829): edge convolutions over neighbours in feature space.

Every level connects each point with its nearest ones among the features of the level before (at first:
the columns themselves), puts each edge (own features, difference to the neighbour's) through a layer and
keeps the maximum. ``feat`` are all levels side by side, ``pooled`` is the maximum and the mean over points
of one more layer. The point branch of Jing, Zhang, Tian (arXiv 2004.05749).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import feature_graph
from gsjax.core import points as queries
from gsjax.models import linear, masked_norm
from gsjax.models.backbones import base

FUSE_AT = "last"
_SLOPE = 0.2  # of the leaky ReLU


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a DGCNN.

    Attributes:
        channels: of each point beside its position.
        neighbours: of each point, itself among them.
        widths: of the edge convolutions.
        top: width of the layer before pooling; ``pooled`` has twice as many.
        dynamic: whether every level finds its own neighbours; else those of the positions stay.
    """

    channels: int = 0
    neighbours: int = 20
    widths: tuple[int, ...] = (64, 64, 128, 256)
    top: int = 1024
    dynamic: bool = True

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths: expected positive numbers, found {self.widths}")
        for name in ("neighbours", "top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.channels < 0:
            raise ValueError(f"channels: expected 0 or more, found {self.channels}")


PRESETS = {
    "paper": Config(),  # the classification network, less its classifier
    # Four levels and 512 features of the cloud.
    "cross_modal": Config(widths=(64, 64, 64, 128), top=256),
    "small": Config(neighbours=12, widths=(32, 32, 64), top=96),
}


class EdgeConv(nn.Module):
    """Maximum over edges of ``leaky_relu(norm([x_i, x_j - x_i] W))``.

    The product is taken before rows are gathered: x_i (W_own - W_near) + x_j W_near.

    Attributes:
        width: of the result.
        dtype: of the result.
    """

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, idx: jax.Array, found: jax.Array, train: bool) -> jax.Array:
        """x: [B, N, C], idx: int [B, N, k], found: bool [B, N, k] -> [B, N, width]."""
        dense = lambda name: linear.Dense(  # noqa: E731
            self.width, use_bias=False, dtype=self.dtype, name=name
        )
        near = dense("near")(x)
        edges = (dense("own")(x) - near)[:, :, None] + queries.gather(near, idx)
        norm = masked_norm.MaskedBatchNorm(dtype=self.dtype, name="norm")
        edges = nn.leaky_relu(norm(edges, found, train), _SLOPE)
        return base.masked_max(edges, found)


class Model(nn.Module):
    """The network; its call is that of ``base.Backbone``.

    ``feat`` has ``sum(widths)`` channels, ``pooled`` twice ``top``.
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
        c = self.config
        base.inputs(points, c.channels, "dgcnn")
        xyz, feat, mask = base.clean(points)
        x, levels = jnp.concatenate([xyz, feat], -1), []
        graph = feature_graph.neighbours(xyz, c.neighbours, mask)
        for i, width in enumerate(c.widths):
            if c.dynamic and i:
                graph = feature_graph.neighbours(x, c.neighbours, mask)
            x = EdgeConv(width, self.dtype, name=f"blocks_{i}")(x, *graph, train)
            levels.append(x)
        joined = jnp.where(mask[..., None], jnp.concatenate(levels, -1), 0.0)
        top = linear.Dense(c.top, use_bias=False, dtype=self.dtype, name="top")(joined)
        top = masked_norm.MaskedBatchNorm(dtype=self.dtype, name="top_norm")(top, mask, train)
        pooled = base.pool(nn.leaky_relu(top, _SLOPE), mask)
        dropped = jnp.zeros(xyz.shape[0], jnp.int32)
        sites = base.Sites(xyz, joined, mask, dropped=dropped)
        sites = sites if fuse is None else fuse(sites)
        return base.PointFeatures(sites.xyz, sites.feat, sites.mask, pooled, dropped)
