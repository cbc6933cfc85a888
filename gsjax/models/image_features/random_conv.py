"""Three convolutions with fixed random weights: the control for encoders that have learned something.

    random_conv?seed=3&channels=64

The weights are made of random bits by arithmetic that rounds alike everywhere, so a seed means the
same numbers on every machine; the digest proves it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models.image_features import base

OPTIONS = dict(seed="0", channels="64")
HIDDEN = (32, 64)
_SIZE = 3


def build(path, options, open_state_dict=None) -> base.ImageEncoder:
    """``seed`` of the weights, ``channels`` C of the map; full resolution. See ``base.load``."""
    del open_state_dict
    base.no_path("random_conv", path)
    seed = base.whole_number("random_conv", options, "seed", 0, 2**31 - 1)
    channels = base.whole_number("random_conv", options, "channels", 1, 4096)
    arrays = weights(seed, channels)
    return base.ImageEncoder(
        name="random_conv",
        channels=channels,
        digest=base.digest("random_conv", dict(seed=seed, channels=channels), arrays),
        licence="none needed",
        description=(
            f"three 3x3 convolutions, widths {(*HIDDEN, channels)}, ReLU between, random weights of "
            f"seed {seed}; of 2 x - 1, RGB x in [0, 1]"
        ),
        arrays=base.on_device(arrays),
        apply=features,
    )


def weights(seed: int, channels: int) -> dict[str, dict[str, np.ndarray]]:
    """Kernels uniform within +-sqrt(6 / inputs) (He et al., arXiv 1502.01852, which keeps the size of
    activations through ReLU) and biases uniform within +-1 / sqrt(inputs).

    Returns:
        {'conv_0': {'kernel': f32 [3, 3, in, out], 'bias': f32 [out]}, ...}.
    """
    key, result, width = jax.random.key(seed, impl="threefry2x32"), {}, 3
    for layer, out in enumerate((*HIDDEN, channels)):
        inputs = _SIZE * _SIZE * width
        parts = dict(
            kernel=((_SIZE, _SIZE, width, out), math.sqrt(6.0 / inputs)),
            bias=((out,), math.sqrt(1.0 / inputs)),
        )
        result[f"conv_{layer}"] = {
            name: _uniform(jax.random.fold_in(key, 2 * layer + place), shape) * np.float32(bound)
            for place, (name, (shape, bound)) in enumerate(parts.items())
        }
        width = out
    return result


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """f32 in [-1, 1), multiples of 2^-23: exact, unlike a normal deviate."""
    with jax.threefry_partitionable(True):  # the order of bits is a setting of JAX's
        bits = np.asarray(jax.random.bits(key, shape, np.uint32))
    return (bits >> 8).astype(np.float32) / np.float32(2**23) - np.float32(1.0)


def features(arrays: base.Arrays, images: jax.Array) -> jax.Array:
    """[B, H, W, channels]; borders repeat the outermost pixels."""
    base.check_images(images)
    x = 2.0 * images.astype(jnp.float32) - 1.0
    for layer in range(len(HIDDEN) + 1):
        kernel, bias = arrays[f"conv_{layer}"]["kernel"], arrays[f"conv_{layer}"]["bias"]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = x + bias if layer == len(HIDDEN) else jax.nn.relu(x + bias)
    return x
