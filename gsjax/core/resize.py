"""Resampling of maps on a regular grid as torch's ``interpolate`` does it, one matrix an axis.

``jax.image.resize`` knows half-pixel centres only, smooths when it shrinks and has another cubic kernel
and another rounding of the nearest neighbour; weights trained with torch expect the conventions below.
Each method is a table of weights [out, in], made in float64 on the host and applied by two products.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

# "corners": bilinear, the first and last samples of both grids coincide (align_corners=True).
# "bilinear": half-pixel centres, two taps also when it shrinks. "bicubic": the same with four taps,
# a = -0.75. "bicubic_antialias": a = -0.5, the kernel as wide as the source of one output.
# "nearest": source row floor(i * in / out).
METHODS = ("corners", "bilinear", "bicubic", "bicubic_antialias", "nearest")


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel of parameter a."""
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


@functools.cache
def weights(out_size: int, in_size: int, method: str, step: float | None = None) -> np.ndarray:
    """The matrix that resamples one axis.

    Args:
        out_size, in_size: numbers of samples.
        method: of ``METHODS``.
        step: source samples from one output to the next; None = in_size / out_size. Only for
            "bilinear" and "bicubic": torch uses the reciprocal of a scale factor as it was given,
            and not the quotient of the sizes that it rounds to.

    Returns:
        float64 [out_size, in_size]; rows sum to one. Not to be written to.

    Raises:
        ValueError: unknown method, a size below one, or a step for a method that has none.
    """
    if method not in METHODS:
        raise ValueError(f"method: unknown {method!r}; known: {METHODS}")
    if out_size < 1 or in_size < 1:
        raise ValueError(f"sizes: expected at least 1, found out {out_size} and in {in_size}")
    if step is not None and method not in ("bilinear", "bicubic"):
        raise ValueError(f"step: method {method!r} has none; leave it out")
    places = np.arange(out_size)
    if method == "nearest":
        matrix = np.zeros((out_size, in_size))
        matrix[places, places * in_size // out_size] = 1.0
    elif method == "corners":
        source = places * ((in_size - 1) / max(out_size - 1, 1))
        matrix = _taps(source, in_size, lambda x: np.maximum(1 - np.abs(x), 0), 1)
    elif method == "bicubic_antialias":
        matrix = _smooth(out_size, in_size)
    else:
        source = (places + 0.5) * (in_size / out_size if step is None else step) - 0.5
        if method == "bilinear":
            source = np.maximum(source, 0)
            matrix = _taps(source, in_size, lambda x: np.maximum(1 - np.abs(x), 0), 1)
        else:
            matrix = _taps(source, in_size, lambda x: _cubic(x, -0.75), 2)
    matrix.setflags(write=False)
    return matrix


def _taps(source: np.ndarray, size: int, kernel, reach: int) -> np.ndarray:
    """Weights of the 2 * reach samples around each place; those outside fall to the border's."""
    matrix = np.zeros((len(source), size))
    first = np.floor(source).astype(int)
    for offset in range(1 - reach, 1 + reach):
        taps = np.clip(first + offset, 0, size - 1)
        np.add.at(matrix, (np.arange(len(source)), taps), kernel(source - (first + offset)))
    return matrix


def _smooth(out_size: int, in_size: int) -> np.ndarray:
    """The cubic kernel stretched by the factor of shrinking, cut at the border, rows normalised."""
    step = in_size / out_size
    stretch, matrix = max(step, 1.0), np.zeros((out_size, in_size))
    for i in range(out_size):
        centre = step * (i + 0.5)
        low = max(math.floor(centre - 2 * stretch + 0.5), 0)
        high = min(math.floor(centre + 2 * stretch + 0.5), in_size)
        matrix[i, low:high] = _cubic((np.arange(low, high) - centre + 0.5) / stretch, -0.5)
    return matrix / matrix.sum(1, keepdims=True)


def resize(
    x: jax.Array,
    size: tuple[int, int],
    method: str,
    steps: tuple[float, float] | None = None,
) -> jax.Array:
    """Maps of another size; linear in ``x`` and differentiable.

    Args:
        x: [..., H, W, C], floating.
        size: (H', W').
        method: of ``METHODS``.
        steps: source samples an output along H and W, see :func:`weights`; None = the sizes' quotient.

    Returns:
        [..., H', W', C] of the type of ``x``; ``x`` itself where neither size nor steps change it.
        "nearest" copies values; the others are summed in float32 at least.

    Raises:
        ValueError: fewer than three axes, integers, or see :func:`weights`.
    """
    if x.ndim < 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x: expected floating maps [..., H, W, C], found {list(x.shape)} {x.dtype}"
        )
    for axis, out_size, step in zip((-3, -2), size, steps or (None, None), strict=True):
        in_size = x.shape[axis]
        matrix = weights(out_size, in_size, method, step)
        if in_size == out_size and np.array_equal(matrix, np.eye(in_size)):
            continue
        if method == "nearest":
            x = jnp.take(x, np.argmax(matrix, 1), axis=x.ndim + axis)
            continue
        wide = jnp.promote_types(x.dtype, jnp.float32)
        # Ranks below float32 are what the caller chose; float32 must not be rounded to TF32.
        precision = "highest" if x.dtype == wide else None
        subscripts = "oh,...hwc->...owc" if axis == -3 else "ow,...hwc->...hoc"
        x = jnp.einsum(
            subscripts,
            jnp.asarray(matrix, x.dtype),
            x,
            precision=precision,
            preferred_element_type=wide,
        ).astype(x.dtype)
    return x
