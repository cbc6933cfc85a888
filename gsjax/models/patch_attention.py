"""Attention among the voxels of a patch: consecutive ones of an order along a curve.

Point Transformer V3 (arXiv 2312.10035): instead of searching neighbours, a cloud is cut into patches
of equally many voxels. Orders come from ``core.voxel_orders``; what gives position, and whole
networks, are in ``models.backbones``.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import voxel_orders
from gsjax.models import linear


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, *, chunk: int = 0
) -> jax.Array:
    """Softmax attention within each patch.

    Args:
        q, k, v: [B, T, P, H, D], T patches of P voxels.
        valid: bool [B, T, P], keys that take part.
        chunk: patches of a cloud at a time, recomputed in the backward pass, which bounds memory at
            chunk x B x H x P^2 logits; 0 = all at once.

    Returns:
        [B, T, P, H, D] of the type of ``v``; patches without valid keys hold finite junk.
    """
    if not chunk or chunk >= q.shape[1]:
        return _attend(q, k, v, valid)

    def one(patches):
        return _attend(*(x[:, None] for x in patches))[:, 0]

    by_patch = tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v, valid))
    return jnp.moveaxis(jax.lax.map(jax.checkpoint(one), by_patch, batch_size=chunk), 0, 1)


def _attend(q, k, v, valid):
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("btqhd,btkhd->bthqk", q, k, preferred_element_type=wide)
    logits = jnp.where(valid[:, :, None, None], logits * q.shape[-1] ** -0.5, jnp.finfo(wide).min)
    probs = jax.nn.softmax(logits, -1).astype(v.dtype)
    return jnp.einsum("bthqk,btkhd->btqhd", probs, v)


class PatchAttention(nn.Module):
    """Multi-head self-attention within patches of an order.

    The last patch of a cloud may hold few voxels. (The released code fills it up with voxels of the
    patch before.)

    Attributes:
        heads: number of heads; divides the width.
        patch: P, voxels of a patch; with fewer rows, all of them are one.
        qkv_bias: whether queries, keys and values have biases. Of their outputs, index
            ``(part * heads + head) * head_dim + channel``.
        chunk: of :func:`attend`.
        dtype: of computation and result; the softmax is float32 at least.
    """

    heads: int
    patch: int
    qkv_bias: bool = True
    chunk: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, order: jax.Array, back: jax.Array
    ) -> jax.Array:
        """x [B, V, C] finite, mask bool [B, V], order int32 [B, V] with valid rows first, back its
        inverse -> [B, V, C]; junk at masked rows.

        Raises:
            ValueError: heads do not divide C.
        """
        batch, num, width = x.shape
        if width % self.heads:
            raise ValueError(
                f"heads: {self.heads} heads do not divide width {width}; choose a divisor"
            )
        size = min(self.patch, num)
        count = -(-num // size)
        x = voxel_orders.reorder(x.astype(self.dtype), order, back)
        valid = jnp.arange(num) < jnp.sum(mask, -1, dtype=jnp.int32)[:, None]
        qkv = linear.Dense(3 * width, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv")(x)
        qkv = jnp.pad(qkv, ((0, 0), (0, count * size - num), (0, 0)))
        valid = jnp.pad(valid, ((0, 0), (0, count * size - num)))
        qkv = qkv.reshape(batch, count, size, 3, self.heads, width // self.heads)
        q, k, v = (qkv[:, :, :, i] for i in range(3))
        y = attend(q, k, v, valid.reshape(batch, count, size), chunk=self.chunk)
        y = y.reshape(batch, count * size, width)[:, :num]
        y = linear.Dense(width, dtype=self.dtype, name="proj")(y)
        return voxel_orders.reorder(y, back, order)
