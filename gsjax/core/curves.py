"""Integer keys that order points along an axis, the Z-order (Morton) curve or the Hilbert curve.

Sorting by a key is up to the caller. Keys use 3 x ``bits`` bits of a uint32.
"""

import jax
import jax.numpy as jnp

MAX_BITS = 10


def _check_bits(bits: int):
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits: expected 1 to {MAX_BITS} (3 x bits fit a uint32), found {bits}")


def _check_grid(q: jax.Array):
    if q.shape[-1:] != (3,) or q.dtype != jnp.uint32:
        raise ValueError(
            f"q: expected uint32 [..., 3] from quantize(), found {q.dtype} {list(q.shape)}"
        )


def quantize(coords: jax.Array, bits: int, lo: jax.Array, hi: jax.Array) -> jax.Array:
    """Cells of a regular grid of 2^bits per axis.

    Args:
      coords: [..., 3]; values outside [lo, hi] go to the border cell, NaN to cell 0.
      bits: 1 to 10.
      lo: lower corner, broadcast against coords.
      hi: upper corner; an axis with hi <= lo has the single cell 0.

    Returns:
      uint32 [..., 3] below 2^bits.
    """
    _check_bits(bits)
    extent = jnp.asarray(hi - lo)
    unit = jnp.where(extent > 0, (coords - lo) / jnp.where(extent > 0, extent, 1.0), 0.0)
    unit = jnp.where(jnp.isnan(unit), 0.0, jnp.clip(unit, 0.0, 1.0))
    cells = jnp.floor(unit * (1 << bits)).astype(jnp.int32)
    return jnp.minimum(cells, (1 << bits) - 1).astype(jnp.uint32)


def axis_key(q: jax.Array, axis: int, bits: int = MAX_BITS) -> jax.Array:
    """Lexicographic keys: first by ``axis``, then by the two that follow it cyclically.

    Args:
      q: uint32 [..., 3] below 2^bits.
      axis: 0, 1 or 2.
      bits: 1 to 10.

    Returns:
      uint32 [...].
    """
    _check_bits(bits)
    _check_grid(q)
    if axis not in (0, 1, 2):
        raise ValueError(f"axis: expected 0, 1 or 2, found {axis!r}")
    first, second, third = (q[..., (axis + i) % 3] for i in range(3))
    return (first << (2 * bits)) | (second << bits) | third


def _spread(x: jax.Array) -> jax.Array:
    """Moves bit i (i < 10) to bit 3i."""
    for shift, keep in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        x = (x | (x << shift)) & jnp.uint32(keep)
    return x


def morton_key(q: jax.Array, bits: int = MAX_BITS) -> jax.Array:
    """Z-order keys: the bits of x, y, z interleaved, x most significant.

    Args:
      q: uint32 [..., 3] below 2^bits.
      bits: 1 to 10.

    Returns:
      uint32 [...].
    """
    _check_bits(bits)
    _check_grid(q)
    return (_spread(q[..., 0]) << 2) | (_spread(q[..., 1]) << 1) | _spread(q[..., 2])


def hilbert_key(q: jax.Array, bits: int = MAX_BITS) -> jax.Array:
    """Positions along the Hilbert curve through the grid: neighbours on it are grid neighbours.

    Skilling's transpose algorithm ("Programming the Hilbert curve", AIP Conf. Proc. 707, 2004),
    each test on a bit being a select.

    Args:
      q: uint32 [..., 3] below 2^bits.
      bits: 1 to 10; keys of different ``bits`` are not comparable.

    Returns:
      uint32 [...].
    """
    _check_bits(bits)
    _check_grid(q)
    words = [q[..., 0], q[..., 1], q[..., 2]]
    for level in range(bits - 1, 0, -1):
        low = jnp.uint32((1 << level) - 1)
        for axis in range(3):
            is_set = (words[axis] >> level) & 1 == 1
            swap = jnp.where(is_set, jnp.uint32(0), (words[0] ^ words[axis]) & low)
            # Bit set: invert the low bits of x. Else: exchange those of x and this axis.
            words[0] = words[0] ^ jnp.where(is_set, low, swap)
            if axis:
                words[axis] = words[axis] ^ swap
    words[1] = words[1] ^ words[0]
    words[2] = words[2] ^ words[1]
    flip = jnp.zeros_like(words[2])
    for level in range(bits - 1, 0, -1):
        low = jnp.uint32((1 << level) - 1)
        flip = flip ^ jnp.where((words[2] >> level) & 1 == 1, low, jnp.uint32(0))
    return morton_key(jnp.stack([word ^ flip for word in words], axis=-1), bits)
