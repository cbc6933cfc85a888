"""What compares rendered with true pictures, and the depth terms that PM-Loss is measured against.

Every function gives one number an example, [B]. Sources: DepthSplat (arXiv 2410.13862) and the public code of
PM-Loss (arXiv 2506.05327); the smoothness term is pixelSplat's (arXiv 2312.12337) and MVSplat's.
"""

import jax
import jax.numpy as jnp

SMALL = 1e-8  # what the public code multiplies the loss of a bad sample by
FLOOR = 1e-10


def mse(pred: jax.Array, target: jax.Array, ignore: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Mean squared error, without entries whose squared error is ``ignore`` or more.

    Args:
        pred: [B, ...], not clamped.
        target: likewise.
        ignore: 0 keeps all; PM-Loss has 0.2.

    Returns:
        [B] means of the entries that are left (0 if none is), [B] share of those left out.
    """
    squared = jnp.square(pred - target).reshape(pred.shape[0], -1)
    if not ignore:
        return jnp.mean(squared, -1), jnp.zeros(pred.shape[0], squared.dtype)
    kept = squared < ignore
    count = jnp.sum(kept, -1)
    mean = jnp.sum(jnp.where(kept, squared, 0.0), -1) / jnp.maximum(count, 1)
    return mean, 1 - count / squared.shape[1]


def step_weights(count: int, decay: float) -> list[float]:
    """Weights decay^(n - i) of n intermediate depths i = 0 .. n - 1, oldest first; the final one has 1."""
    return [decay ** (count - i) for i in range(count)]


def inverse_depth_l1(
    inverse: jax.Array, true: jax.Array, near: jax.Array, far: jax.Array
) -> jax.Array:
    """Mean |1/d - 1/d*| over pixels of known depth, as a share of 1/near - 1/far; 0 if none is known.

    Supervised depth, the direct rival of a pointmap from exact depth. The share makes it free of units.

    Args:
        inverse: [B, V, H, W], inverse depths.
        true: [B, V, H, W], depths, 0 where unknown.
        near: [B].
        far: [B].
    """
    known = true > 0
    error = jnp.abs(inverse - 1 / jnp.where(known, true, 1.0))
    axes = tuple(range(1, true.ndim))
    total = jnp.sum(jnp.where(known, error, 0.0), axes) / jnp.maximum(jnp.sum(known, axes), 1)
    return total / (1 / near - 1 / far)


def smoothness(
    depths: jax.Array,
    images: jax.Array,
    near: jax.Array,
    far: jax.Array,
    *,
    order: int = 2,
    sigma: float = 12.0,
) -> jax.Array:
    """Mean absolute differences of rendered log-depth along rows plus those along columns.

    The log-depth, clamped and mapped to [0, 1] between near and far (the public code compares the depth
    itself with the logarithms of near and far). Differences are forgiven at edges of the true picture:
    times exp(-sigma x largest difference of a channel).

    Args:
        depths: [B, T, H, W].
        images: [B, T, H, W, 3], the true ones.
        near: [B].
        far: [B].
        order: 1 or 2, of the difference.
        sigma: 0 = edges count like all else.

    Raises:
        ValueError: another order.
    """
    if order not in (1, 2):
        raise ValueError(f"order: expected 1 or 2, found {order}")
    low, high = (jnp.log(x)[:, None, None, None] for x in (near, far))
    # What is nearer than near has no gradient: nor has a pixel without Gaussians, of depth 0.
    log = jnp.log(jnp.maximum(depths, near[:, None, None, None]))
    place = jnp.clip((log - low) / (high - low), 0.0, 1.0)
    total = jnp.zeros(depths.shape[0], place.dtype)
    for axis in (2, 3):
        change = jnp.diff(place, n=order, axis=axis)
        if sigma:
            edge = jnp.max(jnp.abs(jnp.diff(images, axis=axis)), -1)
            if order == 2:
                first, second = (
                    jax.lax.slice_in_dim(edge, i, edge.shape[axis] - 1 + i, axis=axis)
                    for i in (0, 1)
                )
                edge = jnp.maximum(first, second)
            change = change * jnp.exp(-sigma * edge)
        total += jnp.mean(jnp.abs(change), (1, 2, 3))
    return total


def bad(photometric: jax.Array, steps: jax.Array, limit: float, start: int) -> jax.Array:
    """bool [B]: examples whose pictures are too far off to learn from, after the first ``start`` steps.

    The public code looks at the final depth's MSE and LPIPS terms of its one example a device, and
    multiplies the *whole* loss, PM-Loss with it, by 1e-8.

    Args:
        photometric: [B].
        steps: [], done so far.
        limit: 0.1 there.
        start: 300 there.
    """
    return (jax.lax.stop_gradient(photometric) > limit) & (steps > start)


def psnr(error: jax.Array) -> jax.Array:
    """Decibels of a mean squared error of pictures in [0, 1]."""
    return -10 * jnp.log10(jnp.maximum(error, FLOOR))
