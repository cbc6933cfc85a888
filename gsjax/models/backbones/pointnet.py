"""PointNet (Qi et al., CVPR 2017, arXiv 1612.00593): a perceptron on every point, one maximum.

Dense features are those of the original's segmentation network: the point's own features of an early
layer joined with the global ones. ``pooled`` is the global feature, which ``fuse`` does not reach.
Two small networks may predict changes of coordinates, one for the points and one for the early
features; their matrices are sown in the collection ``intermediates`` for ``orthogonality``.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import linear, point_layers
from gsjax.models.backbones import base

FUSE_AT = "last"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a PointNet.

    Attributes:
        channels: of each point beside its position.
        widths: of the layers on points.
        local: after how many layers the point features are taken that ``feat`` starts with; the
            feature transform, too, follows that layer.
        input_transform: whether a 3 x 3 matrix is predicted (from all columns) that turns positions.
        feature_transform: whether a matrix is predicted that mixes the channels of layer ``local``.
        transform_points: layers on points of the networks that predict a matrix.
        transform_dense: their layers on the whole cloud.
        last_relu: whether a ReLU follows the last layer on points.
        min_batch: smallest batch that a network with a transform trains on: the norms of
            ``transform_dense`` see one row a cloud.
    """

    channels: int = 0
    widths: tuple[int, ...] = (64, 64, 64, 128, 1024)
    local: int = 2
    input_transform: bool = False
    feature_transform: bool = False
    transform_points: tuple[int, ...] = (64, 128, 1024)
    transform_dense: tuple[int, ...] = (512, 256)
    last_relu: bool = True
    min_batch: int = 8

    def __post_init__(self):
        for name in ("widths", "transform_points", "transform_dense"):
            widths = tuple(getattr(self, name))
            object.__setattr__(self, name, widths)
            if not widths or min(widths) < 1:
                raise ValueError(f"{name}: expected positive widths, found {widths}")
        if self.channels < 0:
            raise ValueError(f"channels: expected 0 or more, found {self.channels}")
        if not 1 <= self.local <= len(self.widths):
            raise ValueError(
                f"local: expected one of the layers 1 to {len(self.widths)}, found {self.local}"
            )
        if self.min_batch < 1:
            raise ValueError(f"min_batch: expected at least 1, found {self.min_batch}")


PRESETS = {
    # The original's layers without its transforms.
    "paper": Config(),
    # The original's later, shorter form with both transforms, narrowed to the width of ResNet-18.
    "cross_modal": Config(
        widths=(64, 128, 512),
        local=1,
        input_transform=True,
        feature_transform=True,
        last_relu=False,
    ),
    "small": Config(widths=(48, 96, 96, 256)),
}


class TransformNet(nn.Module):
    """A k x k matrix for each cloud, near the identity at first: a small PointNet.

    Attributes:
        size: k.
        points: widths of layers on points.
        dense: widths of layers on the whole cloud.
        coordinates: as of ``PointLayer``.
        dtype: of all but the matrix.
    """

    size: int
    points: tuple[int, ...]
    dense: tuple[int, ...]
    coordinates: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """x: [B, N, C], mask: bool [B, N] -> f32 [B, k, k]."""
        for i, width in enumerate(self.points):
            x = point_layers.PointLayer(
                width, coordinates=self.coordinates and i == 0, dtype=self.dtype, name=f"points_{i}"
            )(x, mask, train)
        x = base.masked_max(x, mask)
        some = jnp.any(mask, -1)
        for i, width in enumerate(self.dense):
            x = point_layers.PointLayer(width, dtype=self.dtype, name=f"dense_{i}")(x, some, train)
        # A third of the usual variance (torch's default) leaves the identity visible at the start.
        kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        wide = jnp.promote_types(self.dtype, jnp.float32)
        last = linear.Dense(self.size**2, dtype=wide, kernel_init=kernel_init, name="last")
        matrix = last(x).reshape(-1, self.size, self.size) + jnp.eye(self.size)
        self.sow("intermediates", "matrix", matrix)
        return matrix


class Model(nn.Module):
    """The network; its call is that of ``base.Backbone``.

    ``feat`` has ``widths[local - 1] + widths[-1]`` channels, ``pooled`` has ``widths[-1]``.
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
        """See ``base.Backbone``; nothing is random, ``keys`` are not read.

        Raises:
            ValueError: other shapes, or too small a batch to train the transforms.
        """
        c = self.config
        feat = base.inputs(points, c.channels, "pointnet")
        xyz, _, mask = base.clean(points)
        self._check_batch(xyz.shape[0], train)
        if c.input_transform:
            turned = self._transform("input", 3, jnp.concatenate([xyz, feat], -1), mask, train)
            # Rows of coordinates times the matrix.
            x = jnp.einsum("bni,bij->bnj", xyz, turned, precision=jax.lax.Precision.HIGHEST)
        else:
            x = xyz
        x = local = jnp.concatenate([x, feat], -1)
        last = len(c.widths) - 1
        for i, width in enumerate(c.widths):
            x = point_layers.PointLayer(
                width,
                relu=i < last or c.last_relu,
                coordinates=i == 0,
                dtype=self.dtype,
                name=f"blocks_{i}",
            )(x, mask, train)
            if i + 1 == c.local:
                if c.feature_transform:
                    mix = self._transform("feature", width, x, mask, train)
                    x = jnp.einsum("bni,bij->bnj", x, mix.astype(x.dtype))
                local = x
        pooled = base.masked_max(x, mask)
        wide = jnp.broadcast_to(pooled[:, None], x.shape)
        joined = jnp.where(mask[..., None], jnp.concatenate([local, wide], -1), 0.0)
        sites = base.Sites(xyz, joined, mask)
        sites = sites if fuse is None else fuse(sites)
        dropped = jnp.zeros(xyz.shape[0], jnp.int32)
        return base.PointFeatures(sites.xyz, sites.feat, sites.mask, pooled, dropped)

    def _transform(self, name: str, size: int, x, mask, train: bool) -> jax.Array:
        c = self.config
        net = TransformNet(
            size,
            c.transform_points,
            c.transform_dense,
            name == "input",
            self.dtype,
            name=f"{name}_transform",
        )
        return net(x, mask, train)

    def _check_batch(self, batch: int, train: bool):
        c = self.config
        if train and (c.input_transform or c.feature_transform) and batch < c.min_batch:
            raise ValueError(
                f"pointnet: expected at least min_batch = {c.min_batch} clouds to train transforms "
                f"(their norms see one row a cloud), found {batch}; use larger batches, lower "
                "min_batch, or switch the transforms off"
            )


def orthogonality(matrix: jax.Array) -> jax.Array:
    """How far matrices are from orthogonal ones: mean over clouds of || I - A A^T ||_F.

    PointNet, Eq. 2, has the square of this norm, and weights it by 0.001. The matrices of a call:

        out, seen = model.apply(variables, points, mutable=["intermediates"])
        (matrix,) = seen["intermediates"]["feature_transform"]["matrix"]

    Args:
        matrix: [..., k, k].

    Returns:
        A scalar; its gradient is 0 at orthogonal matrices.

    Raises:
        ValueError: matrices that are not square.
    """
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix: expected shape [..., k, k], found {list(matrix.shape)}")
    high = jax.lax.Precision.HIGHEST
    gram = jnp.einsum("...ij,...kj->...ik", matrix, matrix, precision=high)
    squared = jnp.sum(jnp.square(jnp.eye(matrix.shape[-1]) - gram), (-2, -1))
    some = squared > 0
    return jnp.mean(jnp.where(some, jnp.sqrt(jnp.where(some, squared, 1.0)), 0.0))
