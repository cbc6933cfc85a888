"""ResNet-18 and its kin of basic blocks (He et al., CVPR 2016, arXiv 1512.03385), without a classifier.

The layout is torchvision's: a 7 x 7 stem of stride 2, a 3 x 3 maximum of stride 2, four stages of basic
blocks, the stride in a block's first convolution, projections of size 1 x 1 where shapes change, and the
mean over the picture. Features are not negative, since a ReLU is last. Sizes of pictures are free.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import masked_norm


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a ResNet.

    Attributes:
        width: channels of the stem and the first stage; each further stage has twice as many.
        blocks: of each stage.
    """

    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)

    def __post_init__(self):
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if self.width < 1:
            raise ValueError(f"width: expected at least 1, found {self.width}")
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks: expected positive numbers, found {self.blocks}")

    @property
    def features(self) -> int:
        """Channels of the result."""
        return self.width << (len(self.blocks) - 1)


PRESETS = {
    "resnet18": Config(),
    "resnet34": Config(blocks=(3, 4, 6, 3)),
    "half": Config(width=32),
    "quarter": Config(width=16),
}


def _conv(features: int, size: int, stride: int, dtype, name: str) -> nn.Conv:
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=name,
    )


class BasicBlock(nn.Module):
    """``relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))``.

    Attributes:
        features: channels of the result.
        stride: of the first convolution and of the projection.
        dtype: of computation; statistics are float32.
    """

    features: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [B, H, W, C] -> [B, H / stride, W / stride, features]."""
        norm = lambda name: masked_norm.MaskedBatchNorm(dtype=self.dtype, name=name)  # noqa: E731
        y = _conv(self.features, 3, self.stride, self.dtype, "conv_0")(x)
        y = nn.relu(norm("norm_0")(y, None, train))
        y = _conv(self.features, 3, 1, self.dtype, "conv_1")(y)
        y = norm("norm_1")(y, None, train)
        if x.shape[-1] != self.features or self.stride != 1:
            x = _conv(self.features, 1, self.stride, self.dtype, "shortcut_conv")(x)
            x = norm("shortcut_norm")(x, None, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Pictures to features.

    Attributes:
        config: sizes.
        dtype: of computation; the result is float32.
    """

    config: Config = Config()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Features of pictures.

        Args:
            images: float [B, H, W, 3] in [0, 1]; nothing is subtracted.
            train: whether norms use the batch's statistics, which then move the running ones
                (torch's momentum 0.1).

        Returns:
            float32 [B, config.features], not negative.

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: expected [B, H, W, 3], found {list(images.shape)}")
        c = self.config
        x = _conv(c.width, 7, 2, self.dtype, "stem_conv")(images.astype(self.dtype))
        x = masked_norm.MaskedBatchNorm(dtype=self.dtype, name="stem_norm")(x, None, train)
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for i, count in enumerate(c.blocks):
            for j in range(count):
                stride = 2 if i and not j else 1
                block = BasicBlock(c.width << i, stride, self.dtype, name=f"stage_{i}_block_{j}")
                x = block(x, train)
        return jnp.mean(x.astype(jnp.float32), (1, 2))
