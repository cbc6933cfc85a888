"""LPIPS at random weights against loops, and what it refuses; parity with torch is in tests/parity."""

import numpy as np
import pytest

from gsjax.metrics import lpips

WIDTHS = {
    "alex": [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)],
    "vgg": [(a, b, 3) for a, b in zip(
        (64, 64, 128, 128, 256, 256, 256, *[512] * 6), (3, 64, 64, 128, 128, 256, 256, 256, *[512] * 5)
    )],
}  # fmt: skip


def weights(name: str, seed: int = 0):
    """(backbone, heads) in torch's layout."""
    rng, layers = np.random.default_rng(seed), {"alex": lpips.ALEX, "vgg": lpips.VGG}[name]
    backbone, heads = {}, {}
    for layer, (out, inside, size) in zip(layers, WIDTHS[name], strict=True):
        scale = (2 / (inside * size**2)) ** 0.5
        backbone[f"features.{layer.number}.weight"] = scale * rng.normal(
            size=(out, inside, size, size)
        ).astype(np.float32)
        backbone[f"features.{layer.number}.bias"] = 0.1 * rng.normal(size=out).astype(np.float32)
        if layer.compared:
            heads[f"lin{len(heads)}.model.1.weight"] = rng.random((1, out, 1, 1)).astype(np.float32)
    return backbone, heads


def by_hand(backbone, heads, a, b):
    """AlexNet's distance of two pictures [H, W, 3], with explicit windows in float64."""

    def conv(x, number, padding, stride):
        kernel, bias = (backbone[f"features.{number}.{p}"] for p in ("weight", "bias"))
        x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
        size = kernel.shape[-1]
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))
        windows = windows[::stride, ::stride]
        return np.maximum(np.tensordot(windows, kernel, ((2, 3, 4), (1, 2, 3))) + bias, 0)

    def pool(x):
        return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))[::2, ::2].max((-1, -2))

    def features(x):
        x = (2 * x - 1 - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        one = conv(x, 0, 2, 4)
        two = conv(pool(one), 3, 2, 1)
        three = conv(pool(two), 6, 1, 1)
        four = conv(three, 8, 1, 1)
        return one, two, three, four, conv(four, 10, 1, 1)

    total = 0.0
    for i, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        x, y = (z / (np.linalg.norm(z, axis=-1, keepdims=True) + 1e-10) for z in (x, y))
        total += ((x - y) ** 2 @ heads[f"lin{i}.model.1.weight"].ravel()).mean()
    return total


def test_alexnet_equals_explicit_windows():
    backbone, heads = weights("alex")
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 2, 64, 48, 3)).astype(np.float32)
    found = lpips.Lpips.of(backbone, heads)(a, b)
    expected = [by_hand(backbone, heads, *pair) for pair in zip(a.astype(float), b.astype(float))]
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert np.allclose(lpips.Lpips.of(backbone, heads)(a, a), 0)


def test_vgg_grows_with_noise():
    metric = lpips.Lpips.of(*weights("vgg"))
    rng = np.random.default_rng(2)
    a, noise = rng.random((1, 32, 32, 3)), rng.normal(size=(1, 32, 32, 3))
    distances = [float(metric(a, a + s * noise)[0]) for s in (0.0, 0.02, 0.1, 0.3)]
    assert distances[0] == 0 and distances == sorted(distances) and distances[1] > 0


def test_other_weights_are_refused():
    backbone, heads = weights("alex")
    with pytest.raises(ValueError, match="expected torchvision's AlexNet or VGG-16"):
        lpips.Lpips.of({"conv.weight": np.zeros(3)}, heads)
    with pytest.raises(ValueError, match="lack features.10.bias"):
        lpips.Lpips.of({k: v for k, v in backbone.items() if k != "features.10.bias"}, heads)
    with pytest.raises(ValueError, match="same network"):
        lpips.Lpips.of(backbone, weights("vgg")[1])
    with pytest.raises(ValueError, match="at least 32 pixels"):
        lpips.Lpips.of(backbone, heads)(np.zeros((1, 16, 16, 3)), np.zeros((1, 16, 16, 3)))
