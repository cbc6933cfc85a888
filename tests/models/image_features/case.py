"""What every image encoder must keep, for the tests of each kind."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time


def pictures(height: int, width: int, batch: int = 2, seed: int = 0) -> jax.Array:
    """Random f32 [B, H, W, 3] in [0, 1]."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(size=(batch, height, width, 3)), jnp.float32)


def run(encoder, images: jax.Array) -> np.ndarray:
    """The map, by one compiled call with the weights as arguments."""
    return np.asarray(_compiled(encoder)(encoder.arrays, images))


@functools.lru_cache
def _compiled(encoder):
    return jax.jit(encoder.apply, compiler_options=QUICK)


def apply(net, params, *args, **kwargs):
    """``net.apply`` with given parameters as one compiled call."""
    compiled = jax.jit(functools.partial(net.apply, **kwargs), compiler_options=QUICK)
    return compiled({"params": params}, *args)


def check(encoder, images: jax.Array, cell: int) -> np.ndarray:
    """Shape, type, range of values, batches, weights as arguments, gradients; returns the map.

    Args:
        encoder: ``base.ImageEncoder``.
        images: [2, H, W, 3].
        cell: pixels a cell.
    """
    found = run(encoder, images)
    _, height, width, _ = images.shape
    assert found.shape == (2, -(-height // cell), -(-width // cell), encoder.channels)
    assert found.dtype == np.float32 and np.isfinite(found).all() and found.std() > 1e-3
    assert re.fullmatch("[0-9a-f]{64}", encoder.digest)
    assert encoder.description and encoder.licence
    check_batch(encoder, images, found)
    check_arguments(encoder, images)
    check_gradients(encoder, images)
    return found


def check_batch(encoder, images: jax.Array, found: np.ndarray) -> None:
    """A picture's map does not depend on its neighbours, and calls do not change anything."""
    # Sums in another order at most: rounding, relative to the size of the values.
    size = np.abs(found).max()
    np.testing.assert_allclose(run(encoder, images[::-1])[::-1], found, atol=2e-5 * size)
    np.testing.assert_array_equal(run(encoder, images), found)


def check_arguments(encoder, images: jax.Array) -> None:
    """The weights are parameters of the program: its text holds no large constant."""
    text = jax.jit(encoder.apply).lower(encoder.arrays, images).as_text()
    large = [line for line in text.splitlines() if "constant" in line and _elements(line) > 512]
    assert not large, large[0][:300]
    weights = sum(leaf.size for leaf in jax.tree.leaves(encoder.arrays))
    signature = re.search(r"func\.func public @main\((.*?)\) ->", text, re.DOTALL)[1]
    arguments = [_elements(part) for part in signature.split("%arg")[1:]]
    assert sum(arguments) == weights + images.size, (
        "weights that are not read, or are not arguments"
    )


def _elements(line: str) -> int:
    """Elements of the largest tensor type in a line."""
    shapes = re.findall(r"tensor<((?:\d+x)*)[a-z]\w*>", line)
    return max((int(np.prod([int(n) for n in s.split("x") if n])) for s in shapes), default=0)


def check_gradients(encoder, images: jax.Array) -> None:
    """Derivatives by the picture are finite, also of constant pictures, and not all zero."""

    @functools.partial(jax.jit, compiler_options=QUICK)
    def slopes(arrays, images):
        return jax.grad(lambda x: jnp.sum(jnp.sin(encoder.apply(arrays, x))))(images)

    found = np.asarray(slopes(encoder.arrays, images.at[0].set(0.0)))
    assert np.isfinite(found).all() and np.abs(found[1]).max() > 0
