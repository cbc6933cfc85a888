"""Which views of a set a view is matched with, and gathering by that choice."""

import jax
import jax.numpy as jnp


def nearest_views(c2ws: jax.Array, count: int) -> jax.Array:
    """The views with the nearest camera centres, never the view itself.

    The distance of a view to itself is set to -1 before sorting: with equal centres the published code
    may drop another view and match a view with itself.

    Args:
        c2ws: [..., V, 4, 4].
        count: M.

    Returns:
        int32 [..., V, M], the nearest first; of equally distant ones the first.

    Raises:
        ValueError: count is not within 1 to V - 1.
    """
    views = c2ws.shape[-3]
    if not 1 <= count < views:
        raise ValueError(f"count: expected 1 to {views - 1} of {views} views, found {count}")
    centers = jax.lax.stop_gradient(c2ws[..., :3, 3])
    squared = jnp.sum(jnp.square(centers[..., :, None, :] - centers[..., None, :, :]), -1)
    squared = jnp.where(jnp.eye(views, dtype=bool), -1.0, squared)
    return jnp.argsort(squared, axis=-1, stable=True)[..., 1 : count + 1].astype(jnp.int32)


def other_views(batch: int, views: int) -> jax.Array:
    """All other views in cyclic order: int32 [B, V, V - 1].

    Raises:
        ValueError: fewer than two views.
    """
    if views < 2:
        raise ValueError(f"views: matching needs at least 2 posed pictures, found {views}")
    order = (jnp.arange(views)[:, None] + jnp.arange(1, views)) % views
    return jnp.broadcast_to(order.astype(jnp.int32), (batch, views, views - 1))


def neighbours(c2ws: jax.Array, count: int | None) -> jax.Array:
    """The views that each view is matched with.

    Args:
        c2ws: [B, V, 4, 4].
        count: how many at most; None for all others. Where V - 1 is no more, all others.

    Returns:
        int32 [B, V, M].

    Raises:
        ValueError: fewer than two views, or a count under 1.
    """
    batch, views = c2ws.shape[:2]
    if count is None or count >= views - 1:
        return other_views(batch, views)
    return nearest_views(c2ws, count)


def take_views(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [B, V, ...] at index [B, V, M]: [B, V, M, ...]."""
    return jax.vmap(lambda values, chosen: values[chosen])(x, index)
