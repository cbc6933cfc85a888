"""Transformer blocks in the shapes of EVA and EVA-02 (arXiv 2211.07636, 2303.11331).

Tokens come in embedded; class tokens, positions and read-out belong to the model that uses the
blocks, and so do the tables of rotary positions, where a model has them. The random numbers of
stochastic depth come in from outside, one set an example.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import linear

MLPS = ("packed_swiglu", "swiglu_norm", "gelu")
LAYER_NORM_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a stack of blocks.

    Attributes:
        width: token dimension d.
        depth: number of blocks.
        heads: attention heads; divides ``width``.
        hidden: width inside the MLP.
        mlp: ``packed_swiglu`` (one input matrix of 2 x hidden), ``swiglu_norm`` (a LayerNorm on the
            gated hidden units) or ``gelu`` (exact).
        drop_path: stochastic depth of the last block; the first has none, linear in between.
        remat: recompute each block in the backward pass.
        post_norm: norms at the end of each branch (``x += norm(branch(x))``) and not before it.
        inner_norm: a LayerNorm on the heads' joined output, before the output projection.
        qkv_bias: whether queries and values have biases.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    mlp: str = "packed_swiglu"
    drop_path: float = 0.0
    remat: bool = False
    post_norm: bool = False
    inner_norm: bool = False
    qkv_bias: bool = True

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(
                f"heads: {self.heads} heads do not divide width {self.width}; choose a divisor"
            )
        if self.mlp not in MLPS:
            raise ValueError(f"mlp: unknown {self.mlp!r}; known: {MLPS}")


def layer_norm(name: str, dtype) -> nn.LayerNorm:
    """LayerNorm whose statistics are float32 whatever ``dtype`` it computes in."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPS, dtype=dtype, name=name)


def drop_path(x: jax.Array, rate: float, draw: jax.Array | None) -> jax.Array:
    """Stochastic depth: drops the whole residual of an example, and rescales the others.

    Args:
        x: [B, T, D].
        rate: probability of dropping.
        draw: [B] uniform in [0, 1); None = keep everything (inference).
    """
    if draw is None or rate == 0.0:
        return x
    return x * ((draw >= rate) / (1.0 - rate)).astype(x.dtype)[:, None, None]


def rotate(x: jax.Array, rotary: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """Turns each pair of neighbouring channels by an angle of its token's position.

    Args:
        x: [B, T, H, C], C even.
        rotary: sine and cosine, float32 [T, C] each, equal within a pair; None = as it is.

    Returns:
        [B, T, H, C] of the type of ``x``; computed in float32 at least.
    """
    if rotary is None:
        return x
    sine, cosine = (table[:, None, :] for table in rotary)
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return (x * cosine + turned * sine).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention; queries and values may have biases, keys have none.

    The projection is fused, output index ``head * head_dim + channel`` within each of q, k, v.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32
    inner_norm: bool = False
    qkv_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rotary: tuple[jax.Array, jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """x: [B, T, D], rotary: tables of :func:`rotate`, mask: bool [B, T] of keys -> [B, T, D]."""
        batch, tokens, width = x.shape
        head_dim = width // self.heads
        kernel = self.param("qkv_kernel", nn.linear.default_kernel_init, (width, 3 * width))
        bias = jnp.zeros(3 * width)
        if self.qkv_bias:
            q_bias = self.param("q_bias", nn.initializers.zeros, (width,))
            v_bias = self.param("v_bias", nn.initializers.zeros, (width,))
            bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        qkv = (linear.product(x, kernel) + bias).reshape(batch, tokens, 3, self.heads, head_dim)
        q, k, v = (qkv[:, :, i] for i in range(3))
        q, k = rotate(q, rotary), rotate(k, rotary)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide)
        if mask is not None:
            logits = jnp.where(mask[:, None, None], logits, jnp.finfo(wide).min)
        probs = jax.nn.softmax(logits * head_dim**-0.5, -1).astype(v.dtype)
        out = jnp.einsum("bhqk,bkhd->bqhd", probs, v).reshape(batch, tokens, width)
        if self.inner_norm:
            out = layer_norm("norm", self.dtype)(out)
        return linear.Dense(width, dtype=self.dtype, name="proj")(out)


class Mlp(nn.Module):
    """The MLP of a block, in the three variants of the EVA family."""

    hidden: int
    kind: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, T, D] -> [B, T, D]."""
        dense = lambda features, name: linear.Dense(features, dtype=self.dtype, name=name)  # noqa: E731
        width = x.shape[-1]
        if self.kind == "gelu":
            h = nn.gelu(dense(self.hidden, "fc1")(x), approximate=False)
        elif self.kind == "packed_swiglu":
            gate, value = jnp.split(dense(2 * self.hidden, "fc1")(x), 2, axis=-1)
            h = nn.silu(gate) * value
        else:
            h = nn.silu(dense(self.hidden, "fc1_g")(x)) * dense(self.hidden, "fc1_x")(x)
            h = layer_norm("norm", self.dtype)(h)
        return dense(width, "fc2")(h)


class Block(nn.Module):
    """``x += drop(attention(norm(x))); x += drop(mlp(norm(x)))``; norms outermost if ``post_norm``."""

    config: TransformerConfig
    rate: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        draws: jax.Array | None = None,
        rotary: tuple[jax.Array, jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """x: [B, T, D], draws: [B, 2] or None, rotary: of :func:`rotate` -> [B, T, D].

        Tokens whose ``mask`` [B, T] is False are attended to by none.
        """
        config = self.config
        first, second = (None, None) if draws is None else (draws[:, 0], draws[:, 1])
        norm1, norm2 = (layer_norm(name, self.dtype) for name in ("norm1", "norm2"))
        attention = Attention(
            config.heads, self.dtype, config.inner_norm, config.qkv_bias, name="attn"
        )
        mlp = Mlp(config.hidden, config.mlp, self.dtype, name="mlp")
        if config.post_norm:
            x = x + drop_path(norm1(attention(x, rotary, mask)), self.rate, first)
            return x + drop_path(norm2(mlp(x)), self.rate, second)
        x = x + drop_path(attention(norm1(x), rotary, mask), self.rate, first)
        return x + drop_path(mlp(norm2(x)), self.rate, second)


class Transformer(nn.Module):
    """A stack of blocks; no final norm.

    Blocks are named ``blocks_0`` ... so that learning-rate rules can name a depth.
    """

    config: TransformerConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        draws: jax.Array | None = None,
        rotary: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """x: [B, T, D] -> [B, T, D].

        ``draws`` [B, 2 depth], uniform in [0, 1), decide stochastic depth; None = none.
        ``rotary``: tables of :func:`rotate`, the same for every block.
        """
        block = nn.remat(Block) if self.config.remat else Block
        last = max(self.config.depth - 1, 1)
        for i in range(self.config.depth):
            draws_i = None if draws is None else draws[:, 2 * i : 2 * i + 2]
            rate = self.config.drop_path * i / last
            x = block(self.config, rate, self.dtype, name=f"blocks_{i}")(x, draws_i, rotary)
        return x
