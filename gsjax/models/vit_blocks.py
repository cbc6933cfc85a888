"""Pre-norm transformer blocks of DINOv2 and VGGT (arXiv 2304.07193, 2503.11651): LayerScale, exact GELU.

Beside ``transformer`` (the EVA family): all of queries, keys and values have biases, branches are scaled
per channel, queries and keys may be normed, and rotary positions turn a channel with its partner half a
band away. The residual stream keeps the type it comes in with, float32 as a rule, also where branches
compute in bfloat16.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import linear

_INIT = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Sizes of a block.

    Attributes:
        width: token dimension D.
        heads: attention heads; divides ``width``.
        hidden: width inside the MLP.
        eps: of the norms: 1e-6 in DINOv2, 1e-5 in VGGT's alternating blocks.
        qk_norm: LayerNorm over each head's queries and keys.
        scale: initial value of LayerScale.
        query_block: attend this many queries at a time, so that memory is ``query_block`` x T a head
            and not T x T; 0 = all at once. Results are the same.
    """

    width: int
    heads: int
    hidden: int
    eps: float = 1e-6
    qk_norm: bool = False
    scale: float = 1.0
    query_block: int = 0

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"heads: {self.heads} heads do not divide width {self.width}; choose a divisor"
            )


def rotary_tables(places: np.ndarray, channels: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine for :func:`rotate` from rows and columns.

    The first half of a head's channels turns with the row, the second with the column, each by
    ``place * base ** -(2 i / (channels / 2))`` for i < channels / 4 (RoFormer, arXiv 2104.09864, on two
    axes as in VGGT).

    Args:
        places: [T, 2] row and column of each token; 0 is not turned.
        channels: C of a head, a multiple of 4.
        base: the longest wavelength in tokens over 2 pi, nearly.

    Returns:
        Two float32 [T, C], each band's angles twice.

    Raises:
        ValueError: channels are no multiple of 4.
    """
    if channels % 4:
        raise ValueError(
            f"channels: rotary positions on two axes need a multiple of 4 a head, found {channels}"
        )
    speeds = base ** -(np.arange(channels // 4) / (channels // 4))
    angles = np.asarray(places, np.float64)[:, :, None] * speeds  # [T, 2, C / 4]
    angles = np.concatenate([angles, angles], -1).reshape(len(places), channels)
    return np.float32(np.sin(angles)), np.float32(np.cos(angles))


def rotate(x: jax.Array, rotary: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """Turns channel i with channel i + C / 4 within each half of the channels.

    Args:
        x: [B, T, H, C].
        rotary: of :func:`rotary_tables`; None = as it is.

    Returns:
        [B, T, H, C] of the type of ``x``; computed in float32 at least.
    """
    if rotary is None:
        return x
    sine, cosine = (table[:, None, :] for table in rotary)
    halves = x.reshape(*x.shape[:-1], 2, 2, -1)
    partner = jnp.stack([-halves[..., 1, :], halves[..., 0, :]], -2).reshape(x.shape)
    return (x * cosine + partner * sine).astype(x.dtype)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, query_block: int = 0) -> jax.Array:
    """Softmax attention, logits and their softmax in float32 at least.

    Args:
        q, k, v: [B, T, H, C].
        query_block: queries at a time; 0, or at least T = all.

    Returns:
        [B, T, H, C].
    """
    tokens = q.shape[1]
    if not query_block or query_block >= tokens:
        return _attend(q, k, v)
    blocks = -(-tokens // query_block)
    padded = jnp.pad(q, ((0, 0), (0, blocks * query_block - tokens), (0, 0), (0, 0)))
    parts = jnp.moveaxis(padded.reshape(q.shape[0], blocks, query_block, *q.shape[2:]), 1, 0)
    parts = jax.lax.map(jax.checkpoint(lambda part: _attend(part, k, v)), parts)
    return jnp.moveaxis(parts, 0, 1).reshape(padded.shape)[:, :tokens]


def _attend(q, k, v):
    # jax.nn.dot_product_attention takes its softmax in float32 whatever comes in
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide)
    probs = jax.nn.softmax(logits * q.shape[-1] ** -0.5, -1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probs, v)


class Attention(nn.Module):
    """Multi-head self-attention; output index of the fused projection: (q k v, head, channel)."""

    config: BlockConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, rotary: tuple[jax.Array, jax.Array] | None = None
    ) -> jax.Array:
        """x: [B, T, D], rotary: of :func:`rotary_tables` -> [B, T, D]."""
        c = self.config
        dense = lambda n, name: linear.Dense(n, dtype=self.dtype, kernel_init=_INIT, name=name)  # noqa: E731
        qkv = dense(3 * c.width, "qkv")(x).reshape(*x.shape[:2], 3, c.heads, c.width // c.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        if c.qk_norm:
            q, k = (
                nn.LayerNorm(epsilon=c.eps, dtype=self.dtype, name=name)(part)
                for name, part in (("q_norm", q), ("k_norm", k))
            )
        out = attend(rotate(q, rotary), rotate(k, rotary), v, c.query_block)
        return dense(c.width, "proj")(out.reshape(x.shape))


class Block(nn.Module):
    """``x += gamma1 * attention(norm(x)); x += gamma2 * mlp(norm(x))``."""

    config: BlockConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, rotary: tuple[jax.Array, jax.Array] | None = None
    ) -> jax.Array:
        """x: [B, T, D], rotary: of :func:`rotary_tables` -> [B, T, D] of the type of ``x``."""
        c = self.config
        dense = lambda n, name: linear.Dense(n, dtype=self.dtype, kernel_init=_INIT, name=name)  # noqa: E731
        norm = lambda name: nn.LayerNorm(epsilon=c.eps, dtype=self.dtype, name=name)  # noqa: E731
        scale = nn.initializers.constant(c.scale)
        gamma1, gamma2 = (self.param(name, scale, (c.width,)) for name in ("gamma1", "gamma2"))
        y = Attention(c, self.dtype, name="attn")(norm("norm1")(x), rotary)
        x = x + (y * gamma1).astype(x.dtype)
        y = nn.gelu(dense(c.hidden, "fc1")(norm("norm2")(x)), approximate=False)
        return x + (dense(c.width, "fc2")(y) * gamma2).astype(x.dtype)
