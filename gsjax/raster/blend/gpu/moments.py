"""Sums over the 64 pixels of a warp's block by tensor-core products, written for any machine.

A warp holds one number a pixel, two a lane, in the layout of matrix B of mma.m16n8k8 (PTX ISA,
"Matrix fragments for mma.m16n8k8"): column n = x, row k = y. The first product, with a matrix A
whose rows are 1, y and y^2, or ones in the row of one feature, gives sums over y for each x; the
second, of that with the columns 1, x and x^2, gives sums over the block.

Operands are rounded to tf32 (11 bits). The bases are exact in it: half integers up to 7.5 and their
squares. The data are split in two such parts, which leaves an error of 2^-22 of the sum of
magnitudes. `machine` does the arithmetic of one lane: on the GPU it emits instructions, in tests it
computes with numpy.
"""

from collections.abc import Sequence

_ROWS = 16  # of an accumulator tile
_POWERS = 3  # rows of tile 0 before its features: 1, y, y^2


def num_tiles(channels: int) -> int:
    """Accumulator tiles that the sums of so many features need."""
    return -(-(_POWERS + channels) // _ROWS)


def block_sums(machine, group, quad, origin, q: Sequence, shares: Sequence[Sequence]) -> list:
    """Accumulator tiles with all sums.

    Args:
      machine: const, add, multiply, select(condition, yes, no), equals(integer, k), to_float, split
        (a number into two tf32 parts) and mma(a, b, d) -> d + a b in fragments.
      group, quad: lane // 4 and lane % 4, integers of the machine.
      origin: x and y of the block's first pixel, numbers of the machine: half integers from the
        tile's centre.
      q: the lane's two pixels (y = quad and quad + 4 of column x = group).
      shares: X pairs alike.

    Returns:
      Tiles e, four numbers each: e[0] is row ``group`` and column 2 quad, e[1] the next column, e[2]
      and e[3] those of row group + 8. Rows 0 to 2 of the first tile hold q y^row, the rows from 3 on,
      through all tiles, the shares; column n holds the sum times x^n, n = 0, 1, 2.
    """
    m = machine
    zero, one = m.const(0.0), m.const(1.0)

    def power(exponent, value):
        square = m.select(m.equals(exponent, 2), m.multiply(value, value), zero)
        return m.select(m.equals(exponent, 0), one, m.select(m.equals(exponent, 1), value, square))

    def accumulate(total, a, values):
        for part in zip(*(m.split(v) for v in values)):
            total = m.mma(a, part, total)
        return total

    y = m.add(origin[1], m.to_float(quad))
    x = m.add(origin[0], m.add(m.to_float(quad), m.to_float(quad)))
    tiles = [[zero] * 4 for _ in range(num_tiles(len(shares)))]
    tiles[0] = accumulate(
        tiles[0], [power(group, y), zero, power(group, m.add(y, m.const(4.0))), zero], q
    )
    for k, values in enumerate(shares):
        tile, row = divmod(_POWERS + k, _ROWS)
        mark = m.select(m.equals(group, row % 8), one, zero)
        a = [zero, mark, zero, mark] if row >= 8 else [mark, zero, mark, zero]
        tiles[tile] = accumulate(tiles[tile], a, values)

    # Column 2 quad of an accumulator becomes column quad of the next product's matrix A, and column
    # 2 quad + 1 column quad + 4: the sum over x runs in another order.
    basis = [power(group, x), power(group, m.add(x, one))]

    def over_x(tile):
        total = [zero] * 4
        for part in zip(*(m.split(v) for v in tile)):
            total = m.mma([part[0], part[2], part[1], part[3]], basis, total)
        return total

    return [over_x(tile) for tile in tiles]


def stores(machine, group, quad, tiles: list, channels: int):
    """Where the lanes put the sums of `block_sums`: (1, x, x^2, y, xy, y^2) times q, then features.

    Args:
      machine: also integer, plus(integer, k), less(integer, k), both and either of two conditions.
      group, quad, tiles: as of `block_sums`.
      channels: X.

    Yields:
      Condition, place in the row of 6 + X sums, number: what a lane stores.
    """
    m = machine
    first_column, rows = m.equals(quad, 0), _POWERS + channels
    for k, tile in enumerate(tiles):
        for half, number in enumerate(tile[::2]):
            start = _ROWS * k + 8 * half
            if start >= rows:
                break
            place = m.plus(group, start + 3)  # of row 2, y^2, and of features
            here = m.both(first_column, m.less(group, rows - start))
            if start == 0:
                square = m.both(m.equals(quad, 1), m.equals(group, 0))  # column 2 of row 0
                here = m.either(here, square)
                place = m.select(m.equals(group, 1), m.integer(3), place)
                place = m.select(m.equals(group, 0), m.integer(0), place)
                place = m.select(square, m.integer(2), place)
            yield here, place, number
    place = m.select(m.equals(group, 0), m.integer(1), m.integer(4))  # column 1: x and xy
    yield m.both(first_column, m.less(group, 2)), place, tiles[0][1]
