"""VGGT (arXiv 2503.11651): pictures of a scene to a point for every pixel, all in the first view's frame.

The aggregator (DINOv2 tokens, then blocks that attend within each view and over all views in turn) and the
point head; no cameras, depths or tracks. It is a frozen teacher: scale is arbitrary and the cameras are
not given to it. Names of published weights: ``vggt_tables``. Written from the paper and the layout of the
published arrays; those weights have a licence of their own.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import resize
from gsjax.models import dinov2, dpt, vit_blocks


@dataclasses.dataclass(frozen=True)
class VggtConfig:
    """Sizes; plain values.

    Attributes:
        vit: the backbone of the patches, whose last layer alone is used.
        point: the head.
        depth: pairs of blocks, one within views and one over all views.
        heads: attention heads of these blocks.
        layers: pairs whose outputs the head reads, four from 0.
        registers: tokens beside the camera token of each view.
        hidden: width inside the MLPs; 0 = four times the width.
        base: of the rotary positions.
        scale: initial value of LayerScale.
        query_block: queries attended at a time over all views, see ``vit_blocks.BlockConfig``.
    """

    vit: dinov2.DinoConfig
    point: dpt.DptConfig
    depth: int = 24
    heads: int = 16
    layers: tuple[int, ...] = (4, 11, 17, 23)
    registers: int = 4
    hidden: int = 0
    base: float = 100.0
    scale: float = 0.01
    query_block: int = 0

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))
        dinov2.check_layers(self.layers, self.depth)
        if len(self.layers) != dpt.LEVELS or self.point.head != "dense" or self.point.outputs != 4:
            raise ValueError(
                f"VggtConfig: expected {dpt.LEVELS} layers and a dense head of 4 outputs, found layers "
                f"{self.layers}, head {self.point.head!r} of {self.point.outputs}"
            )
        if self.vit.width % (4 * self.heads):
            raise ValueError(
                f"VggtConfig.heads: {self.heads} heads of width {self.vit.width}; rotary positions "
                "need a multiple of 4 channels a head"
            )

    @property
    def block(self) -> vit_blocks.BlockConfig:
        return vit_blocks.BlockConfig(
            self.vit.width,
            self.heads,
            self.hidden or 4 * self.vit.width,
            eps=1e-5,
            qk_norm=True,
            scale=self.scale,
        )


PRESETS = {
    "vggt": VggtConfig(
        dataclasses.replace(dinov2.PRESETS["vitl14_reg"], layers=(23,)), dpt.PRESETS["vggt"]
    ),
    "tiny": VggtConfig(
        dataclasses.replace(dinov2.PRESETS["tiny_reg"], depth=1, layers=(0,), registers=2),
        dpt.DptConfig(
            8, (4, 4, 8, 8), "dense", 4, 4, norm=True, positions=0.1, rectified_skip=True
        ),
        depth=4,
        heads=2,
        layers=(0, 1, 2, 3),
        registers=2,
    ),
}


def preset(name: str) -> VggtConfig:
    """The config of a name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"vggt: unknown {name!r}; known: {sorted(PRESETS)}")
    return PRESETS[name]


def token_places(size: tuple[int, int], special: int) -> np.ndarray:
    """Rows and columns of one view's tokens: patches from 1, the ``special`` ones before them at 0.

    Returns:
        int [special + h w, 2].
    """
    rows, columns = np.meshgrid(np.arange(size[0]) + 1, np.arange(size[1]) + 1, indexing="ij")
    patches = np.stack([rows.ravel(), columns.ravel()], 1)
    return np.concatenate([np.zeros((special, 2), patches.dtype), patches])


