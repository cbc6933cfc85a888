"""MVSplat (arXiv 2403.14627): Gaussians from two or more posed pictures, in one pass.

CNN and multi-view transformer at 1/4 of the sides, one plane sweep, a U-Net with attention across views,
coarse depths, a second U-Net at full resolution that corrects them, and a head for what else a Gaussian
has. Released weights were trained with two views; more make them worse.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import rays, resize
from gsjax.models import dinov2
from gsjax.models.feedforward import (
    backbone,
    gaussian_adapter,
    plane_sweep,
    regression,
    unet,
    views,
)

# Pixels a cell of the matched features.
FACTOR = 4
# Of the CNN's third stage; its second halves the sides, other than DepthSplat's.
LAST_STRIDE = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices; defaults are those of the released models.

    Attributes:
        channels: of features.
        cnn_widths: of the CNN's stages.
        blocks: of the transformer.
        splits: its windows along a side.
        candidates: D, planes of the sweep.
        cost_unet: U-Net over the cost volume.
        refine_unet: U-Net at full resolution.
        refine_groups: of the norm in front of it.
        adapter: how Gaussians are read.
        opacity_exponent: of ``gaussian_adapter.map_density``.
        neighbours: views that each is matched with, the nearest; None for all others.
        warp_intrinsics: 'both' or 'reference', see ``plane_sweep.sweep_lines``.
        chunk: candidates of the sweep at a time.
        remat: whether activations are computed again on the way back, block by block.
        dtype: of networks; geometry, softmax and Gaussians are float32.
    """

    channels: int = 128
    cnn_widths: tuple[int, int, int] = (64, 96, 128)
    blocks: int = 6
    splits: int = 2
    candidates: int = 128
    cost_unet: unet.Config = unet.Config(128, (1, 1, 1), (4,), post_norm=True)
    refine_unet: unet.Config = unet.Config(32, (1, 1, 1, 1, 1), (16,), post_norm=True)
    refine_groups: int = 4
    adapter: gaussian_adapter.Config = gaussian_adapter.PRESETS["mvsplat"]
    opacity_exponent: float = 0.0
    neighbours: int | None = None
    warp_intrinsics: str = "both"
    chunk: int = 8
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @property
    def stride(self) -> int:
        """What both sides of pictures must be multiples of."""
        cells = math.lcm(self.splits, self.cost_unet.stride)
        return math.lcm(FACTOR * cells, self.refine_unet.stride)


PRESETS = {
    "mvsplat": Config(),
    # The same network at a size that trains on a CPU.
    "tiny": Config(
        channels=16,
        cnn_widths=(8, 12, 16),
        blocks=2,
        candidates=16,
        cost_unet=unet.Config(16, (1, 1, 1), (4,), head=8, post_norm=True),
        refine_unet=unet.Config(16, (1, 1, 1), (4,), head=8, post_norm=True),
        adapter=dataclasses.replace(gaussian_adapter.PRESETS["mvsplat"], sh_degree=1),
    ),
}


class _Refinement(nn.Module):
    """What is done at full resolution: features, correction of depths, raw Gaussians."""

    config: Config

    @nn.compact
    def __call__(self, images, matched, cnn_map, inverse, probability):
        """Maps of the pictures' size.

        Args:
            images: [N, H, W, 3] in [0, 1].
            matched: [N, h, w, C] of the transformer.
            cnn_map: [N, h, w, C].
            inverse: [N, H, W, 1] coarse inverse depths, upsampled.
            probability: [N, H, W, 1].

        Returns:
            (corrections [N, H, W], densities' logits [N, H, W], raw channels [N, H, W, adapter.channels]).
        """
        c, views = self.config, images.shape[1]
        # As [B V, ...]: views of an example lie together.
        flat = [x.reshape(-1, *x.shape[2:]).astype(c.dtype) for x in
                (images, matched, cnn_map, inverse, probability)]  # fmt: skip
        images, matched, cnn_map, inverse, probability = flat
        size = images.shape[1:3]
        low = jnp.concatenate((matched, cnn_map), -1)
        full = unet.conv(c.channels, 3, c.dtype, "upsample_conv")(low)
        full = nn.gelu(resize.resize(full, size, "corners"), approximate=False)
        width = c.refine_unet.width
        x = unet.conv(width, 3, c.dtype, "project")(full)
        x = jnp.concatenate((images, x, inverse, probability), -1)
        x = unet.conv(width, 3, c.dtype, "conv_in")(x)
        x = nn.GroupNorm(c.refine_groups, epsilon=unet.EPS, dtype=c.dtype, name="norm_in")(x)
        x = unet.UNet(c.refine_unet, c.dtype, name="unet")(nn.gelu(x, approximate=False), views)
        raw = jnp.concatenate((x, images, full), -1)
        raw = unet.conv(2 * c.adapter.channels, 3, c.dtype, "gaussians_0")(raw)
        raw = nn.gelu(raw, approximate=False)
        raw = unet.conv(c.adapter.channels, 3, c.dtype, "gaussians_1")(raw)
        y = nn.gelu(unet.conv(2 * width, 3, c.dtype, "disparity_0")(x), approximate=False)
        y = unet.conv(2, 3, c.dtype, "disparity_1")(y)
        return y[..., 0], y[..., 1], raw


