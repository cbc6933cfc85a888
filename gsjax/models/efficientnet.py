"""EfficientNet-Lite0, an image network for ImageNet's 1,000 classes: inference and features only.

Inverted residuals (MobileNetV2, arXiv 1801.04381) at the sizes of EfficientNet-B0 (arXiv 1905.11946)
without squeeze-and-excitation and with ReLU6, as Google published it for small devices. 4.65 M
parameters. `convert` takes the state dict of the PyTorch package ``efficientnet-lite-pytorch``;
``models.packaged`` says where an installed copy of the weights lies. Training it is not provided for:
normalisation uses the stored statistics.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import linear, name_tables

IMAGE_SIZE = 224  # of the published weights; any size from 32 on works
FEATURES = 1280
# Of RGB in 0 .. 255, as in the TensorFlow original (tensorflow/tpu, models/official/efficientnet/lite).
# The PyTorch package states ImageNet's mean and deviation, with which the stored statistics disagree:
# over six photographs the stem's outputs then deviate 1.9 times as much as they should, here 0.9 times.
MEAN, STD = 127.0, 128.0
_NORM_EPS = 1e-3  # of the TensorFlow original; torch's default is 1e-5
_STEM = 32


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of one kind: ``stride`` is that of the first, the others have 1; ``expand`` is the
    factor of the inner width; ``features`` the outer one."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    features: int


# EfficientNet-B0's (arXiv 1905.11946, table 1, stages 2 to 8).
LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def blocks(stages: tuple[Stage, ...] = LITE0) -> list[Stage]:
    """The stages written out, one entry a block."""
    return [
        dataclasses.replace(stage, repeats=1, stride=stage.stride if first else 1)
        for stage in stages
        for first in [True] + [False] * (stage.repeats - 1)
    ]


def _norm(name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True, epsilon=_NORM_EPS, name=name)


def _depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _depthwise_taps(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same as a sum of shifted pictures."""
    size = kernel.shape[0]
    out = [-(-side // stride) for side in x.shape[1:3]]
    gaps = [max((o - 1) * stride + size - side, 0) for o, side in zip(out, x.shape[1:3])]
    x = jnp.pad(x, ((0, 0), *((gap // 2, gap - gap // 2) for gap in gaps), (0, 0)))
    spans = [(o - 1) * stride + 1 for o in out]
    total = 0.0
    for i in range(size):
        for j in range(size):
            part = x[:, i : i + spans[0] : stride, j : j + spans[1] : stride]
            total = total + part * kernel[i, j, 0]
    return total


class Depthwise(nn.Module):
    """Filters each channel by itself, padded as TensorFlow's 'SAME'."""

    size: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), C]."""
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        # XLA's grouped convolution on CPU takes a second a picture; the sum takes milliseconds.
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, k: _depthwise_taps(x, k, self.stride),
            default=lambda x, k: _depthwise_conv(x, k, self.stride),
        )


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; the input is added where shapes agree."""

    block: Stage

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
        block, y = self.block, x
        width = x.shape[-1] * block.expand
        if block.expand != 1:
            y = nn.Conv(width, (1, 1), use_bias=False, name="expand")(y)
            y = nn.relu6(_norm("expand_norm")(y))
        y = Depthwise(block.kernel, block.stride, name="depthwise")(y)
        y = nn.relu6(_norm("depthwise_norm")(y))
        y = _norm("project_norm")(
            nn.Conv(block.features, (1, 1), use_bias=False, name="project")(y)
        )
        return x + y if y.shape == x.shape else y


class EfficientNetLite(nn.Module):
    """The network; ``apply(variables, pixels)`` gives features, ``method='logits'`` the classes.

    Attributes:
        stages: of the trunk.
        num_classes: of the head.
    """

    stages: tuple[Stage, ...] = LITE0
    num_classes: int = 1000

    def setup(self):
        self.stem = nn.Conv(_STEM, (3, 3), strides=(2, 2), use_bias=False)
        self.stem_norm = nn.BatchNorm(use_running_average=True, epsilon=_NORM_EPS)
        self.block = [InvertedResidual(block) for block in blocks(self.stages)]
        self.head = nn.Conv(FEATURES, (1, 1), use_bias=False)
        self.head_norm = nn.BatchNorm(use_running_average=True, epsilon=_NORM_EPS)
        self.classes = linear.Dense(self.num_classes)

    def maps(self, pixels: jax.Array) -> jax.Array:
        """Features before pooling, [B, H / 32, W / 32, 1280], of normalised pixels [B, H, W, 3]."""
        x = nn.relu6(self.stem_norm(self.stem(pixels)))
        for block in self.block:
            x = block(x)
        return nn.relu6(self.head_norm(self.head(x)))

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Pooled features [B, 1280] of normalised pixels [B, H, W, 3]."""
        return self.maps(pixels).mean(axis=(1, 2))

    def logits(self, pixels: jax.Array) -> jax.Array:
        """ImageNet class logits [B, num_classes] of normalised pixels [B, H, W, 3]."""
        return self.classes(self(pixels))


def normalize(pictures: jax.Array) -> jax.Array:
    """uint8 pictures [..., 3] to what the network takes, float32."""
    return (pictures.astype(jnp.float32) - MEAN) / STD


def name_table(stages: tuple[Stage, ...] = LITE0) -> list[name_tables.Entry]:
    """From the names of ``efficientnet-lite-pytorch`` to ours."""
    entry = name_tables.Entry

    def conv(theirs: str, ours: str) -> list[name_tables.Entry]:
        return [entry(f"{theirs}.weight", f"params/{ours}/kernel", "conv2d")]

    def norm(theirs: str, ours: str) -> list[name_tables.Entry]:
        return [
            entry(f"{theirs}.weight", f"params/{ours}/scale"),
            entry(f"{theirs}.bias", f"params/{ours}/bias"),
            entry(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
            entry(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
        ]

    table = conv("_conv_stem", "stem") + norm("_bn0", "stem_norm")
    for i, block in enumerate(blocks(stages)):
        theirs, ours = f"_blocks.{i}", f"block_{i}"
        if block.expand != 1:
            table += conv(f"{theirs}._expand_conv", f"{ours}/expand")
            table += norm(f"{theirs}._bn0", f"{ours}/expand_norm")
        table += conv(f"{theirs}._depthwise_conv", f"{ours}/depthwise")
        table += norm(f"{theirs}._bn1", f"{ours}/depthwise_norm")
        table += conv(f"{theirs}._project_conv", f"{ours}/project")
        table += norm(f"{theirs}._bn2", f"{ours}/project_norm")
    table += conv("_conv_head", "head") + norm("_bn1", "head_norm")
    return [
        *table,
        entry("_fc.weight", "params/classes/kernel", "linear"),
        entry("_fc.bias", "params/classes/bias"),
    ]


def variable_shapes(model: EfficientNetLite) -> dict[str, tuple[int, ...]]:
    """Path -> shape of everything the network stores."""
    pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = lambda rng, x: model.init(rng, x, method="logits")  # noqa: E731
    return name_tables.flat_shapes(jax.eval_shape(init, jax.random.key(0), pixels))


def convert(state_dict: Mapping[str, np.ndarray]) -> dict:
    """Variables of `EfficientNetLite` from the PyTorch package's state dict.

    Raises:
        ValueError: the state dict is of another model; the message lists what does not fit.
    """
    model = EfficientNetLite()
    return name_tables.convert(
        state_dict,
        name_table(),
        variable_shapes(model),
        what="EfficientNet-Lite0",
        ignore=(r".*\.num_batches_tracked$",),
    ).variables
