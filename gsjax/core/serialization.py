"""Orders in which a sequence model reads the points of a cloud.

Ten named orders, all on a regular grid of cells: six that sweep it in a snake (Point Cloud Mamba,
arXiv 2403.00762, "consistent traverse serialization"), Z-order and Hilbert curves, and both with x
and y exchanged. The curves' keys are in ``core.curves``.
"""

import jax
import jax.numpy as jnp

from gsjax.core import curves

SNAKES = ("xyz", "xzy", "yxz", "yzx", "zxy", "zyx")
ORDERS = (*SNAKES, "z", "z-trans", "hilbert", "hilbert-trans")
LAST = jnp.iinfo(jnp.uint32).max  # beyond every key of 3 x MAX_BITS bits


def grid_cells(
    points: jax.Array, size: float, *, mask: jax.Array | None = None, bits: int = curves.MAX_BITS
) -> jax.Array:
    """Cells of a grid whose corners are multiples of ``size``, counted from each cloud's lowest.

    Args:
        points: [..., N, 3].
        size: edge of a cell.
        mask: bool [..., N], True for valid points; the others get cell 0.
        bits: of a cell's number on each axis; what lies beyond the grid goes to its last cells.

    Returns:
        uint32 [..., N, 3] below 2^bits.

    Raises:
        ValueError: size not positive, other shapes.
    """
    if size <= 0:
        raise ValueError(f"size: expected a positive edge, found {size}")
    if points.ndim < 2 or points.shape[-1] != 3:
        raise ValueError(f"points: expected shape [..., N, 3], found {list(points.shape)}")
    valid = jnp.ones(points.shape[:-1], bool) if mask is None else mask
    if valid.shape != points.shape[:-1]:
        raise ValueError(
            f"mask: expected shape {list(points.shape[:-1])}, found {list(valid.shape)}"
        )
    valid = valid[..., None]
    scaled = jnp.floor(jnp.where(valid, jax.lax.stop_gradient(points), 0.0) / size)
    low = jnp.min(jnp.where(valid, scaled, jnp.inf), -2, keepdims=True)
    cells = jnp.where(valid, scaled - jnp.where(jnp.isfinite(low), low, 0.0), 0.0)
    return jnp.clip(cells, 0, (1 << bits) - 1).astype(jnp.uint32)


def snake_key(cells: jax.Array, order: str, bits: int = curves.MAX_BITS) -> jax.Array:
    """Keys of a sweep whose neighbours in sequence are neighbours on the grid.

    The axis named first runs fastest and turns back at the end of each row, the second turns back
    at the end of each plane. (The public code of Point Cloud Mamba multiplies by the largest cell
    number where the number of cells is meant, which lets rows and planes overlap.)

    Args:
        cells: uint32 [..., 3] below 2^bits.
        order: one of ``SNAKES``.
        bits: of each axis.

    Returns:
        uint32 [...] below 2^(3 bits).

    Raises:
        ValueError: unknown order, or bits beyond ``curves.MAX_BITS``.
    """
    if order not in SNAKES:
        raise ValueError(f"order: unknown {order!r}; known: {', '.join(SNAKES)}")
    if not 1 <= bits <= curves.MAX_BITS:
        raise ValueError(f"bits: expected 1 to {curves.MAX_BITS}, found {bits}")
    first, second, third = (cells[..., "xyz".index(name)] for name in order)
    row, plane = jnp.uint32((1 << bits) - 1), jnp.uint32((1 << 2 * bits) - 1)
    # Subtracting from a row of ones is flipping the bits.
    in_plane = (second << bits) | jnp.where(second & 1 == 1, first ^ row, first)
    return (third << 2 * bits) | jnp.where(third & 1 == 1, in_plane ^ plane, in_plane)


def order_key(cells: jax.Array, order: str, bits: int = curves.MAX_BITS) -> jax.Array:
    """Keys of any of ``ORDERS``; sorting by them gives the order.

    Args:
        cells: uint32 [..., 3] below 2^bits.
        order: a name; '-trans' exchanges x and y.
        bits: of each axis.

    Returns:
        uint32 [...] below 2^(3 bits).

    Raises:
        ValueError: unknown order; the message lists the known ones.
    """
    if order not in ORDERS:
        raise ValueError(f"order: unknown {order!r}; known: {', '.join(ORDERS)}")
    if order in SNAKES:
        return snake_key(cells, order, bits)
    curve, _, exchanged = order.partition("-")
    cells = cells[..., jnp.array([1, 0, 2])] if exchanged else cells
    return {"z": curves.morton_key, "hilbert": curves.hilbert_key}[curve](cells, bits)


def reading_order(
    points: jax.Array, order: str, size: float, *, mask: jax.Array | None = None
) -> jax.Array:
    """Rows of each cloud in the order they are read, masked ones last.

    Points of one cell keep their relative order.

    Args:
        points: [..., N, 3].
        order: one of ``ORDERS``.
        size: edge of a cell.
        mask: bool [..., N].

    Returns:
        int32 [..., N], a permutation.
    """
    key = order_key(grid_cells(points, size, mask=mask), order)
    if mask is not None:
        key = jnp.where(mask, key, jnp.uint32(LAST))
    return jnp.argsort(key, axis=-1).astype(jnp.int32)
