"""Orders of a set of voxels along curves, and moving rows of features into an order and back.

Keys of curves are in ``core.serialization``, sets of voxels in ``core.voxels``. Point Transformer V3
(arXiv 2312.10035) reads the same voxels in several such orders.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gsjax.core import serialization, voxels


def voxel_orders(
    keys: jax.Array, orders: Sequence[str], *, level: int = 0, mask: jax.Array | None = None
) -> jax.Array:
    """Rows of sets of voxels in the order of each curve, rows without a voxel last.

    Z-order and Hilbert curves are hierarchical: at a coarser level they pass through the parents in
    the order in which those of level 0 pass through the children.

    Args:
        keys: int32 [..., V], keys of ``core.voxels``.
        orders: k names of ``serialization.ORDERS``.
        level: how many times the voxels' edge was doubled; cells lie below ``2^(BITS - level)``.
        mask: bool [..., V], True for voxels that take part; None = all voxels.

    Returns:
        int32 [..., k, V], permutations.

    Raises:
        ValueError: no orders or an unknown one, a level outside the grid's, or another shape of mask.
    """
    if not orders:
        raise ValueError(f"orders: expected one or more of {', '.join(serialization.ORDERS)}")
    if not 0 <= level < voxels.BITS:
        raise ValueError(f"level: expected 0 to {voxels.BITS - 1}, found {level}")
    if mask is not None and mask.shape != keys.shape:
        raise ValueError(f"mask: expected {list(keys.shape)} as keys, found {list(mask.shape)}")
    valid = voxels.is_voxel(keys) if mask is None else voxels.is_voxel(keys) & mask
    bits = voxels.BITS - level
    cells = jnp.where(valid[..., None], voxels.decode(keys), 0).astype(jnp.uint32)
    codes = [serialization.order_key(cells, name, bits) for name in orders]
    codes = jnp.where(valid[..., None, :], jnp.stack(codes, -2), jnp.uint32(serialization.LAST))
    return jnp.argsort(codes, axis=-1).astype(jnp.int32)


def inverse(order: jax.Array) -> jax.Array:
    """The permutations that undo permutations: where each row went. int32 [..., V] -> [..., V]."""
    places = jnp.arange(order.shape[-1], dtype=order.dtype)
    return jnp.put_along_axis(
        jnp.zeros_like(order), order, jnp.broadcast_to(places, order.shape), axis=-1, inplace=False
    )


@jax.custom_vjp
def reorder(x: jax.Array, order: jax.Array, back: jax.Array) -> jax.Array:
    """``x[b, order[b]]``; the gradient is gathered as well, not scattered.

    Forward-mode differentiation is not available.

    Args:
        x: [B, V, C].
        order: int32 [B, V], permutations; what is not one gives wrong gradients.
        back: int32 [B, V], ``inverse(order)``. Exchange the two to move rows back.

    Returns:
        [B, V, C].
    """
    return _rows(x, order)


reorder.defvjp(
    lambda x, order, back: (_rows(x, order), back),
    lambda back, ct: (_rows(ct, back), None, None),
)


def _rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    return jax.vmap(lambda x, i: x.at[i].get(mode="promise_in_bounds", unique_indices=True))(
        x, rows
    )
