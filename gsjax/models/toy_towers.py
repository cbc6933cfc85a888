"""A small image tower and a small text tower with a common embedding space.

They take the place of CLIP's towers where nothing can be downloaded: this repository trains the
pair itself on renders and captions (``gsjax.systems.toy_clip``), and frozen it feeds the embedding
cache. Small enough to train in minutes on two CPU cores; no stand-in for CLIP in quality.

The image tower is a plain pyramid of strided 3x3 convolutions with group normalisation (Wu and He,
arXiv 1803.08494) that works on the distance from white, pooled by mean and by maximum, so that an
empty background says nothing. The text tower averages hashed words and n-grams
(``gsjax.models.tokenize``), mixes the words with transformer blocks, and pools by attention.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import linear, tokenize

_GROUPS = 8  # of channels that are normalised together


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Sizes of the pair; plain numbers, stored beside the weights.

    Attributes:
        dim: D, width of the common space.
        image_size: side of the square pictures, a multiple of 16 from 32 on.
        image_widths: channels at 1/2, 1/4, 1/8 and 1/16 of the side, multiples of 8.
        text_width, text_depth, text_heads: the text tower's transformer.
        buckets, max_words, max_grams: see :class:`tokenize.HashTokenizer`.
    """

    dim: int = 128
    image_size: int = 64
    image_widths: tuple[int, ...] = (32, 64, 128, 192)
    text_width: int = 64
    text_depth: int = 1
    text_heads: int = 4
    buckets: int = 3072
    max_words: int = 20
    max_grams: int = 14

    def __post_init__(self):
        if self.image_size % 16 or self.image_size < 32:
            raise ValueError(
                "TowerConfig.image_size: must be a multiple of 16 and at least 32, found "
                f"{self.image_size}"
            )
        if len(self.image_widths) != 4 or any(w % _GROUPS or w < 1 for w in self.image_widths):
            raise ValueError(
                f"TowerConfig.image_widths: needs four multiples of {_GROUPS}, found "
                f"{self.image_widths}"
            )
        if self.text_width % self.text_heads:
            raise ValueError(
                f"TowerConfig.text_heads: {self.text_heads} does not divide text_width "
                f"{self.text_width}"
            )

    @property
    def tokenizer(self) -> tokenize.HashTokenizer:
        """The tokenizer that the text tower expects."""
        return tokenize.HashTokenizer(self.buckets, self.max_words, self.max_grams)


class ImageTower(nn.Module):
    """Pictures to embeddings (not normalised)."""

    config: TowerConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Pixels in [-1, 1], [B, H, W, 3], to [B, D]."""
        x = 1.0 - pixels  # white is zero, as is the padding
        for stage, width in enumerate(self.config.image_widths):
            x = nn.Conv(width, (3, 3), strides=(2, 2), use_bias=False, name=f"conv_{stage}")(x)
            x = nn.relu(nn.GroupNorm(_GROUPS, name=f"norm_{stage}")(x))
        x = jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1)
        return linear.Dense(self.config.dim, name="head")(nn.LayerNorm(name="norm")(x))


class TextBlock(nn.Module):
    """Pre-norm transformer block over words, padding masked."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """x: [B, W, C]; present: bool [B, W]."""
        width = x.shape[-1]
        q, k, v = jnp.split(
            linear.Dense(3 * width, name="qkv")(nn.LayerNorm(name="norm_1")(x)), 3, -1
        )
        split = lambda t: t.reshape(*t.shape[:-1], self.heads, width // self.heads)  # noqa: E731
        mask = present[:, None, None, :]
        y = nn.dot_product_attention(split(q), split(k), split(v), mask=mask)
        x = x + linear.Dense(width, name="attend")(y.reshape(x.shape))
        y = nn.relu(linear.Dense(2 * width, name="expand")(nn.LayerNorm(name="norm_2")(x)))
        return x + linear.Dense(width, name="project")(y)


class TextTower(nn.Module):
    """Token ids to embeddings (not normalised)."""

    config: TowerConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Ids int32 [B, W, 1 + G], to [B, D]. A caption without words has a fixed embedding."""
        config = self.config
        # Wide apart from the start: from equal rows the words part too slowly.
        scatter = nn.initializers.normal(0.5)
        table = self.param("table", scatter, (config.buckets, config.text_width))
        there = jnp.asarray(tokens) > 0
        rows = jnp.where(there[..., None], table[tokens], 0.0)
        grams = rows[:, :, 1:].sum(axis=2) / jnp.maximum(there[:, :, 1:].sum(axis=2), 1)[..., None]
        x = rows[:, :, 0] + grams
        place = nn.initializers.normal(0.1)
        x = x + self.param("place", place, (config.max_words, config.text_width))
        present = jnp.any(there, axis=2)
        present = present.at[:, 0].set(True)  # an empty caption attends to its first, blank place
        for block in range(config.text_depth):
            x = TextBlock(config.text_heads, name=f"block_{block}")(x, present)
        x = nn.LayerNorm(name="norm")(x)
        weight = linear.Dense(1, kernel_init=nn.initializers.zeros, name="pool")(x)[..., 0]
        weight = jax.nn.softmax(jnp.where(present, weight, -jnp.inf), axis=-1)
        return linear.Dense(config.dim, name="head")(jnp.einsum("bw,bwc->bc", weight, x))


def normalize(x: jax.Array) -> jax.Array:
    """Rows to length one; a zero row stays zero and its gradient finite."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


def to_unit_range(views: jax.Array) -> jax.Array:
    """uint8 pictures to floats in [-1, 1]."""
    return views.astype(jnp.float32) / 127.5 - 1.0


class ToyTowers(nn.Module):
    """Both towers, under the names ``image`` and ``text``."""

    config: TowerConfig

    def setup(self):
        self.image = ImageTower(self.config)
        self.text = TextTower(self.config)

    def encode_images(self, pixels: jax.Array) -> jax.Array:
        """Pixels in [-1, 1], [B, H, W, 3], to unit vectors [B, D]."""
        return normalize(self.image(pixels))

    def encode_texts(self, tokens: jax.Array) -> jax.Array:
        """Ids int32 [B, W, 1 + G], to unit vectors [B, D]."""
        return normalize(self.text(tokens))

    def __call__(self, pixels: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both, for initialisation and training."""
        return self.encode_images(pixels), self.encode_texts(tokens)
