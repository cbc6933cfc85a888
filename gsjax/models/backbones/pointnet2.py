"""PointNet++ (Qi et al., NeurIPS 2017, arXiv 1706.02413): PointNets on balls around farthest points.

Three forms: one neighbourhood a centre (SSG), several (MSG), and either with a decoder that carries
features back to every point. Without a decoder the sites are the centres of the last level.
``pooled`` is the feature of the whole cloud, which ``fuse`` does not reach: a form without decoder
that is trained through ``feat`` alone leaves its top stage as it was.

Radii are in units of the cloud; the presets' are made for clouds of radius 1.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import point_layers
from gsjax.models.backbones import base
from gsjax.models.point_layers import Scale

FUSE_AT = "last"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a PointNet++.

    Attributes:
        channels: of each point beside its position.
        centers: number of each level's.
        scales: neighbourhoods of each level.
        top: widths of the perceptron that sees all centres of the last level.
        decoder: widths of the perceptrons that carry features back, from the top to the points: one
            a level and one more; () = no decoder.
        order: 'features_first' or 'xyz_first', columns that a ball's perceptron reads; a matter of
            imported weights only.
        top_order: the same for ``top``.
        top_centered: whether ``top`` reads positions relative to their mean; else as they are.
        radius_factor: of all radii, e.g. 0.5 for clouds of diameter 1.
        random_start: whether, where keys are given, centres start at a random point, not the first.
    """

    channels: int = 0
    centers: tuple[int, ...] = (512, 128)
    scales: tuple[tuple[Scale, ...], ...] = (
        (Scale(0.2, 32, (64, 64, 128)),),
        (Scale(0.4, 64, (128, 128, 256)),),
    )
    top: tuple[int, ...] = (256, 512, 1024)
    decoder: tuple[tuple[int, ...], ...] = ()
    order: str = "xyz_first"
    top_order: str = "xyz_first"
    top_centered: bool = False
    radius_factor: float = 1.0
    random_start: bool = False

    def __post_init__(self):
        scales = tuple(tuple(_scale(scale) for scale in level) for level in self.scales)
        decoder = tuple(tuple(widths) for widths in self.decoder)
        for name, value in [
            ("centers", tuple(self.centers)),
            ("scales", scales),
            ("top", tuple(self.top)),
            ("decoder", decoder),
        ]:
            object.__setattr__(self, name, value)
        if self.channels < 0:
            raise ValueError(f"channels: expected 0 or more, found {self.channels}")
        if not self.centers or min(self.centers) < 1:
            raise ValueError(f"centers: expected positive numbers, found {self.centers}")
        if len(scales) != len(self.centers) or not all(scales):
            raise ValueError(
                f"scales: expected at least one for each of {len(self.centers)} levels, "
                f"found {[len(level) for level in scales]}"
            )
        if decoder and len(decoder) != len(self.centers) + 1:
            raise ValueError(
                f"decoder: expected {len(self.centers) + 1} perceptrons (one a level and one for "
                f"the points) or none, found {len(decoder)}"
            )
        for name, widths in [("top", self.top)] + [("decoder", w) for w in decoder]:
            if not widths or min(widths) < 1:
                raise ValueError(f"{name}: expected positive widths, found {widths}")
        for name in ("order", "top_order"):
            if getattr(self, name) not in point_layers.ORDERS:
                raise ValueError(
                    f"{name}: unknown {getattr(self, name)!r}; known: {point_layers.ORDERS}"
                )
        if not self.radius_factor > 0:
            raise ValueError(f"radius_factor: expected > 0, found {self.radius_factor}")


def _scale(scale) -> Scale:
    radius, samples, widths = scale
    if not radius > 0 or samples < 1 or not widths or min(widths) < 1:
        raise ValueError(
            "scales: expected (radius > 0, samples >= 1, positive widths), "
            f"found {(radius, samples, widths)}"
        )
    return Scale(float(radius), samples, tuple(widths))


_MSG = (
    (
        Scale(0.1, 16, (32, 32, 64)),
        Scale(0.2, 32, (64, 64, 128)),
        Scale(0.4, 128, (64, 96, 128)),
    ),
    (
        Scale(0.2, 32, (64, 64, 128)),
        Scale(0.4, 64, (128, 128, 256)),
        Scale(0.8, 128, (128, 128, 256)),
    ),
)
PRESETS = {
    # Classification networks of the original, less their classifiers.
    "ssg": Config(),
    "msg": Config(scales=_MSG, order="features_first"),
    # With the decoder of its part segmentation: for Gaussians, or labels, of every point.
    "paper": Config(decoder=((256, 256), (256, 128), (128, 128, 128))),
    # Narrowed to the width of ResNet-18.
    "cross_modal": Config(scales=_MSG, order="features_first", top=(128, 256, 512)),
    # For 512 points.
    "small": Config(
        centers=(128, 32),
        scales=((Scale(0.3, 16, (32, 32, 64)),), (Scale(0.6, 16, (64, 64, 96)),)),
        top=(96, 192),
        decoder=((96,), (96,), (96, 96)),
    ),
}


class Model(nn.Module):
    """The network; its call is that of ``base.Backbone``.

    Stages are ``stage_0`` ... (levels, then the top) and ``decoder_0`` ... (from the top to the
    points). ``feat`` has ``decoder[-1][-1]`` channels at all points, or those of the last level's
    scales together at its centres; ``pooled`` has ``top[-1]``.
    """

    config: Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        points: base.PointBatch,
        *,
        fuse: base.Fuse | None = None,
        train: bool = False,
        keys: jax.Array | None = None,
    ) -> base.PointFeatures:
        """See ``base.Backbone``; ``keys`` are read where ``random_start`` is set.

        Raises:
            ValueError: other shapes.
        """
        c = self.config
        feat = base.inputs(points, c.channels, "pointnet2").astype(self.dtype)
        xyz, _, mask = base.clean(points)
        levels = [(xyz, feat, mask)]
        for i, (num, scales) in enumerate(zip(c.centers, c.scales, strict=True)):
            scales = tuple(s._replace(radius=s.radius * c.radius_factor) for s in scales)
            stage = point_layers.SetAbstraction(num, scales, c.order, self.dtype, name=f"stage_{i}")
            start = base.uniform(keys, i) if c.random_start else None
            levels.append(stage(*levels[-1], train, start))
        top = point_layers.GroupAll(
            c.top, c.top_order, c.top_centered, self.dtype, name=f"stage_{len(c.centers)}"
        )(*levels[-1], train)
        sites = self._decode(levels, top, train) if c.decoder else base.Sites(*levels[-1])
        sites = sites if fuse is None else fuse(sites)
        dropped = jnp.zeros(xyz.shape[0], jnp.int32)
        return base.PointFeatures(sites.xyz, sites.feat, sites.mask, top[1][:, 0], dropped)

    def _decode(self, levels, coarse, train: bool) -> base.Sites:
        """Features at the points of ``levels[0]``, which see their positions too."""
        xyz, feat, mask = levels[0]
        levels = [(xyz, point_layers.join(xyz, feat, "xyz_first"), mask), *levels[1:]]
        for i, widths in enumerate(self.config.decoder):
            xyz, skip, mask = levels[-1 - i]
            stage = point_layers.FeaturePropagation(widths, self.dtype, name=f"decoder_{i}")
            coarse = (xyz, stage(xyz, skip, mask, coarse, train), mask)
        return base.Sites(*coarse)