class Aggregator(nn.Module):
    """Pictures to tokens that know of all views. Parts: ``vit``, ``frame_0`` ..., ``global_0`` ..."""

    config: VggtConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """Images [B, V, H, W, 3] in [0, 1] -> for each layer of the config [B, V, h, w, 2 C].

        The first C channels are after the block within views, the others after that over all views;
        camera and register tokens are left out.
        """
        c = self.config
        batch, views = images.shape[:2]
        flat = dinov2.normalise(images).reshape(-1, *images.shape[2:])
        vit = dinov2.DinoV2(c.vit, self.dtype, name="vit")
        patches = vit(flat, (c.vit.depth - 1,))[0].astype(
            jnp.promote_types(flat.dtype, jnp.float32)
        )
        size, width = patches.shape[1:3], c.vit.width
        special = 1 + c.registers
        x = jnp.concatenate(
            [self._special(batch, views, patches.dtype), patches.reshape(batch, views, -1, width)],
            2,
        )
        tokens = x.shape[2]
        sine, cosine = vit_blocks.rotary_tables(
            token_places(size, special), width // c.heads, c.base
        )
        over_all = tuple(np.tile(table, (views, 1)) for table in (sine, cosine))
        wide = dataclasses.replace(c.block, query_block=c.query_block)
        kept = []
        for i in range(c.depth):
            frame = vit_blocks.Block(c.block, self.dtype, name=f"frame_{i}")
            within = frame(x.reshape(-1, tokens, width), (sine, cosine))
            whole = vit_blocks.Block(wide, self.dtype, name=f"global_{i}")
            x = whole(within.reshape(batch, views * tokens, width), over_all)
            x = x.reshape(batch, views, tokens, width)
            if i in c.layers:
                both = jnp.concatenate([within.reshape(x.shape), x], -1)[:, :, special:]
                kept.append(both.reshape(batch, views, *size, 2 * width))
        return kept

    def _special(self, batch: int, views: int, dtype) -> jax.Array:
        """Camera and register tokens [B, V, 1 + R, C]: one set for the first view, one for all others."""
        c = self.config
        small = nn.initializers.normal(1e-6)
        camera = self.param("camera_token", small, (1, 2, 1, c.vit.width))
        registers = self.param("register_token", small, (1, 2, c.registers, c.vit.width))
        both = jnp.concatenate([camera, registers], 2)[0]  # [2, 1 + R, C]
        chosen = both[np.minimum(np.arange(views), 1)].astype(dtype)
        return jnp.broadcast_to(chosen, (batch, *chosen.shape))


class Vggt(nn.Module):
    """Pictures to points and confidences. Parts: ``aggregator``, ``point_head``.

    Attributes:
        config: sizes.
        dtype: of the aggregator's branches, bfloat16 as a rule; the head computes in float32.
    """

    config: VggtConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Points of every pixel.

        Args:
            images: [B, V, H, W, 3] in [0, 1], sides multiples of the patch; the first view's camera is
                the frame of the result.

        Returns:
            Points [B, V, H, W, 3], scale arbitrary (training had a mean distance of 1), and
            confidences [B, V, H, W] above 1.

        Raises:
            ValueError: another shape, or sides that the patch does not divide.
        """
        if images.ndim != 5 or images.shape[-1] != 3 or images.shape[1] < 1:
            raise ValueError(f"images: expected [B, V, H, W, 3], found {list(images.shape)}")
        maps = Aggregator(self.config, self.dtype, name="aggregator")(images)
        head_dtype = jnp.promote_types(self.dtype, jnp.float32)
        maps = [x.reshape(-1, *x.shape[2:]).astype(head_dtype) for x in maps]
        head = dpt.DPT(self.config.point, head_dtype, name="point_head")
        raw = head(maps, size=images.shape[2:4]).reshape(*images.shape[:4], 4)
        return activate(raw)


def activate(raw: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the head's four channels mean: [..., 4] -> points [..., 3], confidences [...] above 1."""
    xyz = raw[..., :3]
    return jnp.sign(xyz) * jnp.expm1(jnp.abs(xyz)), 1.0 + jnp.exp(raw[..., 3])


def abstract_variables(config: VggtConfig) -> dict:
    """Shapes of all parameters, without making any."""
    side = config.vit.patch
    images = jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.float32)
    return jax.eval_shape(Vggt(config).init, jax.random.key(0), images)["params"]


def pointmaps(
    config: VggtConfig, params: dict, images: jax.Array, dtype=jnp.bfloat16
) -> tuple[jax.Array, jax.Array]:
    """Points for pictures of any size, as PM-Loss has them from its teacher (arXiv 2506.05327, code).

    Pictures are shrunk to multiples of the patch by bilinear interpolation at half-pixel centres without
    smoothing; points and confidences of the pictures' size are copied from row floor(i H' / H), and no
    gradient passes.

    Args:
        config: sizes.
        params: of :class:`Vggt`.
        images: [B, V, H, W, 3] in [0, 1], sides at least a patch.
        dtype: of the aggregator's branches.

    Returns:
        Points [B, V, H, W, 3] in the frame of the first view, scale arbitrary; confidences
        [B, V, H, W].

    Raises:
        ValueError: another shape, or sides under a patch.
    """
    patch = config.vit.patch
    if images.ndim != 5 or min(images.shape[2:4]) < patch:
        raise ValueError(
            f"images: expected [B, V, H, W, 3] with sides of at least {patch}, found "
            f"{list(images.shape)}"
        )
    return _pointmaps(config, jnp.dtype(dtype), params, images)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pointmaps(config, dtype, params, images):
    size, patch = images.shape[2:4], config.vit.patch
    small = resize.resize(images, tuple(n // patch * patch for n in size), "bilinear")
    points, confidences = Vggt(config, dtype).apply({"params": params}, small)
    points = resize.resize(points, size, "nearest")
    confidences = resize.resize(confidences[..., None], size, "nearest")[..., 0]
    return jax.lax.stop_gradient((points, confidences))
