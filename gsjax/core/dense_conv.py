"""Convolutions of voxel sets on a dense grid: the definition that ``core.sparse_conv`` is tested
against, and an alternative to it for grids of up to 128 cells an axis on machines that multiply faster
than they look up.

Features are scattered to a grid, convolved by ``lax.conv_general_dilated`` and read back at the active
voxels. Voxels beyond the grid take no part: their outputs are zero (``inside`` tells which).
"""

import jax
import jax.numpy as jnp

from gsjax.core import voxels

MAX_SIDE = 128
_LAYOUT = ("NDHWC", "DHWIO", "NDHWC")


def inside(keys: jax.Array, side: int) -> jax.Array:
    """bool, like ``keys``: voxels (no fillers) within a grid of ``side`` cells an axis."""
    _check_side(side)
    return voxels.is_voxel(keys) & jnp.all(voxels.decode(keys) < side, -1)


def to_grid(feat: jax.Array, keys: jax.Array, side: int) -> jax.Array:
    """feat [B, V, C] at keys int32 [B, V] -> [B, side, side, side, C], zeros elsewhere."""
    if feat.ndim != 3 or keys.shape != feat.shape[:2]:
        raise ValueError(
            f"feat, keys: expected [B, V, C] and [B, V], found {list(feat.shape)} and "
            f"{list(keys.shape)}"
        )
    at = _cells(keys, side)
    grid = jnp.zeros((side**3, feat.shape[-1]), feat.dtype)
    grids = jax.vmap(lambda f, i: grid.at[i].set(f, mode="drop"))(feat, at)
    return grids.reshape(-1, side, side, side, feat.shape[-1])


def from_grid(grid: jax.Array, keys: jax.Array) -> jax.Array:
    """grid [B, side, side, side, C] -> [B, V, C] at keys int32 [B, V]; zeros for all not inside."""
    side = grid.shape[1]
    rows = grid.reshape(grid.shape[0], side**3, grid.shape[-1])
    at = _cells(keys, side)
    values = jax.vmap(lambda g, i: g[jnp.minimum(i, side**3 - 1)])(rows, at)
    return jnp.where((at < side**3)[..., None], values, 0)


def _cells(keys: jax.Array, side: int) -> jax.Array:
    """Row of each voxel in the flattened grid, side^3 for all that are not inside."""
    cells = jnp.minimum(voxels.decode(keys), side - 1)
    flat = (cells[..., 0] * side + cells[..., 1]) * side + cells[..., 2]
    return jnp.where(inside(keys, side), flat, side**3)


def submanifold(feat: jax.Array, keys: jax.Array, kernel: jax.Array, side: int) -> jax.Array:
    """As ``sparse_conv.submanifold``.

    Args:
        feat: [B, V, C]; rows of fillers may hold anything finite.
        keys: int32 [B, V].
        kernel: [s^3, C, D].
        side: of the grid, at most 128.

    Returns:
        [B, V, D].
    """
    size = round(kernel.shape[0] ** (1 / 3))
    return from_grid(_conv(to_grid(feat, keys, side), kernel, size, 1), keys)


def strided(
    feat: jax.Array, keys: jax.Array, parent_keys: jax.Array, kernel: jax.Array, side: int
) -> jax.Array:
    """As ``sparse_conv.strided``: [B, V, C] at ``keys`` -> [B, P, D] at ``parent_keys``.

    ``side`` is that of the finer grid and even.
    """
    if side % 2:
        raise ValueError(f"side: expected an even number, found {side}")
    return from_grid(_conv(to_grid(feat, keys, side), kernel, 2, 2), parent_keys)


def inverse(
    coarse: jax.Array, parent_keys: jax.Array, keys: jax.Array, kernel: jax.Array, side: int
) -> jax.Array:
    """As ``sparse_conv.inverse``: [B, P, C] at ``parent_keys`` -> [B, V, D] at ``keys``.

    ``side`` is that of the finer grid and even.
    """
    if side % 2:
        raise ValueError(f"side: expected an even number, found {side}")
    grid = to_grid(coarse, parent_keys, side // 2)
    # A transposed convolution of lax correlates with the kernel as given; children count upwards.
    kernel = _dense(kernel, 2)[::-1, ::-1, ::-1].astype(coarse.dtype)
    up = jax.lax.conv_transpose(grid, kernel, (2, 2, 2), "VALID", dimension_numbers=_LAYOUT)
    return from_grid(up, keys)


def _conv(grid: jax.Array, kernel: jax.Array, size: int, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        grid,
        _dense(kernel, size).astype(grid.dtype),
        (stride,) * 3,
        "SAME" if stride == 1 else "VALID",
        dimension_numbers=_LAYOUT,
    )


def _dense(kernel: jax.Array, size: int) -> jax.Array:
    if kernel.ndim != 3 or kernel.shape[0] != size**3:
        raise ValueError(f"kernel: expected [{size}^3, C, D], found {list(kernel.shape)}")
    return kernel.reshape(size, size, size, *kernel.shape[1:])


def _check_side(side: int):
    if not 1 <= side <= MAX_SIDE:
        raise ValueError(f"side: expected 1 to {MAX_SIDE}, found {side}; use core.sparse_conv")
