"""Sets of voxels as sorted lists of Morton keys: voxelising, merging, neighbours, parents.

A cloud's grid has 1,024 cells along each axis; a voxel is one int32 of 30 bits, x, y and z interleaved,
x most significant. A set of voxels is an ascending array of a static size, its unused tail filled
with ``SENTINEL``. Because the order is hierarchical, ``key >> 3`` is the voxel of twice the size and
sorted as well. Every function works on one cloud (vmap for batches: the batch is an axis, never a
part of the key), and what finds no place in a capacity is counted, never an error.

No layers here: convolutions on such sets are in ``core.sparse_conv``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import curves

BITS = curves.MAX_BITS
CELLS = 1 << BITS  # of one axis
SENTINEL = 2**31 - 1  # above every key: fillers come last


class Voxelized(NamedTuple):
    """Points put into voxels.

    Attributes:
        keys: int32 [V], ascending, ``SENTINEL`` beyond the last voxel.
        ids: int32 [N], each point's row in ``keys``; V for points that are masked, outside the grid
            or in a voxel that found no place.
        counts: int32 [V], points in each voxel.
        dropped: int32 [], voxels that found no place (those of the largest keys).
    """

    keys: jax.Array
    ids: jax.Array
    counts: jax.Array
    dropped: jax.Array


class Merged(NamedTuple):
    """The union of two sets of voxels.

    Attributes:
        keys: int32 [V], ascending, ``SENTINEL`` beyond the last voxel; every key once.
        ids_a, ids_b: int32 [A] and [B], where the voxels of each set went; V for fillers and for
            voxels that found no place.
        dropped: int32 [], voxels that found no place.
    """

    keys: jax.Array
    ids_a: jax.Array
    ids_b: jax.Array
    dropped: jax.Array


class Parents(NamedTuple):
    """The voxels of twice the size, and who belongs to which.

    Attributes:
        keys: int32 [P], ascending, ``SENTINEL`` beyond the last.
        ids: int32 [V], each voxel's parent; P for fillers and where the parent found no place.
        slot: int32 [V], which of its parent's eight children a voxel is: 4 x + 2 y + z.
        children: int32 [P, 8], each parent's children; V where there is none.
        dropped: int32 [], parents that found no place.
    """

    keys: jax.Array
    ids: jax.Array
    slot: jax.Array
    children: jax.Array
    dropped: jax.Array


def corner(xyz: jax.Array, size: float, mask: jax.Array | None = None) -> jax.Array:
    """A cloud's grid origin: the lowest coordinates, rounded down to a multiple of the voxel size.

    No point is below it: a coordinate on a multiple of the size (other than 0) may have its origin one
    voxel further down. Whatever else is put into the same voxels (image pixels, say) must use the same
    origin.

    Args:
        xyz: [N, 3].
        size: edge of a voxel.
        mask: bool [N], True for real points; None = all.

    Returns:
        [3]; zeros for an empty cloud.
    """
    _check_xyz(xyz, mask)
    _check_size(size)
    valid = jnp.ones(xyz.shape[:1], bool) if mask is None else mask
    low = jnp.min(jnp.where(valid[:, None], xyz, jnp.inf), 0, initial=jnp.inf)
    low = jax.lax.stop_gradient(jnp.where(jnp.isfinite(low), low, 0.0))
    origin = jnp.floor(low / size) * size
    # The product may round to just above ``low``, whose point would lie outside the grid; and a fused
    # multiply-add may later subtract the exact product. Hence a margin of a few roundings.
    margin = 4 * jnp.finfo(xyz.dtype).eps * jnp.abs(origin)
    return jnp.where(origin + margin > low, origin - size, origin)


def keys_of(
    xyz: jax.Array,
    origin: jax.Array,
    size: float,
    mask: jax.Array | None = None,
    *,
    cells: int = CELLS,
) -> tuple[jax.Array, jax.Array]:
    """Morton keys of the voxels that points lie in.

    Args:
        xyz: [N, 3]; anything in masked rows.
        origin: [3], corner of cell (0, 0, 0).
        size: edge of a voxel.
        mask: bool [N], True for real points; None = all.
        cells: of an axis, at most 1,024; points beyond are outside.

    Returns:
        keys int32 [N], ``SENTINEL`` for points that are masked or outside; and int32 [], the number
        of valid points outside (NaN is outside).

    Raises:
        ValueError: other shapes, size <= 0, or cells out of range.
    """
    _check_xyz(xyz, mask)
    _check_size(size)
    if not 1 <= cells <= CELLS:
        raise ValueError(f"cells: expected 1 to {CELLS}, found {cells}")
    valid = jnp.ones(xyz.shape[:1], bool) if mask is None else mask
    place = jnp.floor((jnp.where(valid[:, None], xyz, origin) - origin) / size)
    inside = jnp.all((place >= 0) & (place < cells), -1)  # NaN compares false
    keys = encode(jnp.where(inside[:, None], place, 0.0).astype(jnp.int32))
    outside = jnp.sum((valid & ~inside).astype(jnp.int32), dtype=jnp.int32)
    return jnp.where(valid & inside, keys, SENTINEL), outside


def encode(cells: jax.Array) -> jax.Array:
    """int32 keys [...] of cells int32 [..., 3], each coordinate in [0, 1024)."""
    return curves.morton_key(cells.astype(jnp.uint32)).astype(jnp.int32)


def decode(keys: jax.Array) -> jax.Array:
    """Cells int32 [..., 3] of keys int32 [...]; of a sentinel (1023, 1023, 1023)."""
    keys = keys.astype(jnp.uint32)
    return jnp.stack([_gather_bits(keys >> shift) for shift in (2, 1, 0)], -1).astype(jnp.int32)


def _gather_bits(x: jax.Array) -> jax.Array:
    """Moves bit 3i (i < 10) to bit i."""
    x = x & jnp.uint32(0x09249249)
    for shift, keep in ((2, 0x030C30C3), (4, 0x0300F00F), (8, 0x030000FF), (16, 0x000003FF)):
        x = (x | (x >> shift)) & jnp.uint32(keep)
    return x


def centers(keys: jax.Array, origin: jax.Array, size: float) -> jax.Array:
    """Middle of each voxel.

    Args:
        keys: int32 [V].
        origin: [3].
        size: edge of a voxel of these keys' level.

    Returns:
        [V, 3] of origin's type; the origin itself for sentinels.
    """
    middle = origin + (decode(keys).astype(origin.dtype) + 0.5) * size
    return jnp.where(is_voxel(keys)[:, None], middle, origin)


def is_voxel(keys: jax.Array) -> jax.Array:
    """bool, like ``keys``: False for fillers."""
    return keys != SENTINEL


def voxelize(keys: jax.Array, capacity: int) -> Voxelized:
    """Distinct keys in ascending order, and which of them each point has.

    Args:
        keys: int32 [N] from :func:`keys_of`, in any order.
        capacity: V, rows of the result.
    """
    _check_capacity(capacity)
    num = keys.shape[0]
    order = jnp.arange(num, dtype=jnp.int32)
    ordered, order = jax.lax.sort((keys, order), num_keys=1, is_stable=True)
    kept, ids, dropped = _distinct(ordered, capacity)
    ids = jnp.zeros(num, jnp.int32).at[order].set(ids, unique_indices=True)
    counts = jax.ops.segment_sum(jnp.ones(num, jnp.int32), ids, capacity + 1)[:capacity]
    return Voxelized(kept, ids, counts, dropped)


def _distinct(ordered: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of ascending keys [N]: distinct ones [capacity], each key's row int32 [N], number dropped."""
    valid = is_voxel(ordered)
    previous = jnp.concatenate([jnp.full((1,), -1, ordered.dtype), ordered[:-1]])
    first = valid & (ordered != previous)
    run = jnp.cumsum(first.astype(jnp.int32), dtype=jnp.int32) - 1
    ids = jnp.where(valid, jnp.minimum(run, capacity), capacity)
    at = jnp.where(first, run, capacity)
    kept = jnp.full(capacity, SENTINEL, jnp.int32).at[at].set(ordered, mode="drop")
    total = jnp.sum(first.astype(jnp.int32), dtype=jnp.int32)
    return kept, ids, jnp.maximum(total - capacity, 0)


