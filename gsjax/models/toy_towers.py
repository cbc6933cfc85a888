"""A small image tower and a small text tower with a common embedding space.

They take the place of CLIP's towers where nothing can be downloaded: this repository trains the
pair itself on renders and captions (``gsjax.systems.toy_clip``), and frozen it feeds the embedding
cache. Small enough to train in minutes on two CPU cores; no stand-in for CLIP in quality.

The image tower is a ConvNeXt-like pyramid (Liu et al., arXiv 2201.03545). Its 3x3 depth-wise
convolutions are written as nine shifted products, which XLA fuses into one loop on CPU, where a
grouped convolution is slow. The text tower averages hashed words and n-grams
(``gsjax.models.tokenize``), mixes the words with transformer blocks, and pools by attention.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import tokenize


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Sizes of the pair; plain numbers, stored beside the weights.

    Attributes:
        dim: D, width of the common space.
        image_size: side of the square pictures, a multiple of 16.
        image_widths, image_depths: channels and blocks of the three stages (1/4, 1/8, 1/16).
        text_width, text_depth, text_heads: the text tower's transformer.
        buckets, max_words, max_grams: see :class:`tokenize.HashTokenizer`.
    """

    dim: int = 128
    image_size: int = 64
    image_widths: tuple[int, ...] = (48, 96, 144)
    image_depths: tuple[int, ...] = (1, 2, 1)
    text_width: int = 64
    text_depth: int = 1
    text_heads: int = 4
    buckets: int = 3072
    max_words: int = 20
    max_grams: int = 14

    def __post_init__(self):
        if self.image_size % 16 or self.image_size < 16:
            raise ValueError(
                f"TowerConfig.image_size: must be a multiple of 16, found {self.image_size}"
            )
        if len(self.image_widths) != 3 or len(self.image_depths) != 3:
            raise ValueError(
                "TowerConfig: image_widths and image_depths need three stages each, found "
                f"{self.image_widths} and {self.image_depths}"
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


def depthwise3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Depth-wise 3x3 convolution with zero padding, as nine shifted products.

    Args:
        x: [B, H, W, C].
        kernel: [3, 3, C].
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [
        padded[:, i : i + height, j : j + width] * kernel[i, j] for i in range(3) for j in range(3)
    ]
    return sum(shifts[1:], shifts[0])


def patches(x: jax.Array, size: int) -> jax.Array:
    """Non-overlapping squares as channels: [B, H, W, C] -> [B, H/s, W/s, s*s*C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // size, width // size, size * size * channels)


class ConvBlock(nn.Module):
    """Depth-wise 3x3, norm, two point-wise layers, residual."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        width = x.shape[-1]
        kernel = self.param("depthwise", nn.initializers.normal(0.2), (3, 3, width))
        y = depthwise3x3(x, kernel.astype(x.dtype))
        y = nn.LayerNorm(name="norm")(y)
        y = nn.relu(nn.Dense(2 * width, name="expand")(y))
        y = nn.Dense(width, kernel_init=nn.initializers.normal(0.01), name="project")(y)
        return x + y


class ImageTower(nn.Module):
    """Pictures to embeddings (not normalised)."""

    config: TowerConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Pixels in [-1, 1], [B, H, W, 3], to [B, D]."""
        x = pixels
        for stage, (width, depth) in enumerate(
            zip(self.config.image_widths, self.config.image_depths)
        ):
            x = nn.Dense(width, name=f"merge_{stage}")(patches(x, 4 if stage == 0 else 2))
            x = nn.LayerNorm(name=f"merge_norm_{stage}")(x)
            for block in range(depth):
                x = ConvBlock(name=f"stage_{stage}_block_{block}")(x)
        x = nn.LayerNorm(name="norm")(x.mean(axis=(1, 2)))
        return nn.Dense(self.config.dim, name="head")(x)


class TextBlock(nn.Module):
    """Pre-norm transformer block over words, padding masked."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """x: [B, W, C]; present: bool [B, W]."""
        width = x.shape[-1]
        q, k, v = jnp.split(nn.Dense(3 * width, name="qkv")(nn.LayerNorm(name="norm_1")(x)), 3, -1)
        split = lambda t: t.reshape(*t.shape[:-1], self.heads, width // self.heads)  # noqa: E731
        mask = present[:, None, None, :]
        y = nn.dot_product_attention(split(q), split(k), split(v), mask=mask)
        x = x + nn.Dense(width, name="attend")(y.reshape(x.shape))
        y = nn.relu(nn.Dense(2 * width, name="expand")(nn.LayerNorm(name="norm_2")(x)))
        return x + nn.Dense(width, name="project")(y)


class TextTower(nn.Module):
    """Token ids to embeddings (not normalised)."""

    config: TowerConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Ids int32 [B, W, 1 + G], to [B, D]. A caption without words has a fixed embedding."""
        config = self.config
        # Zeros: an n-gram that training never met adds nothing to an unseen word.
        table = self.param("table", nn.initializers.zeros, (config.buckets, config.text_width))
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
        weight = nn.Dense(1, kernel_init=nn.initializers.zeros, name="pool")(x)[..., 0]
        weight = jax.nn.softmax(jnp.where(present, weight, -jnp.inf), axis=-1)
        return nn.Dense(config.dim, name="head")(jnp.einsum("bw,bwc->bc", weight, x))


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
