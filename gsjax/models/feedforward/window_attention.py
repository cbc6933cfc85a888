"""Attention within the windows of a map, to one map or to several at the same places; shifted windows
after Swin Transformer (arXiv 2103.14030), positions after DETR (arXiv 2005.12872)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Added to the logits of cells that the shift has brought together from opposite borders.
MASKED = -100.0


@functools.lru_cache(maxsize=64)
def sine_position(height: int, width: int, channels: int, temperature: float = 1e4) -> np.ndarray:
    """Sines and cosines of row and column, each counted from 1 and scaled to 2 pi: [H, W, C] float32.

    The first half of the channels belongs to the row, the second to the column; sine and cosine of one
    frequency alternate.

    Raises:
        ValueError: channels is no multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels: expected a multiple of 4, found {channels}")
    half = channels // 2
    wavelength = temperature ** (2 * (np.arange(half) // 2) / half)

    def encode(size):
        angle = np.arange(1, size + 1) / (size + 1e-6) * 2 * np.pi
        angle = angle[:, None] / wavelength
        return np.where(np.arange(half) % 2, np.cos(angle), np.sin(angle))

    rows = np.broadcast_to(encode(height)[:, None], (height, width, half))
    columns = np.broadcast_to(encode(width)[None], (height, width, half))
    return np.concatenate((rows, columns), -1).astype(np.float32)


def split_windows(x: jax.Array, splits: int) -> jax.Array:
    """[..., H, W, C] to [..., splits^2, H W / splits^2, C]; windows and their cells row by row.

    Raises:
        ValueError: a side is no multiple of splits.
    """
    *leading, height, width, channels = x.shape
    if height % splits or width % splits:
        raise ValueError(
            f"x: sides {height} x {width} are no multiples of splits={splits}; pad or crop the "
            "pictures so that their feature maps are"
        )
    h, w = height // splits, width // splits
    x = jnp.swapaxes(x.reshape(*leading, splits, h, splits, w, channels), -4, -3)
    return x.reshape(*leading, splits * splits, h * w, channels)


def merge_windows(x: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of ``split_windows``: [..., S, L, C] to [..., H, W, C]."""
    *leading, windows, _, channels = x.shape
    splits = int(round(windows**0.5))
    x = x.reshape(*leading, splits, splits, height // splits, width // splits, channels)
    return jnp.swapaxes(x, -4, -3).reshape(*leading, height, width, channels)


@functools.lru_cache(maxsize=64)
def shift_mask(height: int, width: int, splits: int) -> np.ndarray:
    """What is added to the logits of shifted windows: float32 [splits^2, L, L], 0 or -100.

    After the map is rolled by half a window, cells of the last windows that were not neighbours before
    have different labels, and do not attend to one another.
    """

    def labels(size):
        window = size // splits
        index = np.arange(size)
        return (index >= size - window).astype(int) + (index >= size - window // 2)

    label = 3 * labels(height)[:, None] + labels(width)
    h, w = height // splits, width // splits
    label = label.reshape(splits, h, splits, w).swapaxes(1, 2).reshape(splits * splits, h * w)
    return np.where(label[:, :, None] == label[:, None, :], 0.0, MASKED).astype(np.float32)


def window_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, splits: int, shift: bool
) -> jax.Array:
    """Attention of one head of each cell to the cells of its window, in M maps together.

    Args:
        q: [N, H, W, C].
        k: [N, M, H, W, C].
        v: [N, M, H, W, C].
        splits: windows along each side; 1 is attention to whole maps, without shift.
        shift: whether windows lie half a window further down and right, around the borders.

    Returns:
        [N, H, W, C] of q's type; logits and softmax are float32 at least.
    """
    height, width, channels = q.shape[-3:]
    rows, columns = height // splits // 2, width // splits // 2
    shift = shift and splits > 1
    if shift:
        q, k, v = (jnp.roll(x, (-rows, -columns), (-3, -2)) for x in (q, k, v))
    q, k, v = (split_windows(x, splits) for x in (q, k, v))  # [N, S, L, C], [N, M, S, L, C] twice
    exact = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("nslc,nmsjc->nslmj", q, k, preferred_element_type=exact)
    logits = logits * channels**-0.5
    if shift:
        logits = logits + shift_mask(height, width, splits)[:, :, None, :].astype(exact)
    shares = jax.nn.softmax(logits.reshape(*logits.shape[:3], -1), axis=-1)
    shares = shares.reshape(logits.shape).astype(v.dtype)
    mixed = merge_windows(jnp.einsum("nslmj,nmsjc->nslc", shares, v), height, width)
    return jnp.roll(mixed, (rows, columns), (-3, -2)) if shift else mixed