def mean(values: jax.Array, ids: jax.Array, capacity: int) -> jax.Array:
    """Mean of the points in each voxel.

    Args:
        values: [N, C]; rows without a voxel may hold anything.
        ids: int32 [N] from :func:`voxelize`.
        capacity: V.

    Returns:
        [V, C]; zeros for voxels without points.
    """
    placed = ids < capacity
    total = jax.ops.segment_sum(jnp.where(placed[:, None], values, 0), ids, capacity + 1)
    counts = jax.ops.segment_sum(placed.astype(values.dtype), ids, capacity + 1)
    return total[:capacity] / jnp.maximum(counts[:capacity], 1)[:, None]


def maximum(values: jax.Array, ids: jax.Array, capacity: int) -> jax.Array:
    """Maximum of the points in each voxel; arguments as :func:`mean`.

    The gradient of a voxel goes to the points that attain the maximum (to a few roundings: compilers may
    compute values twice, not always alike), in equal shares.
    """
    placed = (ids < capacity)[:, None]
    fixed = jnp.where(placed, jax.lax.stop_gradient(values), -jnp.inf)
    top = jax.ops.segment_max(fixed, ids, capacity + 1)
    nearly = top - 4 * jnp.finfo(values.dtype).eps * jnp.abs(top)
    attains = placed & (fixed >= nearly[ids])
    shares = jax.ops.segment_sum(attains.astype(values.dtype), ids, capacity + 1)
    total = jax.ops.segment_sum(jnp.where(attains, values, 0), ids, capacity + 1)
    smooth = total[:capacity] / jnp.maximum(shares[:capacity], 1)
    top = jnp.where(jnp.isneginf(top[:capacity]), 0, top[:capacity])
    # Exactly the maximum in value (a mean of equal numbers may be rounded), the mean in gradient.
    return top + (smooth - jax.lax.stop_gradient(smooth))


