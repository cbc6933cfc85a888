"""Windowed attention against attention over whole maps with a mask written from the geometry."""

import jax
import numpy as np
import pytest

from gsjax.models.feedforward import window_attention

H, W, C, M = 8, 4, 3, 2


def _brute(q, k, v, splits, shift):
    """Each cell attends to the cells of its (shifted) window; across the border with -100."""
    rows, columns = (H // splits // 2, W // splits // 2) if shift else (0, 0)

    def place(y, x):
        """(window, piece of the window) of a cell: pieces are what the border cuts a window into."""
        ry, rx = (y - rows) % H, (x - columns) % W
        window = (ry // (H // splits), rx // (W // splits))
        return window, (y < rows, x < columns)

    cells = [(y, x) for y in range(H) for x in range(W)]
    out = np.zeros((H, W, C))
    for y, x in cells:
        logits, values = [], []
        for m in range(M):
            for r, c in cells:
                (window, piece), (other, other_piece) = place(y, x), place(r, c)
                if window != other:
                    continue
                mask = 0.0 if piece == other_piece else -100.0
                logits.append(q[y, x] @ k[m, r, c] / np.sqrt(C) + mask)
                values.append(v[m, r, c])
        shares = np.exp(np.asarray(logits) - max(logits))
        out[y, x] = shares / shares.sum() @ np.asarray(values)
    return out


@pytest.mark.parametrize("splits, shift", [(2, False), (2, True), (1, True)])
def test_equals_brute_force_masked_attention(splits, shift):
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(H, W, C)), *rng.normal(size=(2, M, H, W, C))
    with jax.enable_x64(True):
        attend = jax.jit(window_attention.window_attention, static_argnames=("splits", "shift"))
        found = attend(q[None], k[None], v[None], splits=splits, shift=shift)[0]
    np.testing.assert_allclose(found, _brute(q, k, v, splits, shift and splits > 1), atol=1e-12)


def test_windows_are_cut_and_merged():
    x = np.arange(H * W).reshape(H, W, 1)
    windows = window_attention.split_windows(x, 2)
    assert windows.shape == (4, 8, 1)
    assert windows[1, :3, 0].tolist() == [2, 3, 6]
    np.testing.assert_array_equal(window_attention.merge_windows(windows, H, W), x)
    with pytest.raises(ValueError, match="sides 8 x 4 are no multiples of splits=3"):
        window_attention.split_windows(x, 3)


def test_windows_of_one_cell_need_no_shift():
    assert not window_attention.shift_mask(2, 2, 2).any()


def test_sine_position_by_hand():
    found = window_attention.sine_position(3, 5, 8)
    row, column = 2 / (3 + 1e-6) * 2 * np.pi, 4 / (5 + 1e-6) * 2 * np.pi
    expected = [f(p / t) for p in (row, column) for t in (1, 1e4**0.5) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(found[1, 3], expected, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        window_attention.sine_position(3, 5, 6)