class MVSplat(nn.Module):
    """Posed pictures to Gaussians.

    Attributes:
        config: sizes and choices.
    """

    config: Config = Config()

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        Ks: jax.Array,
        c2ws: jax.Array,
        near: jax.Array,
        far: jax.Array,
    ) -> dict:
        """Gaussians of a batch of sets of pictures.

        Args:
            images: [B, V, H, W, 3] in [0, 1]; sides are multiples of ``config.stride``; V >= 2, any.
            Ks: [B, V, 3, 3] normalised.
            c2ws: [B, V, 4, 4] rigid.
            near: [B] or [B, V], world units.
            far: [B] or [B, V].

        Returns:
            'gaussians': ``core.gaussians.Gaussians``, [B, V H W, ...].
            'depths': list of [B, V, H, W], from coarse (upsampled) to final.
            'inverse_depths': the same, inverse.
            'match_probability': [B, V, H, W], of the cell a pixel lies in.
            'raw': [B, V, H, W, C], what the adapter reads.

        Raises:
            ValueError: shapes that do not fit, or fewer than two views.
        """
        c = self.config
        shape = backbone.check_views(images, Ks, c2ws, near, far, c.stride)
        size = shape[2:]
        index = views.neighbours(c2ws, c.neighbours)
        features = backbone.Backbone(
            FACTOR, c.cnn_widths, c.channels, c.blocks, c.splits, c.remat, c.dtype, last_stride=LAST_STRIDE,
            name="backbone",
        )  # fmt: skip
        maps, matched = features(dinov2.normalise(images), index)
        inverse = plane_sweep.candidates(near, far, c.candidates, shape[1])
        cells = rays.pixel_intrinsics(Ks, *matched.shape[2:4])
        volume = plane_sweep.cost_volume(
            matched, inverse, cells, c2ws, index, chunk=c.chunk, warp_intrinsics=c.warp_intrinsics
        )
        head = nn.remat(regression.CandidateLogits) if c.remat else regression.CandidateLogits
        logits = head(
            c.candidates, c.cost_unet, c.candidates, False, 2 * c.candidates, dtype=c.dtype,
            name="cost",
        )(jnp.concatenate((volume.astype(c.dtype), matched), -1))  # fmt: skip
        coarse, probability = regression.expectation(logits, inverse)
        coarse = regression.upsample(coarse, size)
        probability = resize.resize(probability[..., None], size, "nearest")
        refinement = nn.remat(_Refinement) if c.remat else _Refinement
        delta, density, raw = refinement(c, name="refine")(
            images, matched, maps[-1], coarse[..., None], probability
        )
        delta, density = (x.astype(coarse.dtype).reshape(shape) for x in (delta, density))
        fine = regression.clamp(coarse + delta, near, far)
        raw = raw.reshape(*shape, -1)
        opacities = gaussian_adapter.map_density(nn.sigmoid(density), c.opacity_exponent)
        return {
            "gaussians": gaussian_adapter.adapt(
                c.adapter, raw, 1 / fine, opacities, images, Ks, c2ws
            ),
            "depths": [1 / coarse, 1 / fine],
            "inverse_depths": [coarse, fine],
            "match_probability": probability[..., 0],
            "raw": raw,
        }
