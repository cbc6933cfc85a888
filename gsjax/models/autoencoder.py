"""A small convolutional autoencoder of pictures, and its weight files.

Three resolutions down to a quarter of the sides, a latent map, three up again; no connection leads
around the latent map, so the decoder has to rebuild what it paints. The last map of the decoder, one
vector a pixel, is what ``models.image_features`` reads, as UniPre3D (arXiv 2506.09952) reads that of
Stable Diffusion's autoencoder (``models.sd_vae``). ``gsjax.systems.image_autoencoder`` trains it.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import name_tables, towers

KIND = "image_autoencoder"  # of the weight file
PICTURE_LAYER = "picture"  # of the decoder, behind the features


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes; plain numbers, stored beside the weights.

    Attributes:
        widths: channels at each resolution, the full one first; each further one halves the sides.
        latent: channels of the latent map.
        blocks: residual blocks at each resolution, on the way down and on the way up.
        groups: of the normalisations; divides every width.
    """

    widths: tuple[int, ...] = (32, 48, 64)
    latent: int = 8
    blocks: int = 1
    groups: int = 8

    def __post_init__(self):
        if not self.widths or min(*self.widths, self.latent, self.blocks, self.groups) < 1:
            raise ValueError(
                "autoencoder.Config: needs widths, and widths, latent, blocks and groups from 1 on; "
                f"found {self.widths}, {self.latent}, {self.blocks}, {self.groups}"
            )
        if any(width % self.groups for width in self.widths):
            raise ValueError(
                f"autoencoder.Config: groups={self.groups} must divide every width of {self.widths}"
            )

    @property
    def stride(self) -> int:
        """Pixels a latent cell."""
        return 2 ** (len(self.widths) - 1)


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with as many channels as come in."""

    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i in range(2):
            y = nn.silu(nn.GroupNorm(self.groups, epsilon=1e-6, name=f"norm_{i}")(y))
            y = nn.Conv(x.shape[-1], (3, 3), name=f"conv_{i}")(y)
        return x + y


class Encoder(nn.Module):
    """[B, H, W, 3] in [-1, 1] to latents [B, H / stride, W / stride, latent]."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        for level, width in enumerate(c.widths):
            # From the second level on: kernels of 2 by 2 pixels, each pixel read once.
            kernel, stride = ((2, 2), 2) if level else ((3, 3), 1)
            x = nn.Conv(width, kernel, stride, name=f"down_{level}")(x)
            for i in range(c.blocks):
                x = Block(c.groups, name=f"block_{level}_{i}")(x)
        x = nn.silu(nn.GroupNorm(c.groups, epsilon=1e-6, name="norm")(x))
        return nn.Conv(c.latent, (1, 1), name="latent")(x)


class Decoder(nn.Module):
    """Latents [B, h, w, latent] to (pictures [B, H, W, 3], features [B, H, W, widths[0]]).

    Without ``picture`` there is None in its place, and its layer (``PICTURE_LAYER``) needs no
    parameters.
    """

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, picture: bool = True) -> tuple[jax.Array | None, jax.Array]:
        c = self.config
        for level, width in reversed(list(enumerate(c.widths))):
            if level < len(c.widths) - 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = nn.Conv(width, (3, 3), name=f"up_{level}")(x)
            for i in range(c.blocks):
                x = Block(c.groups, name=f"block_{level}_{i}")(x)
        x = nn.silu(nn.GroupNorm(c.groups, epsilon=1e-6, name="norm")(x))
        return nn.Conv(3, (3, 3), name=PICTURE_LAYER)(x) if picture else None, x


class Autoencoder(nn.Module):
    """Both halves; ``apply`` gives (pictures, features) of pictures [B, H, W, 3] in [-1, 1] whose
    sides are multiples of ``config.stride``."""

    config: Config

    def setup(self):
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def encode(self, x: jax.Array) -> jax.Array:
        """Latents [B, H / stride, W / stride, latent].

        Raises:
            ValueError: sides that are no multiples of the stride.
        """
        stride = self.config.stride
        if x.shape[1] % stride or x.shape[2] % stride:
            raise ValueError(
                f"pictures: sides must be multiples of {stride}, found {list(x.shape[1:3])}; pad them"
            )
        return self.encoder(x)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.decoder(self.encode(x))

    def features(self, x: jax.Array) -> jax.Array:
        """The features alone; without parameters of ``PICTURE_LAYER``."""
        return self.decoder(self.encode(x), picture=False)[1]


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Path -> shape of everything that the network stores."""
    x = jax.ShapeDtypeStruct((1, config.stride, config.stride, 3), jnp.float32)
    found = jax.eval_shape(Autoencoder(config).init, jax.random.key(0), x)
    return name_tables.flat_shapes(found["params"])


def save(path, config: Config, params: Mapping, notes: Mapping | None = None) -> str:
    """Writes weights (float16, see ``towers.save``); returns their digest."""
    return towers.save(path, KIND, dataclasses.asdict(config), params, notes)


def read(path) -> tuple[Config, dict, dict]:
    """(config, float32 parameters, what else the file says: digest, notes).

    Raises:
        ValueError: no such file, a damaged one, of another kind, or not of its own architecture.
    """
    meta, params = towers.read(path)
    if meta["kind"] != KIND:
        raise ValueError(f"{path} holds weights of kind {meta['kind']!r}, not {KIND!r}")
    config = Config(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in meta["config"].items()}
    )
    wanted, found = param_shapes(config), name_tables.flat_shapes(params)
    wrong = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
    if wrong:
        lines = [f"{k}: expected {wanted.get(k)}, found {found.get(k)}" for k in wrong]
        raise ValueError(f"{path} does not fit its architecture:\n" + "\n".join(lines))
    return config, params, meta
