"""Pixels near depth jumps, where predicted surfaces smear into the air, and errors inside and outside of them."""

import jax
import jax.numpy as jnp

from gsjax.metrics import depth as depth_errors
from gsjax.metrics import rendering

JUMP = 0.1
RADIUS = 2


def jumps(depths: jax.Array, *, relative: float = JUMP) -> jax.Array:
    """Pixels beside a jump: a neighbour left, right, above or below has another depth.

    Args:
        depths: [..., H, W], not above 0 where unknown: such pixels have no jumps and make none.
        relative: a jump is a difference above this share of the nearer depth. Below about 1 / (rows under
            the horizon) a floor seen at a slant is all jumps.

    Returns:
        bool [..., H, W]: both sides of every jump.

    Raises:
        ValueError: relative is not above 0, or no picture.
    """
    if not relative > 0:
        raise ValueError(f"relative: expected a share above 0, found {relative}")
    if depths.ndim < 2:
        raise ValueError(f"depths: expected shape [..., H, W], found {list(depths.shape)}")
    found = jnp.zeros(depths.shape, bool)
    for axis in (depths.ndim - 2, depths.ndim - 1):
        size = depths.shape[axis]
        first = jax.lax.slice_in_dim(depths, 0, size - 1, axis=axis)
        second = jax.lax.slice_in_dim(depths, 1, size, axis=axis)
        least = jnp.minimum(first, second)
        jump = (least > 0) & (jnp.abs(first - second) > relative * least)
        for widths in ((0, 1), (1, 0)):
            pad = [widths if a == axis else (0, 0) for a in range(depths.ndim)]
            found |= jnp.pad(jump, pad)
    return found


def band(depths: jax.Array, *, radius: int = RADIUS, relative: float = JUMP) -> jax.Array:
    """Pixels at most ``radius`` rows and columns away from one beside a jump.

    Args:
        depths, relative: see :func:`jumps`.
        radius: 0 = the pixels beside jumps alone, one on either side.

    Returns:
        bool [..., H, W].

    Raises:
        ValueError: radius below 0, or as :func:`jumps`.
    """
    if radius < 0:
        raise ValueError(f"radius: expected 0 pixels or more, found {radius}")
    found = jumps(depths, relative=relative)
    side = (1,) * (found.ndim - 2) + (2 * radius + 1,) * 2
    return jax.lax.reduce_window(found, False, jnp.logical_or, side, (1,) * found.ndim, "SAME")


def psnr(pred: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """PSNR in dB over the pixels of a mask, at most 100; NaN for pictures without any.

    Args:
        pred, target: [..., H, W, 3] in [0, 1].
        mask: bool [..., H, W].
    """
    return rendering.foreground_psnr(pred, target, mask.astype(pred.dtype))


def split_psnr(
    pred: jax.Array, target: jax.Array, depths: jax.Array, **options
) -> dict[str, jax.Array]:
    """PSNR near depth jumps and elsewhere.

    Args:
        pred, target: [..., H, W, 3] in [0, 1].
        depths: [..., H, W], true ones; unknown depth belongs to neither side.
        **options: of :func:`band`.

    Returns:
        {'band', 'rest'}: [...], NaN where a picture has no such pixel.
    """
    near, known = band(depths, **options), depths > 0
    return dict(band=psnr(pred, target, near & known), rest=psnr(pred, target, ~near & known))


def split_abs_rel(pred: jax.Array, depths: jax.Array, **options) -> dict[str, jax.Array]:
    """AbsRel near depth jumps and elsewhere.

    Args:
        pred: [..., H, W] depths.
        depths: [..., H, W], true ones, not above 0 where unknown.
        **options: of :func:`band`.

    Returns:
        {'band', 'rest'}: [...], NaN where a picture has no such pixel.
    """
    near = band(depths, **options)
    return dict(
        band=depth_errors.abs_rel(pred, depths, near),
        rest=depth_errors.abs_rel(pred, depths, ~near),
    )
