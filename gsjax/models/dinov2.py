"""DINOv2 vision transformers (arXiv 2304.07193) as feature maps, with or without registers.

The backbone of Depth Anything V2 (arXiv 2406.09414) and DepthSplat, the patch embedding of VGGT. No
classifier, no masking: maps of chosen layers through the final norm. Names of published weights are in
``dinov2_tables``; registers are those of arXiv 2309.16588.
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import resize
from gsjax.models import vit_blocks

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, in [0, 1]
STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class DinoConfig:
    """Sizes of a backbone; plain values.

    Attributes:
        width, depth, heads: of the transformer.
        layers: blocks whose outputs are wanted unless the call names others, from 0.
        patch: side of a patch.
        grid: patches a side that the learned positions were made for.
        registers: extra tokens without a place.
        offset: added to the patches a side for the factor by which positions are resampled. Published
            weights without registers are run with 0.1, those with registers with 0 (and so is VGGT).
        antialias: smooth positions when the grid is coarser than ``grid``; needs ``offset`` 0.
        hidden: width inside the MLP; 0 = four times ``width``.
        scale: initial value of LayerScale.
        remat: recompute each block in the backward pass.
    """

    width: int
    depth: int
    heads: int
    layers: tuple[int, ...] = (2, 5, 8, 11)
    patch: int = 14
    grid: int = 37
    registers: int = 0
    offset: float = 0.1
    antialias: bool = False
    hidden: int = 0
    scale: float = 1.0
    remat: bool = False

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))
        if min(self.depth, self.patch, self.grid) < 1 or self.registers < 0:
            raise ValueError(
                "DinoConfig: depth, patch and grid are at least 1 and registers at least 0, found "
                f"{self.depth}, {self.patch}, {self.grid} and {self.registers}"
            )
        if self.antialias and self.offset:
            raise ValueError(
                f"DinoConfig.offset: {self.offset} with antialias; smoothing knows sizes only, set 0"
            )
        check_layers(self.layers, self.depth)
        _ = self.block  # checks the rest

    @property
    def block(self) -> vit_blocks.BlockConfig:
        return vit_blocks.BlockConfig(
            self.width, self.heads, self.hidden or 4 * self.width, scale=self.scale
        )


def check_layers(layers: Sequence[int], depth: int):
    """Refuses layers that are not ascending numbers of blocks.

    Raises:
        ValueError: see above.
    """
    if (
        not layers
        or list(layers) != sorted(set(layers))
        or not 0 <= layers[0] <= layers[-1] < depth
    ):
        raise ValueError(
            f"layers: expected ascending numbers of blocks from 0 to {depth - 1}, found {layers}"
        )


_LARGE = (4, 11, 17, 23)  # Depth Anything V2's choice; published as idx into 24 blocks
PRESETS = {
    "vits14": DinoConfig(384, 12, 6),
    "vitb14": DinoConfig(768, 12, 12),
    "vitl14": DinoConfig(1024, 24, 16, _LARGE),
    "tiny": DinoConfig(16, 4, 2, (0, 1, 2, 3), grid=4),
}
PRESETS |= {
    f"{name}_reg": dataclasses.replace(config, registers=4, offset=0.0, antialias=True)
    for name, config in PRESETS.items()
}


def preset(name: str) -> DinoConfig:
    """The config of a name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"vit: unknown {name!r}; known: {sorted(PRESETS)}")
    return PRESETS[name]


def normalise(images: jax.Array) -> jax.Array:
    """Pictures [..., 3] in [0, 1] with ImageNet's mean and deviation taken off."""
    return (images - jnp.asarray(MEAN, images.dtype)) / jnp.asarray(STD, images.dtype)


def resample_positions(
    positions: jax.Array, size: tuple[int, int], offset: float, antialias: bool
) -> jax.Array:
    """Learned positions of a square grid for another one, bicubic.

    Args:
        positions: [G, G, C].
        size: patches (h, w).
        offset: factor of resampling (h + offset) / G; see ``DinoConfig``.
        antialias: smooth where the new grid is coarser.

    Returns:
        [h, w, C]; ``positions`` itself if h = w = G, whatever the offset.
    """
    grid = positions.shape[0]
    if tuple(size) == (grid, grid):
        return positions
    if antialias:
        return resize.resize(positions, size, "bicubic_antialias")
    return resize.resize(positions, size, "bicubic", tuple(grid / (n + offset) for n in size))


