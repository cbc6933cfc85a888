"""CLIP's image and text transformers (Radford et al., arXiv 2103.00020), as OpenCLIP builds them.

Both are pre-norm transformers with fused biased q, k, v. The image tower reads its class token; the
text tower is causal and reads the end token, which has the largest id. Weights come from
``clip_tables``; sizes of the published models are in ``clip_presets``. Features are not normalised
here. Not here: ResNet towers, EVA towers, pooled or averaged tokens, patch dropout.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import linear

LAYER_NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Sizes of a pair of towers; plain values.

    Attributes:
        dim: D, width of both embeddings.
        image_size: S, side of the pictures; a multiple of ``patch``.
        patch: side of a patch.
        image_width, image_layers, image_heads, image_hidden: transformer over patches; ``hidden`` is
            the width within the MLP.
        context: T, ids a caption.
        vocabulary: number of ids.
        text_width, text_layers, text_heads, text_hidden: transformer over ids.
        quick_gelu: x sigmoid(1.702 x) in place of the exact GELU: OpenAI's weights and those of
            configs named ``-quickgelu``. Nothing in the arrays tells the two apart.
    """

    dim: int
    image_size: int
    patch: int
    image_width: int
    image_layers: int
    image_heads: int
    image_hidden: int
    text_width: int
    text_layers: int
    text_heads: int
    text_hidden: int
    context: int = 77
    vocabulary: int = 49_408
    quick_gelu: bool = False

    def __post_init__(self):
        if self.image_size % self.patch:
            raise ValueError(
                f"ClipConfig.image_size: {self.image_size} is no multiple of patch {self.patch}"
            )
        for tower in ("image", "text"):
            if getattr(self, f"{tower}_layers") < 1:
                raise ValueError(f"ClipConfig.{tower}_layers: needs at least one layer")
            width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
            if heads < 1 or width % heads:
                raise ValueError(
                    f"ClipConfig.{tower}_heads: {heads} heads do not divide width {width}; choose a "
                    "divisor"
                )

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return 1 + (self.image_size // self.patch) ** 2


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def _layer_norm(name: str, dtype) -> nn.LayerNorm:
    """LayerNorm whose statistics are float32 whatever ``dtype`` it computes in."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPS, dtype=dtype, name=name)


class Attention(nn.Module):
    """Self-attention; output index ``head * head_dim + channel`` within each of q, k, v."""

    heads: int
    causal: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, T, W] -> [B, T, W]."""
        batch, tokens, width = x.shape
        qkv = linear.Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        logits = logits * (width // self.heads) ** -0.5
        if self.causal:
            logits = jnp.where(np.tri(tokens, dtype=bool), logits, -jnp.inf)
        probs = jax.nn.softmax(logits, -1).astype(v.dtype)
        out = jnp.einsum("bhqk,bkhd->bqhd", probs, v).reshape(batch, tokens, width)
        return linear.Dense(width, dtype=self.dtype, name="out")(out)


class Block(nn.Module):
    """``x += attention(ln_1(x)); x += mlp(ln_2(x))``."""

    heads: int
    hidden: int
    causal: bool
    quick_gelu: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, T, W] -> [B, T, W]."""
        attention = Attention(self.heads, self.causal, self.dtype, name="attn")
        x = x + attention(_layer_norm("ln_1", self.dtype)(x))
        h = linear.Dense(self.hidden, dtype=self.dtype, name="fc")(
            _layer_norm("ln_2", self.dtype)(x)
        )
        h = quick_gelu(h) if self.quick_gelu else nn.gelu(h, approximate=False)
        return x + linear.Dense(x.shape[-1], dtype=self.dtype, name="proj")(h)


class ImageTower(nn.Module):
    """Pictures to features (not normalised)."""

    config: ClipConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Normalised pixels [B, S, S, 3] to float32 [B, D]."""
        c = self.config
        if pixels.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(
                f"pixels: expected [B, {c.image_size}, {c.image_size}, 3], found {pixels.shape}"
            )
        window = (c.patch, c.patch)
        x = nn.Conv(c.image_width, window, window, "VALID", use_bias=False, dtype=self.dtype,
                    name="patch")(pixels)  # fmt: skip
        x = x.reshape(len(x), -1, c.image_width)
        small = nn.initializers.normal(c.image_width**-0.5)
        first = self.param("class_embedding", small, (c.image_width,)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, c.image_width)), x], 1)
        x = x + self.param("positions", small, (c.tokens, c.image_width)).astype(x.dtype)
        x = _layer_norm("ln_pre", self.dtype)(x)
        for i in range(c.image_layers):
            x = Block(c.image_heads, c.image_hidden, False, c.quick_gelu, self.dtype,
                      name=f"blocks_{i}")(x)  # fmt: skip
        x = _layer_norm("ln_post", self.dtype)(x[:, 0])
        return _project(x, self.param("proj", small, (c.image_width, c.dim)))


class TextTower(nn.Module):
    """Token ids to features (not normalised)."""

    config: ClipConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Ids int32 [B, T] to float32 [B, D]; read where the id is largest, the end token."""
        c = self.config
        if tokens.ndim != 2 or tokens.shape[1] > c.context:
            raise ValueError(f"tokens: expected [B, {c.context}] or shorter, found {tokens.shape}")
        table = self.param(
            "token_embedding", nn.initializers.normal(0.02), (c.vocabulary, c.text_width)
        )
        place = self.param("positions", nn.initializers.normal(0.01), (c.context, c.text_width))
        x = (table[tokens] + place[: tokens.shape[1]]).astype(self.dtype)
        for i in range(c.text_layers):
            x = Block(c.text_heads, c.text_hidden, True, c.quick_gelu, self.dtype,
                      name=f"blocks_{i}")(x)  # fmt: skip
        end = jnp.argmax(tokens, axis=-1)
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        x = _layer_norm("ln_final", self.dtype)(x)
        small = nn.initializers.normal(c.text_width**-0.5)
        return _project(x, self.param("proj", small, (c.text_width, c.dim)))


def _project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel with float32 sums and result."""
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


class Clip(nn.Module):
    """Both towers, under the names ``image`` and ``text``, and the logarithm of the logit scale.

    ``dtype`` is what layers compute in; softmax, LayerNorm statistics and features are float32.
    """

    config: ClipConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.image = ImageTower(self.config, self.dtype)
        self.text = TextTower(self.config, self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(1 / 0.07)), ())

    def encode_images(self, pixels: jax.Array) -> jax.Array:
        """Normalised pixels [B, S, S, 3] to features float32 [B, D], not of unit length."""
        return self.image(pixels)

    def encode_texts(self, tokens: jax.Array) -> jax.Array:
        """Ids int32 [B, T] to features float32 [B, D], not of unit length."""
        return self.text(tokens)

    def __call__(self, pixels: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both, for initialisation."""
        return self.encode_images(pixels), self.encode_texts(tokens)


def abstract_variables(config: ClipConfig) -> dict:
    """Shapes of all parameters, without making any."""
    one = dataclasses.replace(config, image_layers=1, text_layers=1)  # blocks are all alike
    pixels = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, config.context), jnp.int32)
    params = jax.eval_shape(Clip(one).init, jax.random.key(0), pixels, tokens)["params"]
    for tower, layers in (("image", config.image_layers), ("text", config.text_layers)):
        block = params[tower]["blocks_0"]
        params[tower] |= {f"blocks_{i}": block for i in range(layers)}
    return params
