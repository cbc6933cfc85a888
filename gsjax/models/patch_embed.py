"""From a cloud to patch tokens: farthest-point centres, their neighbours, a small PointNet.

The tokenizer of Point-BERT and Point-MAE (arXiv 2111.14819, 2203.06604), which several backbones
share. Clouds are padded and masked; a cloud of fewer points than patches has masked tokens.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import point_groups
from gsjax.core import points as queries
from gsjax.models import linear, masked_norm
from gsjax.models.backbones import base

GROUPINGS = ("knn", "ball")


class Patches(NamedTuple):
    """Patches of clouds.

    Attributes:
        values: [B, G, n, 3 + F]: positions relative to the centre, then the points' features.
        centres: [B, G, 3].
        mask: bool [B, G].
    """

    values: jax.Array
    centres: jax.Array
    mask: jax.Array


def patches(
    points: base.PointBatch, num: int, size: int, *, grouping: str = "knn", radius: float = 0.1
) -> Patches:
    """``num`` patches of ``size`` points around farthest-point centres.

    Args:
        points: clouds, cleaned (``base.clean``).
        num: G.
        size: n.
        grouping: 'knn', the nearest ones; 'ball', the first ones by index within ``radius``, padded
            with the first found (PointNet++'s).
        radius: of 'ball', world units.

    Raises:
        ValueError: unknown grouping.
    """
    if grouping not in GROUPINGS:
        raise ValueError(f"grouping: unknown {grouping!r}; known: {', '.join(GROUPINGS)}")
    xyz, feat, mask = points
    rows, is_token = point_groups.sample_centers(xyz, num, mask=mask)
    centres = queries.gather(xyz, rows[:, None])[:, 0]
    if grouping == "knn":
        near, _ = queries.knn(centres, xyz, size, mask=mask)
    else:
        near, _ = queries.ball_query(centres, xyz, radius, size, mask=mask)
    values = queries.gather(jnp.concatenate([xyz, feat], -1), near)
    shift = jnp.pad(centres, ((0, 0), (0, 0), (0, feat.shape[-1])))
    return Patches(values - shift[:, :, None], centres, is_token)


class PatchEmbed(nn.Module):
    """MLP, maximum, the maximum joined to each point, MLP, maximum: a vector a patch.

    Attributes:
        widths: of the four layers; the third reads twice the second.
        dtype: what it computes in.
    """

    widths: tuple[int, int, int, int] = (128, 256, 512, 384)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, values: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """values: [B, G, n, C], mask: bool [B, G] -> [B, G, widths[3]]."""
        first, second, third, last = self.widths
        dense = lambda width, name: linear.Dense(width, dtype=self.dtype, name=name)  # noqa: E731
        norm = lambda name: masked_norm.MaskedBatchNorm(dtype=self.dtype, name=name)  # noqa: E731
        valid = mask[..., None]
        x = dense(first, "first_0")(values)
        x = nn.relu(norm("first_norm")(x, valid, train))
        x = dense(second, "first_1")(x)
        every = jnp.ones(x.shape[:-1], bool)
        overall = base.masked_max(x, every)[..., None, :]
        x = JoinedDense(third, self.dtype, name="second_0")(overall, x)
        x = nn.relu(norm("second_norm")(x, valid, train))
        x = base.masked_max(dense(last, "second_1")(x), every)
        return jnp.where(valid, x, 0.0)


class JoinedDense(nn.Module):
    """``nn.Dense`` of two joined arrays, the first the same along an axis; that part is computed once.

    Attributes:
        features: width of the result.
        dtype: what it computes in.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, shared: jax.Array, each: jax.Array) -> jax.Array:
        """shared: [..., 1, A], each: [..., n, C] -> [..., n, features]; kernel [A + C, features]."""
        split = shared.shape[-1]
        shape = (split + each.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        shared, each = shared.astype(self.dtype), each.astype(self.dtype)
        return linear.product(each, kernel[split:]) + (
            linear.product(shared, kernel[:split]) + bias
        )
