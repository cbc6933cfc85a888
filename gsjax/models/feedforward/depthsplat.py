"""DepthSplat (arXiv 2410.13862): Gaussians from posed pictures, by multi-view matching and a monocular
transformer's features together.

One or two plane sweeps, coarse to fine; a DPT decoder that corrects inverse depths at full resolution; a
head for Gaussians. The public network of March 2025, and that of October 2024 on which PM-Loss (arXiv
2506.05327) builds: the same depths, another head (``gaussian_head``). Their weights do not fit each other.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import rays, resize
from gsjax.models import dinov2, dpt
from gsjax.models.feedforward import (
    backbone,
    gaussian_adapter,
    gaussian_head,
    plane_sweep,
    regression,
    unet,
    views,
)

# The monocular maps' cells, pixels a side.
MONO = 8


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices.

    Attributes:
        vit: of the monocular backbone.
        depth_head: of the decoder that corrects depths.
        feature_head: of the decoder of the Gaussians' features (March 2025); None for the upsampling of
            October 2024.
        scales: plane sweeps, 1 or 2.
        factor: pixels a cell of the last one; the first has ``factor * 2^(scales - 1)``, 4 or 8.
        channels: of the matched features.
        cnn_widths: of the CNN's stages.
        blocks: of the multi-view transformer.
        splits: its windows along a side.
        candidates: D of the first sweep; the second has a quarter.
        unet_width: of the first cost volume's U-Net; the second has half.
        head: channels of a head of the U-Nets' attention.
        feature_channels: of the features of October 2024.
        regressor_width: channels of the regressor.
        regressor_unet: of October 2024's regressor; None for March 2025's.
        wide_head: whether the last layers are twice as wide, as October 2024's with 128 features.
        start_offset: see ``gaussian_head.RawGaussians``.
        all_depths: whether every sweep's depth is among the intermediate ones (October 2024), or only
            those of the sweeps before the last (March 2025).
        adapter: how Gaussians are read.
        neighbours: views that each is matched with, the nearest; with up to one more all others are.
        warp_intrinsics: 'both' or 'reference', see ``plane_sweep.sweep_lines``.
        chunk: candidates of a sweep at a time.
        remat: whether activations are computed again on the way back, block by block; the backbone's
            own is ``vit.remat``.
        dtype: of networks; geometry, softmax and Gaussians are float32.
    """

    vit: dinov2.DinoConfig
    depth_head: dpt.DptConfig
    feature_head: dpt.DptConfig | None
    scales: int = 2
    factor: int = 4
    channels: int = 128
    cnn_widths: tuple[int, int, int] = (64, 96, 128)
    blocks: int = 6
    splits: int = 2
    candidates: int = 128
    unet_width: int = 128
    head: int = 32
    feature_channels: int = 128
    regressor_width: int = 64
    regressor_unet: unet.Config | None = None
    wide_head: bool = False
    start_offset: float = 0.0
    all_depths: bool = False
    adapter: gaussian_adapter.Config = gaussian_adapter.PRESETS["depthsplat"]
    neighbours: int | None = 2
    warp_intrinsics: str = "both"
    chunk: int = 8
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        if (self.scales, self.factor) not in ((1, 4), (1, 8), (2, 2), (2, 4)):
            raise ValueError(
                "scales, factor: expected one of (1, 4), (1, 8), (2, 2), (2, 4), found "
                f"{(self.scales, self.factor)}"
            )
        if self.candidates % (2 * 4 ** (self.scales - 1)):
            raise ValueError(
                f"candidates: {self.candidates} must be a multiple of {2 * 4 ** (self.scales - 1)} for "
                f"{self.scales} scales"
            )

    @property
    def lowest(self) -> int:
        """Pixels a cell of the first sweep."""
        return self.factor * 2 ** (self.scales - 1)

    @property
    def stride(self) -> int:
        """What both sides of pictures must be multiples of."""
        # Each further scale has twice the sides and a U-Net of one more level.
        stride = math.lcm(self.lowest * math.lcm(self.splits, self.unet(0).stride), MONO)
        return math.lcm(stride, self.regressor_unet.stride if self.regressor_unet else 1)

    def unet(self, scale: int) -> unet.Config:
        """Of the cost volume of a scale."""
        levels = 3 + scale
        return unet.Config(self.unet_width >> scale, (1,) * levels, (2 ** (levels - 1),), self.head)


def _published(size: str, scales: int, factor: int) -> Config:
    return Config(
        dinov2.PRESETS[f"vit{size}14"],
        dpt.PRESETS[f"depthsplat_depth_vit{size}14"],
        dpt.PRESETS[f"depthsplat_features_vit{size}14"],
        scales,
        factor,
    )


