"""LPIPS: distance of two pictures in the features of a classification network.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", arXiv
1801.03924, version 0.1 of its linear heads; AlexNet (what gsplat reports) or VGG-16 (what 3DGS reports).
No weights come with this package: the backbone is torchvision's (``alexnet-owt-7be5be79.pth`` or
``vgg16-397923af.pth``), the heads are the paper's (``weights/v0.1/alex.pth`` or ``vgg.pth`` of its
repository); read both with ``io.weights`` and pass the arrays on.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

# Means and deviations of ImageNet for pictures in [-1, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPS = 1e-10


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with ReLU: its number in torchvision's ``features``, and whether it is compared.

    pool: window of a maximum of stride 2 before it, 0 = none.
    """

    number: int
    padding: int = 1
    stride: int = 1
    pool: int = 0
    compared: bool = False


ALEX = (
    Conv(0, padding=2, stride=4, compared=True), Conv(3, padding=2, pool=3, compared=True),
    Conv(6, pool=3, compared=True), Conv(8, compared=True), Conv(10, compared=True),
)  # fmt: skip
VGG = (
    Conv(0), Conv(2, compared=True), Conv(5, pool=2), Conv(7, compared=True), Conv(10, pool=2),
    Conv(12), Conv(14, compared=True), Conv(17, pool=2), Conv(19), Conv(21, compared=True),
    Conv(24, pool=2), Conv(26), Conv(28, compared=True),
)  # fmt: skip
# Shape of the first kernel -> the network.
_NETWORKS = {(64, 3, 11, 11): ALEX, (64, 3, 3, 3): VGG}


@dataclasses.dataclass(frozen=True)
class Lpips:
    """The metric: ``Lpips.of(backbone, heads)(a, b)``.

    Attributes:
        layers: of the network.
        kernels, biases: per layer, [kh, kw, in, out] and [out].
        heads: per compared layer, [out], not negative.
    """

    layers: tuple[Conv, ...]
    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]
    heads: tuple[jax.Array, ...]

    @classmethod
    def of(cls, backbone: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]) -> "Lpips":
        """From state dicts: ``features.<n>.weight`` and ``bias``; ``lin<i>.model.1.weight``.

        Raises:
            ValueError: another network, missing arrays, or heads of the other network.
        """
        first = backbone.get("features.0.weight")
        layers = _NETWORKS.get(() if first is None else tuple(np.shape(first)))
        if layers is None:
            found = "no features.0.weight" if first is None else np.shape(first)
            raise ValueError(
                f"lpips backbone: found {found}, expected torchvision's AlexNet or VGG-16 "
                "(alexnet-owt-7be5be79.pth, vgg16-397923af.pth)"
            )
        names = [f"features.{layer.number}.{part}" for layer in layers for part in _PARTS]
        wanted = [f"lin{i}.model.1.weight" for i in range(sum(x.compared for x in layers))]
        missing = [n for n in names if n not in backbone] + [n for n in wanted if n not in heads]
        if missing:
            raise ValueError(f"lpips: the weight files lack {', '.join(missing[:5])}")
        arrays = [jnp.asarray(backbone[name], jnp.float32) for name in names]
        result = cls(
            layers,
            tuple(x.transpose(2, 3, 1, 0) for x in arrays[::2]),
            tuple(arrays[1::2]),
            tuple(jnp.asarray(heads[name], jnp.float32).reshape(-1) for name in wanted),
        )
        widths = [len(b) for b, layer in zip(result.biases, layers, strict=True) if layer.compared]
        if [len(head) for head in result.heads] != widths:
            raise ValueError(
                f"lpips heads: widths {[len(h) for h in result.heads]}, expected {widths}; take those "
                "of the same network as the backbone"
            )
        return result

    def arrays(self) -> dict[str, tuple[jax.Array, ...]]:
        """The weights alone, as they travel with a model's variables."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def holding(self, arrays: Mapping[str, tuple[jax.Array, ...]]) -> "Lpips":
        """The same network with the weights of :meth:`arrays`."""
        return dataclasses.replace(self, **{name: tuple(arrays[name]) for name in _ARRAYS})

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Distances [B] of pictures [B, H, W, 3] in [0, 1].

        Raises:
            ValueError: shapes that differ, or pictures too small for the network (below 32 pixels).
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3 or min(a.shape[1:3]) < 32:
            raise ValueError(
                f"lpips: expected two times [B, H, W, 3] with at least 32 pixels a side, found "
                f"{a.shape} and {b.shape}"
            )
        total = 0.0
        pairs = zip(self._features(a), self._features(b), self.heads, strict=True)
        for first, second, head in pairs:
            difference = (_unit(first) - _unit(second)) ** 2
            total += jnp.mean(difference @ head, (1, 2))
        return total

    def _features(self, x):
        x = (2 * x - 1 - _SHIFT) / _SCALE
        result = []
        for layer, kernel, bias in zip(self.layers, self.kernels, self.biases, strict=True):
            if layer.pool:
                window = (1, layer.pool, layer.pool, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
            x = jax.lax.conv_general_dilated(
                x, kernel, (layer.stride,) * 2, [(layer.padding,) * 2] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
            )  # fmt: skip
            x = jax.nn.relu(x + bias)
            if layer.compared:
                result.append(x)
        return result


_PARTS = ("weight", "bias")
_ARRAYS = ("kernels", "biases", "heads")


def _unit(x):
    return x / (jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)) + _EPS)
