"""Two encoders, and what sets their features beside each other.

"Self-Supervised Cross-modality Feature Learning using 3D Gaussian Splatting" (A. Simionescu, TU Delft):
F_img is a ResNet-18 of random weights, F_p a PointNet or PointNet++ on Gaussians, F_f two dense layers
on both features side by side that tell whether they belong together. For NT-Xent there is no F_f:
both features are projected into one space (SimCLR, arXiv 2002.05709).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.losses import contrastive
from gsjax.models import linear, resnet
from gsjax.models.backbones import base as backbones


class CrossModal(nn.Module):
    """The three networks. ``backbone`` is named so that ``gsjax export-backbone`` finds it.

    Attributes:
        backbone: of points; its pooled feature is F_p's.
        image: sizes of F_img.
        fusion_dim: width of F_f's hidden layer (the reference's code 256, its figure 512).
        space_dim: width of the space that both features are projected into; 0 = there is F_f instead.
        dtype: of computation; features and logits are float32.
    """

    backbone: nn.Module
    image: resnet.Config
    fusion_dim: int = 256
    space_dim: int = 0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.pictures = resnet.ResNet(self.image, self.dtype)
        if self.space_dim:
            self.image_space = Projection(self.space_dim, self.dtype)
            self.point_space = Projection(self.space_dim, self.dtype)
        else:
            self.hidden = linear.Dense(self.fusion_dim, dtype=self.dtype)
            self.logits = linear.Dense(2, dtype=self.dtype)

    def __call__(self, points: jax.Array, images: jax.Array):
        """Every parameter takes part: for ``init``. points [B, P, C], images [B, S, S, 3]."""
        image, gaussian = self.views(images), self.clouds(points)
        if self.space_dim:
            return self.of_image(image), self.of_gaussian(gaussian)
        return self.match(image, gaussian)

    def views(self, images: jax.Array, train: bool = False) -> jax.Array:
        """F_img: f32 [B, S, S, 3] in [0, 1] -> f32 [B, D]."""
        return self.pictures(images, train)

    def clouds(
        self, points: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """F_p: f32 [B, P, 3 + C], positions first -> f32 [B, D]."""
        found = self.backbone(as_points(points), train=train, keys=keys)
        return found.pooled.astype(jnp.float32)

    def match(self, image: jax.Array, gaussian: jax.Array) -> jax.Array:
        """F_f: features [B, D] and [B, D'] -> logits f32 [B, 2]; column 1: they belong together."""
        x = jnp.concatenate([image, gaussian], -1).astype(self.dtype)
        return self.logits(nn.relu(self.hidden(x))).astype(jnp.float32)

    def of_image(self, image: jax.Array) -> jax.Array:
        """Features [..., D] -> unit vectors f32 [..., space_dim]."""
        return self.image_space(image)

    def of_gaussian(self, gaussian: jax.Array) -> jax.Array:
        """Features [..., D'] -> unit vectors f32 [..., space_dim]."""
        return self.point_space(gaussian)


class Projection(nn.Module):
    """g of SimCLR: a dense layer as wide as its input, ReLU, a dense layer, unit length."""

    dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(linear.Dense(x.shape[-1], dtype=self.dtype)(x))
        return contrastive.unit(linear.Dense(self.dim, dtype=self.dtype)(x))


def as_points(points: jax.Array) -> backbones.PointBatch:
    """Columns [B, P, 3 + C] as backbones read them; all rows are real."""
    return backbones.PointBatch(points[..., :3], points[..., 3:], jnp.ones(points.shape[:-1], bool))


def build(config, channels: int) -> CrossModal:
    """The model of ``config.model``.

    Args:
        config: with ``backbone``, ``backbone_size``, ``backbone_changes``, ``image``, ``image_changes``,
            ``fusion_dim``, ``space_dim`` and ``dtype``; ``config.loss.objective`` says which of the two.
        channels: columns of a point beside its position.

    Raises:
        ValueError: a backbone, a preset or a field is unknown.
    """
    m = config.model
    if m.image not in resnet.PRESETS:
        raise ValueError(f"model.image: unknown {m.image!r}; known: {', '.join(resnet.PRESETS)}")
    image = dataclasses.replace(resnet.PRESETS[m.image], **m.image_changes)
    backbone = backbones.of_config(m, channels)
    space = m.space_dim if config.loss.objective == "nt_xent" else 0
    return CrossModal(backbone, image, m.fusion_dim, space, jnp.dtype(m.dtype))