def october(
    config: Config, regressor: int, features: int, adapter: str = "depthsplat_oct2024"
) -> Config:
    """The same depths with the head of October 2024.

    Args:
        config: of March 2025.
        regressor: width of the regressor's U-Net: 16, 32, 64 for small, base, large.
        features: channels of the upsampled features: 64, and 128 for DL3DV.
        adapter: preset of ``gaussian_adapter``.
    """
    return dataclasses.replace(
        config,
        feature_head=None,
        feature_channels=features,
        regressor_width=regressor,
        regressor_unet=unet.Config(regressor, (1, 2, 4, 4, 4), (16,), min(regressor, 32)),
        wide_head=features == 128,
        start_offset=0.5,
        all_depths=True,
        adapter=gaussian_adapter.PRESETS[adapter],
    )


PRESETS = {
    "small": _published("s", 1, 4),
    "base": _published("b", 2, 2),
    # For 256 x 448 and more: both sweeps at half the resolution.
    "base_448": _published("b", 2, 4),
    "large": _published("l", 2, 2),
    # For 448 x 768 and four views or more.
    "small_448": _published("s", 1, 8),
    # The same network at a size that trains on a CPU.
    "tiny": Config(
        dinov2.PRESETS["tiny"],
        dpt.DptConfig(8, (8, 8, 8, 8), "delta", hidden=4, zero_last=True),
        dpt.DptConfig(8, (8, 8, 8, 8)),
        scales=1,
        channels=16,
        cnn_widths=(8, 12, 16),
        blocks=2,
        candidates=16,
        unet_width=16,
        head=8,
        regressor_width=16,
    ),
}
for _size, _width in (("small", 16), ("base", 32), ("large", 64)):
    PRESETS[f"{_size}_oct2024"] = october(PRESETS[_size], _width, 64)
PRESETS["base_448_oct2024"] = october(PRESETS["base_448"], 32, 128)
PRESETS["pm_loss"] = october(PRESETS["base_448"], 32, 128, "pm_loss")


class Pyramid(nn.Module):
    """A map, and one of twice its sides and half its channels for each further scale.

    Attributes:
        scales: 1 or 2.
        dtype: of computation.
    """

    scales: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """[N, h, w, C] to [[N, h, w, C], [N, 2 h, 2 w, C / 2]], coarse to fine."""
        x = x.astype(self.dtype)
        if self.scales == 1:
            return [x]
        half = x.shape[-1] // 2
        fine = nn.gelu(dpt.Upconv(half, 2, self.dtype, name="up")(x), approximate=False)
        return [x, unet.conv(half, 3, self.dtype, "conv")(fine)]


