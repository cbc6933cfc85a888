"""The autoencoder of Stable Diffusion (``AutoencoderKL``): encode, mode, decode, and the decoder's maps.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752),
section 3.1 and appendix G; sizes and names of the parts after diffusers' ``AutoencoderKL`` (Apache-2.0),
whose checkpoints ``sd_vae_tables`` converts. 83.65 M parameters as published. Inference only: nothing is
sampled, and no scale is applied to the latents (0.18215 belongs to the diffusion, not to the
autoencoder).

Statistics of norms and the softmax are float32 at least, whatever ``dtype``; matmul precision is the caller's.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import linear, name_tables

EPS = 1e-6  # of every GroupNorm
PICTURE_LAYERS = ("norm_out", "conv_out")  # of the decoder, behind the features


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, as ``config.json`` beside the weights has them.

    Attributes:
        widths: channels at each resolution, the full one first (``block_out_channels``); each further
            one halves the sides.
        layers: residual blocks a resolution in the encoder; the decoder has one more.
        latent: channels of the latent map.
        groups: of every GroupNorm; divides every width.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    latent: int = 4
    groups: int = 32

    def __post_init__(self):
        if not self.widths or min(*self.widths, self.layers, self.latent, self.groups) < 1:
            raise ValueError(
                "sd_vae.Config: needs widths, and widths, layers, latent and groups from 1 on; found "
                f"{self.widths}, {self.layers}, {self.latent}, {self.groups}"
            )
        if any(width % self.groups for width in self.widths):
            raise ValueError(
                f"sd_vae.Config: groups={self.groups} must divide every width of {self.widths}"
            )

    @property
    def stride(self) -> int:
        """Pixels a latent cell."""
        return 2 ** (len(self.widths) - 1)


class _Layer(nn.Module):
    """What the parts below share: convolutions and norms of one type."""

    config: Config
    dtype: Any = jnp.float32

    def conv(self, width: int, size: int, name: str, **options) -> nn.Conv:
        padding = options.pop("padding", size // 2)
        return nn.Conv(width, (size, size), padding=padding, dtype=self.dtype, name=name, **options)

    def norm(self, name: str) -> nn.GroupNorm:
        return nn.GroupNorm(self.config.groups, epsilon=EPS, dtype=self.dtype, name=name)


class ResnetBlock(_Layer):
    """x + conv(silu(norm(conv(silu(norm(x)))))); a 1x1 convolution of x where widths differ."""

    width: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H, W, width]."""
        y = self.conv(self.width, 3, "conv1")(nn.silu(self.norm("norm1")(x)))
        y = self.conv(self.width, 3, "conv2")(nn.silu(self.norm("norm2")(y)))
        if x.shape[-1] != self.width:
            x = self.conv(self.width, 1, "shortcut")(x)
        return x + y


class Attention(_Layer):
    """x + attention of one head over all cells."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C], unchanged in shape."""
        batch, height, width, channels = x.shape
        y = self.norm("norm")(x).reshape(batch, height * width, channels)
        q, k, v = (linear.Dense(channels, dtype=self.dtype, name=name)(y) for name in "qkv")
        exact = jnp.promote_types(self.dtype, jnp.float32)
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=exact)
        shares = nn.softmax(logits * channels**-0.5).astype(self.dtype)
        y = linear.Dense(channels, dtype=self.dtype, name="out")(shares @ v)
        return x + y.reshape(x.shape)


class Middle(_Layer):
    """Block, attention, block, at the coarsest resolution."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(2):
            x = ResnetBlock(self.config, self.dtype, self.config.widths[-1], name=f"block_{i}")(x)
            if i == 0:
                x = Attention(self.config, self.dtype, name="attention")(x)
        return x


class Encoder(_Layer):
    """Pictures [B, H, W, 3] to mean and log variance of latents [B, H / s, W / s, 2 latent]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        x = self.conv(c.widths[0], 3, "conv_in")(x.astype(self.dtype))
        for level, width in enumerate(c.widths):
            for i in range(c.layers):
                x = ResnetBlock(c, self.dtype, width, name=f"down_{level}_block_{i}")(x)
            if level < len(c.widths) - 1:
                # A row and a column of zeros behind the picture alone, as published.
                padding = ((0, 1), (0, 1))
                x = self.conv(width, 3, f"down_{level}_conv", strides=2, padding=padding)(x)
        x = nn.silu(self.norm("norm_out")(Middle(c, self.dtype, name="middle")(x)))
        x = self.conv(2 * c.latent, 3, "conv_out")(x)
        return self.conv(2 * c.latent, 1, "quant")(x)


class Decoder(_Layer):
    """Latents [B, h, w, latent] to (pictures [B, H, W, 3], features [B, H, W, widths[0]]).

    The features are what the last resolution's blocks give (diffusers: ``decoder.up_blocks[-1]``).
    Without ``picture`` there is None in its place, and its layers (``PICTURE_LAYERS``) need no
    parameters.
    """

    @nn.compact
    def __call__(self, x: jax.Array, picture: bool = True) -> tuple[jax.Array | None, jax.Array]:
        c = self.config
        x = self.conv(c.latent, 1, "post_quant")(x.astype(self.dtype))
        x = Middle(c, self.dtype, name="middle")(self.conv(c.widths[-1], 3, "conv_in")(x))
        for level, width in enumerate(reversed(c.widths)):
            for i in range(c.layers + 1):
                x = ResnetBlock(c, self.dtype, width, name=f"up_{level}_block_{i}")(x)
            if level < len(c.widths) - 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = self.conv(width, 3, f"up_{level}_conv")(x)
        if not picture:
            return None, x
        return self.conv(3, 3, "conv_out")(nn.silu(self.norm("norm_out")(x))), x


class SdVae(nn.Module):
    """Both halves.

    Attributes:
        config: sizes.
        dtype: what it computes in.
    """

    config: Config = Config()
    dtype: Any = jnp.float32

    def setup(self):
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)

    def encode(self, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance [B, H / s, W / s, latent] of pictures [B, H, W, 3] in [-1, 1].

        Raises:
            ValueError: sides that are no multiples of the stride.
        """
        stride = self.config.stride
        if pictures.ndim != 4 or pictures.shape[1] % stride or pictures.shape[2] % stride:
            raise ValueError(
                f"pictures: expected [B, H, W, 3] with sides that are multiples of {stride}, found "
                f"{list(pictures.shape)}; pad them"
            )
        mean, log_variance = jnp.split(self.encoder(pictures), 2, axis=-1)
        return mean, log_variance

    def decode(self, latents: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(pictures, features) of latents; see :class:`Decoder`."""
        return self.decoder(latents)

    def __call__(self, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(pictures, features) by way of the most probable latents (the mode: the mean)."""
        return self.decode(self.encode(pictures)[0])

    def features(self, pictures: jax.Array) -> jax.Array:
        """The features alone, likewise; without parameters of ``PICTURE_LAYERS``."""
        return self.decoder(self.encode(pictures)[0], picture=False)[1]


def abstract_params(config: Config) -> dict:
    """The parameters as ``jax.ShapeDtypeStruct``."""
    x = jax.ShapeDtypeStruct((1, config.stride, config.stride, 3), jnp.float32)
    return jax.eval_shape(SdVae(config).init, jax.random.key(0), x)["params"]


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter."""
    return name_tables.flat_shapes(abstract_params(config))