def merge(keys_a: jax.Array, keys_b: jax.Array, capacity: int) -> Merged:
    """The union of two sets of voxels of one grid: a voxel of both is one voxel of the result.

    UniPre3D (arXiv 2506.09952) joins the voxels of points with those of image pixels; duplicates
    would leave a submanifold convolution an undefined choice.

    Args:
        keys_a: int32 [A], in any order, of the same origin and size as ``keys_b``.
        keys_b: int32 [B].
        capacity: V, rows of the union.
    """
    union = voxelize(jnp.concatenate([keys_a, keys_b]), capacity)
    num = keys_a.shape[0]
    return Merged(union.keys, union.ids[:num], union.ids[num:], union.dropped)


def cube(size: int) -> np.ndarray:
    """Offsets int32 [size^3, 3] of a centred kernel, z fastest: rows of a dense [s, s, s] kernel."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size: expected an odd number of at least 1, found {size}")
    reach = size // 2
    axis = np.arange(-reach, reach + 1)
    return (
        np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3).astype(np.int32)
    )


def neighbours(keys: jax.Array, offsets: np.ndarray) -> jax.Array:
    """Where each voxel's neighbours are, found by binary search.

    Of offsets that mirror each other (k and K-1-k, as in :func:`cube`) only one half is searched:
    v being the neighbour of u, u is that of v.

    Args:
        keys: int32 [V], ascending (any level).
        offsets: int [K, 3], known at compile time, in cells.

    Returns:
        int32 [K, V]: row of the voxel at each offset, V where there is none. Nothing wraps around at
        the border of the grid.
    """
    offsets = np.asarray(offsets)
    if offsets.ndim != 2 or offsets.shape[1] != 3:
        raise ValueError(f"offsets: expected shape [K, 3], found {list(offsets.shape)}")
    num, count = keys.shape[0], len(offsets)
    if not np.array_equal(offsets, -offsets[::-1]):
        return _search(keys, offsets)
    half = count // 2
    lower = _search(keys, offsets[:half])
    rows = jnp.arange(num, dtype=jnp.int32)

    def mirrored(found):
        return jnp.full(num, num, jnp.int32).at[found].set(rows, mode="drop")

    upper = jax.vmap(mirrored)(lower)[::-1]
    return jnp.concatenate([lower, *([_itself(keys)[None]] * (count % 2)), upper])


def _itself(keys: jax.Array) -> jax.Array:
    num = keys.shape[0]
    return jnp.where(is_voxel(keys), jnp.arange(num, dtype=jnp.int32), num)


def _search(keys: jax.Array, offsets: np.ndarray) -> jax.Array:
    num = keys.shape[0]
    cells = decode(keys)[None] + jnp.asarray(offsets, jnp.int32)[:, None]
    inside = jnp.all((cells >= 0) & (cells < CELLS), -1) & is_voxel(keys)
    wanted = jnp.where(inside, encode(jnp.where(inside[..., None], cells, 0)), -1)
    at = jnp.searchsorted(keys, wanted.reshape(-1)).astype(jnp.int32).reshape(wanted.shape)
    at = jnp.minimum(at, num - 1)
    return jnp.where(keys[at] == wanted, at, num)


def parents(keys: jax.Array, capacity: int) -> Parents:
    """The voxels of twice the size: Morton order is hierarchical, so nothing is sorted again.

    Args:
        keys: int32 [V], ascending.
        capacity: P, rows of the result.
    """
    _check_capacity(capacity)
    num = keys.shape[0]
    valid = is_voxel(keys)
    kept, ids, dropped = _distinct(jnp.where(valid, keys >> 3, SENTINEL), capacity)
    slot = jnp.where(valid, keys & 7, 0)
    at = jnp.where(ids < capacity, ids * 8 + slot, capacity * 8)
    children = jnp.full(capacity * 8, num, jnp.int32)
    children = children.at[at].set(jnp.arange(num, dtype=jnp.int32), mode="drop")
    return Parents(kept, ids, slot, children.reshape(capacity, 8), dropped)


def refine(keys: jax.Array, table: jax.Array, family: Parents, size: int) -> jax.Array:
    """Neighbours of voxels from those of their parents: two look-ups each, no search.

    Offsets up to 2 lead from a child into the parent's own 3^3 neighbourhood. Equal to
    ``neighbours(keys, cube(size))`` as long as every parent found a place; a voxel without one has
    itself alone.

    Args:
        keys: int32 [V], ascending.
        table: int32 [27, P], ``neighbours(family.keys, cube(3))``.
        family: ``parents(keys, P)``.
        size: 3 or 5.

    Returns:
        int32 [size^3, V], V where there is none.
    """
    if size not in (3, 5):
        raise ValueError(f"size: expected 3 or 5, found {size}")
    num, (count, capacity) = keys.shape[0], table.shape
    if count != 27 or family.children.shape != (capacity, 8):
        raise ValueError(
            f"table: expected [27, {family.children.shape[0]}], found {list(table.shape)}"
        )
    table = jnp.pad(table.T, ((0, 1), (0, 0)), constant_values=capacity)
    children = jnp.pad(family.children, ((0, 1), (0, 0)), constant_values=num)
    around = children[table].reshape(-1)  # [P + 1, 27, 8]: all cells about each parent
    where = jnp.asarray(_within(size))[:, family.slot]  # [K, V]
    found = around[family.ids * 216 + where]
    return found.at[size**3 // 2].set(_itself(keys))


def _within(size: int) -> np.ndarray:
    """int32 [K, 8]: where, among the 27 x 8 cells about its parent, a child's neighbours are."""
    bits = np.stack([np.arange(8) >> 2, np.arange(8) >> 1 & 1, np.arange(8) & 1], -1)
    cells = cube(size)[:, None] + bits[None]  # [K, 8, 3], counted from the parent's corner
    block = ((cells >> 1) + 1) @ np.array([9, 3, 1])
    return (block * 8 + (cells & 1) @ np.array([4, 2, 1])).astype(np.int32)


def _check_xyz(xyz: jax.Array, mask: jax.Array | None):
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"xyz: expected one cloud [N, 3], found {list(xyz.shape)}; vmap batches")
    if mask is not None and mask.shape != xyz.shape[:1]:
        raise ValueError(f"mask: expected [{xyz.shape[0]}], found {list(mask.shape)}")


def _check_size(size):
    if isinstance(size, int | float) and not size > 0:
        raise ValueError(f"size: expected a positive length, found {size}")


def _check_capacity(capacity: int):
    if capacity < 1:
        raise ValueError(f"capacity: expected at least 1, found {capacity}")
