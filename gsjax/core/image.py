"""Image similarity: SSIM as 3D Gaussian splatting trains and reports it, and PSNR.

Averages over data sets are in ``gsjax.metrics.image``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_WINDOW = 11
_SIGMA = 1.5


def _pair(a, b) -> tuple[jax.Array, jax.Array]:
    """Both images as floating arrays: differences of unsigned integers would wrap around."""
    a, b = (x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
            for x in map(jnp.asarray, (a, b)))  # fmt: skip
    if a.ndim < 3 or a.shape != b.shape:
        raise ValueError(
            f"a, b: expected two images of equal shape [..., H, W, C], "
            f"found {list(a.shape)} and {list(b.shape)}"
        )
    return a, b


def _window() -> list[float]:
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    return (window / window.sum()).tolist()


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _blur_whole(x: jax.Array, axis: int) -> jax.Array:
    """Convolves one axis with the Gaussian window, whole windows only.

    Shifted slices and a weighted sum: on CPU this fuses into one loop (a depthwise convolution
    does not), and no accelerator rounds it to TF32. The derivative is stated because that of eleven
    slices would be eleven pads; the window being symmetric, it is the same blur.
    """
    size = x.shape[axis] - _WINDOW + 1
    parts = (jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(_WINDOW))
    return sum(part * weight for part, weight in zip(parts, _window()))


def _blur_fwd(x, axis):
    return _blur_whole(x, axis), None


def _blur_bwd(axis, _, cotangent):
    return (_blur_whole(_pad(cotangent, axis, _WINDOW - 1), axis),)


_blur_whole.defvjp(_blur_fwd, _blur_bwd)


def _blur(x: jax.Array, axis: int, padding: str) -> jax.Array:
    return _blur_whole(_pad(x, axis, _WINDOW // 2) if padding == "same" else x, axis)


def _pad(x: jax.Array, axis: int, width: int) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (width, width)
    return jnp.pad(x, widths)


def ssim(
    a: jax.Array,
    b: jax.Array,
    *,
    data_range: float = 1.0,
    padding: str = "same",
    unbiased: bool = False,
) -> jax.Array:
    """Structural similarity, averaged over pixels and channels.

    Wang et al. 2004 with an 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, population
    moments unless ``unbiased``. The border is zero-padded, as in the code of 3D Gaussian splatting,
    whose training loss and published figures use it; the 2004 paper evaluates only whole windows
    (``padding='valid'``).
    Differentiable in reverse mode only.

    Args:
      a: [..., H, W, C] of any real type; integers and bools are taken as floats.
      b: [..., H, W, C].
      data_range: largest minus smallest possible value: 255 for images of bytes.
      padding: 'same' or 'valid'.
      unbiased: variances and covariance times 121/120, those of a sample. With 'valid' this is what
        scikit-image returns by default for this window, and what papers on feed-forward splatting
        report.

    Returns:
      [...], 1 for equal images.

    Raises:
      ValueError: shapes differ, unknown padding, or an image under 11 pixels with 'valid'.
    """
    a, b = _pair(a, b)
    if padding not in ("same", "valid"):
        raise ValueError(f"padding: expected 'same' or 'valid', found {padding!r}")
    if padding == "valid" and min(a.shape[-3:-1]) < _WINDOW:
        raise ValueError(
            f"a, b: padding='valid' needs images of at least {_WINDOW}x{_WINDOW} pixels, "
            f"found {list(a.shape)}"
        )
    moments = jnp.stack((a, b, a * a, b * b, a * b))
    moments = _blur(_blur(moments, moments.ndim - 2, padding), moments.ndim - 3, padding)
    mean_a, mean_b, aa, bb, ab = moments
    count = _WINDOW**2
    factor = count / (count - 1) if unbiased else 1.0
    var_a, var_b = factor * (aa - mean_a**2), factor * (bb - mean_b**2)
    covariance = factor * (ab - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return jnp.mean(luminance * structure, axis=(-3, -2, -1))


def psnr(a: jax.Array, b: jax.Array, *, data_range: float = 1.0) -> jax.Array:
    """Peak signal-to-noise ratio in dB.

    Args:
      a: [..., H, W, C] of any real type; integers and bools are taken as floats.
      b: [..., H, W, C].
      data_range: largest minus smallest possible value: 255 for images of bytes.

    Returns:
      [...] dB. Capped at 100 dB, so that equal images give a finite value and zero gradient.
    """
    a, b = _pair(a, b)
    error = jnp.mean(jnp.square((a - b) / data_range), axis=(-3, -2, -1))
    return -10.0 * jnp.log10(jnp.maximum(error, 1e-10))
