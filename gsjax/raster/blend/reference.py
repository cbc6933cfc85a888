"""The definition of the image: every pixel meets every Gaussian, one after the other, in depth order.

No tiles, no lists, no hand-written derivative: gradients are automatic differentiation of the few
lines of :func:`_over`. Every other backend is tested against this one. Not for real work: time is
pixels times Gaussians, and memory in the backward pass about pixels times 2 sqrt(Gaussians).

The exponent is evaluated from the offsets to the pixel, sigma = (A dx^2 + C dy^2) / 2 + B dx dy. An
expanded polynomial in the pixel coordinates is the same function but loses digits for needles.
"""

import functools
import math

import jax
import jax.numpy as jnp

from gsjax.raster import constants
from gsjax.raster import project as projection


def depth_order(splats: projection.Splats) -> jax.Array:
    """Indices [N] of one image's Gaussians, front to back; ties by index, culled ones last.

    Depths are compared as float32 whatever their type, so that all backends agree.
    """
    culled = splats.radii[:, 0] <= 0
    keys = jnp.where(culled, jnp.inf, splats.depths.astype(jnp.float32))
    return jnp.argsort(keys, stable=True)


def blend(
    splats: projection.Splats,
    features: jax.Array,
    *,
    width: int,
    height: int,
    max_alpha: float,
    tile_size: int | None = None,
    capacity: int | None = None,
    absgrad_probe: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Front-to-back alpha blending of I images (3DGS, arXiv 2308.04079, Eq. 3).

    Args:
      splats: projected Gaussians with one leading axis, I images.
      features: [I, N, X] what is blended: colours, depth, anything.
      width, height: image size in pixels.
      max_alpha: upper bound of a Gaussian's alpha.
      tile_size, capacity: unused here; part of the contract of all backends.
      absgrad_probe: [I, N, 2], of no effect on the result. Its gradient is that of means2d with the
        absolute value taken at each pixel before the sum (AbsGS, arXiv 2404.10484).

    Returns:
      color [I, H, W, X] without background, transmittance [I, H, W], and stats: num_pairs,
      overflow, num_passes, each int32 [I]. Here a pair is (Gaussian that is not culled, image).
    """
    del tile_size, capacity
    color, transmittance = jax.vmap(lambda *a: _image(*a, width, height, max_alpha))(
        splats, features, absgrad_probe
    )
    visible = jnp.sum(splats.radii[..., 0] > 0, -1, dtype=jnp.int32)
    none = jnp.zeros_like(visible)
    return color, transmittance, dict(num_pairs=visible, overflow=none, num_passes=none + 1)


def _image(splats, features, probe, width, height, max_alpha):
    """One image: color [H, W, X], transmittance [H, W]."""
    num, channels = features.shape
    dtype = jnp.result_type(splats.means2d, features)
    state = jnp.ones((height, width), dtype), jnp.zeros((height, width, channels), dtype)
    if num == 0:
        return state[1], state[0]
    order = depth_order(jax.lax.stop_gradient(splats))
    opacities = jnp.where(splats.radii[:, 0] > 0, splats.opacities, 0.0)
    rows = (splats.means2d, splats.conics, opacities, features, probe)
    rows = jax.tree.map(lambda x: x[order], rows)

    # Chunks of sqrt(N): the backward pass stores one state a chunk and replays the inside.
    size = math.isqrt(num - 1) + 1
    chunks = -(-num // size)
    rows = jax.tree.map(lambda x: _pad(x, chunks * size).reshape(chunks, size, *x.shape[1:]), rows)
    pixels = jnp.arange(width, dtype=dtype) + 0.5, jnp.arange(height, dtype=dtype)[:, None] + 0.5

    def one(state, row):
        return _over(state, row, pixels, max_alpha), None

    chunk = jax.checkpoint(lambda state, part: jax.lax.scan(one, state, part))
    (signed, color), _ = jax.lax.scan(chunk, state, rows)
    return color, jnp.abs(signed)


def _pad(x, size):
    """Appends rows of zeros: opacity 0 contributes nothing."""
    return jnp.pad(x, [(0, size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))


def _over(state, row, pixels, max_alpha):
    """Puts one Gaussian behind what is there. A negative transmittance marks a closed pixel."""
    signed, color = state
    mean, conic, opacity, feature, probe = row
    if probe is not None:
        mean = _at_pixels(signed.shape, mean, probe)
    dx, dy = mean[0] - pixels[0], mean[1] - pixels[1]
    sigma = 0.5 * (conic[0] * dx * dx + conic[2] * dy * dy) + conic[1] * dx * dy
    alpha = jnp.minimum(max_alpha, opacity * jnp.exp(-jnp.maximum(sigma, 0.0)))
    alpha = jnp.where((sigma >= 0) & (alpha >= constants.ALPHA_MIN), alpha, 0.0)
    left = signed * (1 - alpha)
    stop = left <= constants.T_MIN  # this one is excluded, and so is all that follows
    weight = jnp.where(stop, 0.0, alpha * signed)
    return jnp.where(stop, -jnp.abs(signed), left), color + weight[..., None] * feature


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _at_pixels(shape, mean, probe):
    """The two coordinates of a mean, one copy a pixel, so that each pixel has its own gradient."""
    del probe
    return jnp.broadcast_to(mean[0], shape), jnp.broadcast_to(mean[1], shape)


def _at_pixels_bwd(shape, residuals, cotangents):
    del shape, residuals
    summed = jnp.stack([jnp.sum(g) for g in cotangents])
    return summed, jnp.stack([jnp.sum(jnp.abs(g)) for g in cotangents])


_at_pixels.defvjp(lambda *args: (_at_pixels(*args), None), _at_pixels_bwd)