class DinoV2(nn.Module):
    """Normalised pictures to maps of chosen layers.

    Attributes:
        config: sizes.
        dtype: what branches compute in; the residual stream and the result are float32 at least.
    """

    config: DinoConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, layers: Sequence[int] | None = None) -> list[jax.Array]:
        """Maps of chosen layers.

        Args:
            images: [B, H, W, 3] after :func:`normalise`; H and W multiples of ``config.patch``.
            layers: ascending numbers of blocks; None = ``config.layers``. Blocks above the last of
                them have parameters but are not computed under jit.

        Returns:
            For each layer [B, H / patch, W / patch, C] through the final norm, without class token
            and registers.

        Raises:
            ValueError: another shape, sides that the patch does not divide, or unknown layers.
        """
        c = self.config
        layers = c.layers if layers is None else tuple(layers)
        check_layers(layers, c.depth)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: expected [B, H, W, 3], found {list(images.shape)}")
        size = images.shape[1] // c.patch, images.shape[2] // c.patch
        if (size[0] * c.patch, size[1] * c.patch) != images.shape[1:3] or 0 in size:
            raise ValueError(
                f"images: sides {images.shape[1:3]} are no multiples of patch {c.patch}; resize to "
                f"{[max(n, 1) * c.patch for n in size]}"
            )
        x = self._embed(images, size)
        block = nn.remat(vit_blocks.Block) if c.remat else vit_blocks.Block
        kept = []
        for i in range(c.depth):
            x = block(c.block, self.dtype, name=f"blocks_{i}")(x)
            if i in layers:
                kept.append(x)
        norm = nn.LayerNorm(epsilon=c.block.eps, dtype=x.dtype, name="norm")
        first = 1 + c.registers
        return [norm(y)[:, first:].reshape(len(y), *size, c.width) for y in kept]

    def _embed(self, images: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Class token, registers, patches: [B, 1 + R + h w, C]."""
        c = self.config
        small = nn.initializers.truncated_normal(0.02)
        window = (c.patch, c.patch)
        x = nn.Conv(c.width, window, window, "VALID", dtype=self.dtype, name="patch")(images)
        first = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, c.width))
        places = self.param("positions", small, (1, 1 + c.grid**2, c.width))
        x = x.astype(jnp.promote_types(images.dtype, jnp.float32))
        grid = places[0, 1:].reshape(c.grid, c.grid, c.width)
        x = x + resample_positions(grid, size, c.offset, c.antialias).astype(x.dtype)
        ahead = [first + places[:, :1]]
        if c.registers:
            shape = (1, c.registers, c.width)
            ahead.append(self.param("registers", nn.initializers.normal(1e-6), shape))
        ahead = jnp.concatenate(ahead, 1).astype(x.dtype)
        ahead = jnp.broadcast_to(ahead, (len(x), *ahead.shape[1:]))
        return jnp.concatenate([ahead, x.reshape(len(x), -1, c.width)], 1)


def picture_maps(
    vit: Callable[[jax.Array], list[jax.Array]], images: jax.Array, factor: int = 8
) -> list[jax.Array]:
    """Maps of pictures of any size at a fraction of that size, as DepthSplat takes them.

    Pictures are normalised and shrunk to multiples of 14 with corners aligned; the maps are resized
    likewise.

    Args:
        vit: a ``DinoV2`` of patch 14, bound or within its parent.
        images: [B, H, W, 3] in [0, 1].
        factor: of the picture to the maps.

    Returns:
        For each of the backbone's layers [B, H / factor, W / factor, C].

    Raises:
        ValueError: sides under 14 pixels, or that ``factor`` does not divide.
    """
    if (
        images.ndim != 4
        or min(images.shape[1:3]) < 14
        or any(n % factor for n in images.shape[1:3])
    ):
        raise ValueError(
            f"images: expected [B, H, W, 3], sides of at least 14 pixels and multiples of {factor}, "
            f"found {list(images.shape)}"
        )
    height, width = images.shape[1:3]
    x = resize.resize(normalise(images), (height // 14 * 14, width // 14 * 14), "corners")
    size = height // factor, width // factor
    return [resize.resize(y, size, "corners") for y in vit(x)]


def abstract_variables(config: DinoConfig) -> dict:
    """Shapes of all parameters, without making any."""
    images = jax.ShapeDtypeStruct((1, config.patch, config.patch, 3), jnp.float32)
    return jax.eval_shape(DinoV2(config).init, jax.random.key(0), images)["params"]
