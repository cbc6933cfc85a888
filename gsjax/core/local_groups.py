"""Reductions over the neighbourhoods of a cloud that more than one network needs.

Arrays in, arrays out, masked, float32 at least; neighbours are found by ``core.points``.
"""

import jax
import jax.numpy as jnp


def spread(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Standard deviation of all valid numbers of each cloud: over neighbourhoods and channels alike.

    Unbiased (n - 1), about their own mean, as ``torch.std``. The gradient is finite where all are
    equal.

    Args:
        x: [B, ..., C].
        mask: bool [B, ...].

    Returns:
        [B] in float32 at least; 0 for fewer than two numbers.

    Raises:
        ValueError: shapes that do not fit.
    """
    if x.ndim < 2 or mask.shape != x.shape[:-1]:
        raise ValueError(
            f"mask: expected shape {list(x.shape[:-1])} for x {list(x.shape)}, found "
            f"{list(mask.shape)}"
        )
    axes = tuple(range(1, x.ndim))
    valid = mask[..., None]
    x = jnp.where(valid, x.astype(jnp.promote_types(x.dtype, jnp.float32)), 0.0)
    count = jnp.sum(mask, axes[:-1]).astype(x.dtype) * x.shape[-1]
    mean = jnp.sum(x, axes, keepdims=True) / jnp.maximum(count, 1.0).reshape(-1, *[1] * len(axes))
    squares = jnp.sum(jnp.where(valid, jnp.square(x - mean), 0.0), axes)
    variance = squares / jnp.maximum(count - 1.0, 1.0)
    some = variance > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 0.0)


def soft_maximum(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Each channel's mean over neighbours, weighted by its own softmax: between mean and maximum.

    sum_k x_k exp(x_k) / sum_k exp(x_k), the K-pooling of Mamba3D (arXiv 2404.14966).

    Args:
        x: [..., K, C].
        mask: bool [..., K].

    Returns:
        [..., C] in float32 at least; 0 where no neighbour is valid.

    Raises:
        ValueError: shapes that do not fit.
    """
    if mask.shape != x.shape[:-1]:
        raise ValueError(
            f"mask: expected shape {list(x.shape[:-1])} for x {list(x.shape)}, found "
            f"{list(mask.shape)}"
        )
    valid = mask[..., None]
    x = jnp.where(valid, x.astype(jnp.promote_types(x.dtype, jnp.float32)), 0.0)
    weights = jax.nn.softmax(jnp.where(valid, x, jnp.finfo(x.dtype).min), -2)
    return jnp.sum(jnp.where(valid, x * weights, 0.0), -2)
