"""A backbone with a head for one task: a class an object, or a class a point.

The backbone's parameters lie under ``backbone``, as in pre-training, so that they move over as they
are. The classification head is Point-MAE's (arXiv 2203.06604): two hidden layers with BatchNorm and
dropout. Points take features from the three nearest places of the backbone, as in PointNet++.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import point_groups
from gsjax.models import masked_norm
from gsjax.models.backbones import base as backbones

_DROPOUT_PLACE = 1 << 10  # numbers of random draws, beyond those of any backbone


class ObjectClassifier(nn.Module):
    """Logits [B, classes].

    Attributes:
        backbone: of ``models.backbones``.
        classes: to tell apart.
        hidden: widths of the head.
        dropout: rate behind each hidden layer.
        frozen: no gradient reaches the backbone, whose norms keep their statistics.
    """

    backbone: nn.Module
    classes: int
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.5
    frozen: bool = False

    @nn.compact
    def __call__(
        self, points: backbones.PointBatch, *, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        found = _features(self.backbone, points, train, keys, self.frozen)
        x = found.pooled
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, name=f"hidden_{i}")(x)
            x = masked_norm.MaskedBatchNorm(name=f"norm_{i}")(x, None, train)
            x = _drop(
                nn.relu(x), self.dropout, backbones.uniform(keys, _DROPOUT_PLACE + i, (width,))
            )
        return nn.Dense(self.classes, name="logits")(x).astype(jnp.float32)


class PointLabeller(nn.Module):
    """Logits [B, N, classes]; attributes as of :class:`ObjectClassifier`.

    A point reads the features interpolated at its place, the pooled vector and its own position and
    features.
    """

    backbone: nn.Module
    classes: int
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.5
    frozen: bool = False

    @nn.compact
    def __call__(
        self, points: backbones.PointBatch, *, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        points = backbones.clean(points)
        found = _features(self.backbone, points, train, keys, self.frozen)
        near = point_groups.interpolate(points.xyz, found.xyz, found.feat, mask=found.mask)
        near = near.astype(jnp.float32)
        own = jnp.concatenate([points.xyz, points.feat], -1)
        whole = nn.Dense(self.hidden[0], name="whole")(found.pooled)[:, None]
        x = jnp.concatenate([near, own], -1)
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, name=f"hidden_{i}")(x) + (whole if i == 0 else 0.0)
            x = masked_norm.MaskedBatchNorm(name=f"norm_{i}")(x, points.mask, train)
            draws = backbones.uniform(keys, _DROPOUT_PLACE + i, x.shape[1:2] + (width,))
            x = _drop(nn.relu(x), self.dropout, draws)
        return nn.Dense(self.classes, name="logits")(x).astype(jnp.float32)


def _features(backbone, points, train, keys, frozen):
    found = backbone(points, train=train and not frozen, keys=None if frozen else keys)
    return jax.lax.stop_gradient(found) if frozen else found


def _drop(x: jax.Array, rate: float, draws: jax.Array | None) -> jax.Array:
    """Dropout by given uniform numbers; none = inference."""
    if draws is None or rate == 0.0:
        return x
    return jnp.where(draws >= rate, x / (1 - rate), 0.0)