class DepthSplat(nn.Module):
    """Posed pictures to Gaussians.

    Parameters of the monocular backbone lie under ``vit``; published training gives them a hundredth of
    the learning rate.

    Attributes:
        config: sizes and choices.
    """

    config: Config

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
            'depths': list of [B, V, H, W], intermediate ones (upsampled) first, the final one last.
            'inverse_depths': the same, inverse.
            'match_probability': [B, V, H, W], of the cell a pixel lies in.
            'raw': [B, V, H, W, C], what ``gaussian_adapter.adapt`` reads: with another depth,
                ``gaussian_adapter.means`` gives the positions that go with an intermediate one.

        Raises:
            ValueError: shapes that do not fit, or fewer than two views.
        """
        c = self.config
        shape = backbone.check_views(images, Ks, c2ws, near, far, c.stride)
        flat = images.reshape(-1, *images.shape[2:])
        index = views.neighbours(c2ws, c.neighbours)
        features = backbone.Backbone(
            c.lowest, c.cnn_widths, c.channels, c.blocks, c.splits, c.remat, c.dtype,
            name="backbone",
        )  # fmt: skip
        cnn_maps, matched = features(dinov2.normalise(images), index)
        cnn_maps = [x.reshape(-1, *x.shape[2:]) for x in cnn_maps]
        matched = Pyramid(c.scales, c.dtype, name="mv_pyramid")(matched.reshape(cnn_maps[-1].shape))
        vit = dinov2.DinoV2(c.vit, c.dtype, name="vit")
        mono_maps = [x.astype(c.dtype) for x in dinov2.picture_maps(vit, flat, MONO)]
        low = mono_maps[-1]
        if c.lowest != MONO:
            low = resize.resize(low, matched[0].shape[1:3], "corners")
        mono = Pyramid(c.scales, c.dtype, name="mono_pyramid")(low)
        # Coarse to fine, as the pyramids.
        scales = [list(x) for x in zip(cnn_maps[::-1], matched, mono)]
        inverse, probability, coarse = self._sweeps(scales, shape, (Ks, c2ws, near, far), index)
        decoder = nn.remat(dpt.DPT) if c.remat else dpt.DPT
        depth = inverse.reshape(-1, *inverse.shape[2:], 1)
        extras = dpt.depthsplat_extras(cnn_maps, matched[::-1], depth, c.factor)
        delta = decoder(c.depth_head, c.dtype, name="depth_head")(mono_maps, extras)
        fine = regression.refine(inverse, delta.reshape(shape), near, far)[0]
        probability = resize.resize(probability[..., None], shape[2:], "nearest")[..., 0]
        if c.feature_head is None:
            joined = [jnp.concatenate(x, -1) for x in scales]
            full = gaussian_head.ResizeConv(c.feature_channels, c.dtype, name="feature_upsampler")(
                joined, shape[2]
            )
        else:
            extras = dpt.depthsplat_extras(cnn_maps, matched[::-1], None, c.factor)
            full = decoder(c.feature_head, c.dtype, name="feature_head")(mono_maps, extras)
        raw = self._raw(flat, 1 / fine, probability, full).reshape(*shape, -1)
        opacities = nn.sigmoid(raw[..., 0].astype(fine.dtype))
        inverses = [regression.upsample(x, shape[2:]) for x in coarse] + [fine]
        return {
            "gaussians": gaussian_adapter.adapt(
                c.adapter, raw[..., 1:], 1 / fine, opacities, images, Ks, c2ws
            ),
            "depths": [1 / x for x in inverses],
            "inverse_depths": inverses,
            "match_probability": probability,
            "raw": raw[..., 1:],
        }

    def _sweeps(self, scales, shape, cameras, index):
        """Inverse depths and match probabilities [B, V, h, w] of the last sweep, and the list of those
        inverse depths that count as intermediate."""
        c, (Ks, c2ws, near, far) = self.config, cameras
        inverse, kept = None, []
        for i, maps in enumerate(scales):
            size = maps[1].shape[1:3]
            if i == 0:
                planes = plane_sweep.candidates(near, far, c.candidates, shape[1])
            else:
                # Half the spacing of the scale before, around what it found.
                planes = plane_sweep.local_candidates(
                    regression.upsample(inverse, size), near, far,
                    count=c.candidates // 4**i, step=1 / (c.candidates - 1) / 2**i,
                )  # fmt: skip
            volume = plane_sweep.cost_volume(
                maps[1].reshape(*shape[:2], *maps[1].shape[1:]), planes,
                rays.pixel_intrinsics(Ks, *size), c2ws, index,
                chunk=c.chunk, warp_intrinsics=c.warp_intrinsics,
            )  # fmt: skip
            rest = [x.reshape(*shape[:2], *x.shape[1:]) for x in maps]
            x = jnp.concatenate([volume.astype(c.dtype), *rest], -1)
            head = nn.remat(regression.CandidateLogits) if c.remat else regression.CandidateLogits
            config = c.unet(i)
            logits = head(
                planes.shape[2], config, config.width, True, 2 * config.width, dtype=c.dtype,
                name=f"cost_{i}",
            )(x)  # fmt: skip
            inverse, probability = regression.expectation(logits, planes)
            if c.all_depths or i < c.scales - 1:
                kept.append(inverse)
        return inverse, probability, kept

    def _raw(self, images, depths, probability, features):
        """Raw channels [B V, H, W, 1 + adapter.channels] with the opacity's logit first."""
        c, num_views = self.config, depths.shape[1]
        size = images.shape[:3]
        images = images.astype(c.dtype)
        depths, probability = (x.reshape(*size, 1).astype(c.dtype) for x in (depths, probability))
        regressor = nn.remat(gaussian_head.Regressor, static_argnums=(2,)) if c.remat else (
            gaussian_head.Regressor
        )  # fmt: skip
        x = regressor(c.regressor_width, c.regressor_unet, c.dtype, name="regressor")(
            jnp.concatenate((images, depths, probability, features), -1), num_views
        )
        channels = 1 + c.adapter.channels
        hidden = 2 * channels if c.wide_head else channels
        head = nn.remat(gaussian_head.RawGaussians) if c.remat else gaussian_head.RawGaussians
        return head(channels, hidden, c.start_offset, c.dtype, name="gaussian_head")(
            jnp.concatenate((x, images, features, probability), -1)
        )
