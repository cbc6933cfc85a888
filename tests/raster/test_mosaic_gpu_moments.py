"""The sums by matrix products, computed with 32 emulated lanes.

Fragments are those of the PTX ISA for mma.m16n8k8 with tf32 operands; the code under test is the
one that emits instructions on a GPU.
"""

import numpy as np
import pytest

from gsjax.raster.blend.gpu import moments
from gsjax.raster.blend.gpu import tile as tile_math

LANE = np.arange(32)
GROUP, QUAD = LANE // 4, LANE % 4


class _Lanes:
    """`machine` of `block_sums`: a number is an array of one value a lane."""

    @staticmethod
    def const(value):
        return np.full(32, value, np.float32)

    to_float = staticmethod(np.float32)
    add = staticmethod(np.add)
    multiply = staticmethod(np.multiply)
    select = staticmethod(np.where)
    equals = staticmethod(np.equal)
    less = staticmethod(np.less)
    plus = staticmethod(np.add)
    both = staticmethod(np.logical_and)
    either = staticmethod(np.logical_or)
    integer = staticmethod(np.int32)

    @staticmethod
    def split(number):
        high = _tf32(number)
        return high, number - high

    @staticmethod
    def mma(a, b, d):
        left, right = np.zeros((16, 8), np.float32), np.zeros((8, 8), np.float32)
        left[GROUP, QUAD], left[GROUP + 8, QUAD] = _tf32(a[0]), _tf32(a[1])
        left[GROUP, QUAD + 4], left[GROUP + 8, QUAD + 4] = _tf32(a[2]), _tf32(a[3])
        right[QUAD, GROUP], right[QUAD + 4, GROUP] = _tf32(b[0]), _tf32(b[1])
        out = np.zeros((16, 8), np.float32)
        spots = [(GROUP + 8 * (k // 2), 2 * QUAD + k % 2) for k in range(4)]
        for spot, number in zip(spots, d):
            out[spot] = number
        for k in range(8):  # accumulation in float32
            out = (out + left[:, k, None] * right[k]).astype(np.float32)
        return [out[spot] for spot in spots]


def _tf32(number):
    """The bits of a float32 that a tensor core reads."""
    bits = np.asarray(number, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    return bits.view(np.float32)


def _sums(warp, q, shares, machine=_Lanes):
    """Row of sums that the lanes of a warp store."""
    origin = [np.full(32, v, np.float32) for v in (8 * (warp % 2) - 7.5, 8 * (warp // 2) - 7.5)]
    tiles = moments.block_sums(machine, GROUP, QUAD, origin, q, shares)
    assert len(tiles) == moments.num_tiles(len(shares))
    row, times = np.zeros(6 + len(shares)), np.zeros(6 + len(shares), int)
    for here, place, number in moments.stores(machine, GROUP, QUAD, tiles, len(shares)):
        np.add.at(times, np.broadcast_to(place, 32)[here], 1)
        row[np.broadcast_to(place, 32)[here]] = number[here]
    assert np.all(times == 1)  # every sum is stored once
    return row


@pytest.mark.parametrize("channels", [0, 3, 5, 13, 14, 32])
def test_products_give_the_sums_over_a_block(channels):
    rng = np.random.default_rng(channels)
    for warp in range(4):
        pixel = 64 * warp + 2 * LANE
        x, y = np.stack([tile_math.pixel_offsets(pixel + k) for k in (0, 1)], 1) - 7.5  # [2, 32]
        scale = np.exp(2 * rng.normal(size=(1 + channels, 2, 32)))
        q, *shares = (rng.normal(size=scale.shape) * scale).astype(np.float32)
        row = _sums(warp, q, shares)
        basis = np.ones_like(x), x, x * x, y, x * y, y * y
        for found, terms in zip(row, [*(q * b for b in basis), *shares], strict=True):
            terms = terms.astype(np.float64)
            assert abs(found - terms.sum()) <= 2e-6 * np.abs(terms).sum()


def test_one_part_would_not_do():
    """What the split is for: a single tf32 operand is off by a thousandth."""

    class Single(_Lanes):
        @staticmethod
        def split(number):
            return (number,)

    q = np.random.default_rng(0).uniform(size=(2, 32)).astype(np.float32)
    assert abs(_sums(0, q, [], Single)[0] / q.sum() - 1) > 1e-4
    assert abs(_sums(0, q, [])[0] / q.sum() - 1) < 1e-6
