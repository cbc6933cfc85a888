"""The image towers of EVA-CLIP (arXiv 2303.15389): EVA-02 with rotary positions, EVA, and EVA02-E.

Three shapes of one family, by switches of ``EvaConfig``: EVA02-B and -L turn queries and keys by the
patch's row and column and norm the heads' output; EVA01-g is a plain pre-norm transformer; EVA02-E
norms at the end of each branch. All read the class token. Names and layouts of published weights are
in ``eva_tables``, sizes in ``eva_presets``. Features are not normalised here.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import linear, transformer


@dataclasses.dataclass(frozen=True)
class EvaConfig:
    """Sizes of an image tower; plain values.

    Attributes:
        dim: D, width of the embedding.
        image_size: S, side of the pictures; a multiple of ``patch``.
        patch: side of a patch.
        width, depth, heads, hidden, mlp: as in ``transformer.TransformerConfig``.
        rotary: turn queries and keys of the patches by their places.
        inner_norm: LayerNorm on the heads' joined output.
        post_norm: norms at the end of each branch.
        reference_grid: patches a side that rotary angles were made for; other grids are stretched.
    """

    dim: int
    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    mlp: str = "swiglu_norm"
    rotary: bool = True
    inner_norm: bool = True
    post_norm: bool = False
    reference_grid: int = 16

    def __post_init__(self):
        if self.image_size % self.patch:
            raise ValueError(
                f"EvaConfig.image_size: {self.image_size} is no multiple of patch {self.patch}"
            )
        if self.rotary and (self.width // self.heads) % 4:
            raise ValueError(
                f"EvaConfig.heads: {self.heads} heads of {self.width // self.heads} channels; rotary "
                "positions need a multiple of 4"
            )
        _ = self.blocks  # checks the rest

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch

    @property
    def blocks(self) -> transformer.TransformerConfig:
        return transformer.TransformerConfig(
            self.width,
            self.depth,
            self.heads,
            self.hidden,
            self.mlp,
            post_norm=self.post_norm,
            inner_norm=self.inner_norm,
        )


def rotary_tables(
    grid: int, channels: int, reference: int, temperature: float = 10_000.0
) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine for ``transformer.rotate``: class token first (not turned), then the patches.

    The first half of a head's channels turns with the row, the second with the column, in pairs of
    ``temperature ** -(4 i / channels)`` radians a reference patch (EVA-02, arXiv 2303.11331).

    Args:
        grid: patches a side.
        channels: C of a head, a multiple of 4.
        reference: patches a side that the angles are meant for.

    Returns:
        Two float32 [1 + grid^2, C].
    """
    bands = temperature ** -(np.arange(channels // 4) / (channels // 4))
    angles = np.arange(grid)[:, None] / grid * reference * bands  # [grid, C / 4]
    both = np.stack(
        [
            np.broadcast_to(angles[:, None], (grid, grid, channels // 4)),
            np.broadcast_to(angles[None, :], (grid, grid, channels // 4)),
        ],
        2,
    )
    both = np.repeat(both.reshape(grid * grid, channels // 2), 2, axis=-1)
    both = np.concatenate([np.zeros((1, channels)), both])
    return np.float32(np.sin(both)), np.float32(np.cos(both))


class Stem(nn.Module):
    """Pictures to tokens: patches, class token, learned positions."""

    config: EvaConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Normalised pixels [B, S, S, 3] -> [B, 1 + T, W]."""
        c = self.config
        if pixels.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(
                f"pixels: expected [B, {c.image_size}, {c.image_size}, 3], found {pixels.shape}"
            )
        window = (c.patch, c.patch)
        patch = nn.Conv(c.width, window, window, "VALID", dtype=self.dtype, name="patch")
        x = patch(pixels).reshape(len(pixels), -1, c.width)
        small = nn.initializers.normal(0.02)
        first = self.param("cls_token", small, (1, 1, c.width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, c.width)), x], 1)
        return x + self.param("positions", small, (1, 1 + c.grid**2, c.width)).astype(x.dtype)


class Readout(nn.Module):
    """The class token through a norm and a projection with bias."""

    config: EvaConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, 1 + T, W] -> float32 [B, D]."""
        x = transformer.layer_norm("norm", self.dtype)(x[:, 0])
        return linear.Dense(self.config.dim, dtype=self.dtype, name="head")(x).astype(jnp.float32)


class EvaTower(nn.Module):
    """Pictures to features, not of unit length. Layers: ``stem``, ``blocks_0`` ..., ``readout``."""

    config: EvaConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Normalised pixels [B, S, S, 3] -> float32 [B, D]."""
        c = self.config
        x = Stem(c, self.dtype, name="stem")(pixels)
        rotary = _rotary(c)
        for i in range(c.depth):
            x = transformer.Block(c.blocks, 0.0, self.dtype, name=f"blocks_{i}")(x, None, rotary)
        return Readout(c, self.dtype, name="readout")(x)


def _rotary(config: EvaConfig):
    if not config.rotary:
        return None
    return rotary_tables(config.grid, config.width // config.heads, config.reference_grid)


def abstract_variables(config: EvaConfig) -> dict:
    """Shapes of all parameters, without making any."""
    pixels = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    return jax.eval_shape(EvaTower(config).init, jax.random.key(0), pixels)["params"]


def layer_names(config: EvaConfig) -> list[str]:
    """Layers in the order in which they are applied."""
    return ["stem", *(f"blocks_{i}" for i in range(config.depth)), "readout"]


def stream_encode(
    config: EvaConfig,
    read_layer: Callable[[str], dict],
    pixels: np.ndarray,
    *,
    dtype=jnp.bfloat16,
    chunk: int = 64,
) -> np.ndarray:
    """``EvaTower`` with one layer's weights on the device at a time, for towers larger than it.

    All pictures pass a layer before the next one is read, so the weights are read once a call; the
    tokens of all pictures stay on the device (E-14: 0.9 MB a picture in bfloat16).

    Args:
        config: sizes.
        read_layer: name of ``layer_names`` -> that layer's parameters; ``eva_tables.layer_reader``
            over a lazily read state dict.
        pixels: normalised, [B, S, S, 3].
        dtype: what layers compute in and are held in.
        chunk: pictures computed at once.

    Returns:
        float32 [B, D], not of unit length.

    Raises:
        ValueError: no pictures, or not of shape [B, S, S, 3].
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 4 or not len(pixels):
        raise ValueError(f"pixels: expected [B, S, S, 3] with B > 0, found {pixels.shape}")
    parts = [jnp.asarray(pixels[i : i + chunk]) for i in range(0, len(pixels), chunk)]
    for name in layer_names(config):
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), read_layer(name))
        kind = name.partition("_")[0]
        parts = [_apply(config, kind, jnp.dtype(dtype), params, x) for x in parts]
    return np.concatenate([np.asarray(x) for x in parts])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(config: EvaConfig, kind: str, dtype, params, x):
    """One layer; blocks share one compilation, as their shapes are equal."""
    if kind == "stem":
        return Stem(config, dtype).apply({"params": params}, x)
    if kind == "readout":
        return Readout(config, dtype).apply({"params": params}, x)
    block = transformer.Block(config.blocks, 0.0, dtype)
    return block.apply({"params": params}, x, None, _rotary(config))
