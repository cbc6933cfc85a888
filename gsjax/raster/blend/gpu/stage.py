"""Shapes of what `warp` keeps in shared memory; both sets of operations agree on them."""

from typing import NamedTuple

from gsjax.raster.blend.gpu import tile as tile_math

BLOCKS = 4
"""8 x 8 blocks of a tile, one a warp."""

WARP = 32

# Words of a list: 32 entries, padding to a multiple of the unrolling, the count in the last word.
LIST_WORDS = WARP + 4

_COEFFICIENTS = 7  # six of the polynomial, and the exponent's peak


class Stage(NamedTuple):
    """One batch of list entries in shared memory; static.

    Attributes:
      batch: entries, a multiple of 32, at most the 128 threads.
      channels: features a Gaussian.
      extra: sums over pixels beside those of the geometry and of the features.
      unroll: entries a warp takes at a time, 1, 2 or 4.
    """

    batch: int
    channels: int
    extra: int = 0
    unroll: int = 2

    @property
    def values(self) -> int:
        """Numbers of a staged Gaussian: coefficients, peak, features."""
        return _COEFFICIENTS + self.channels

    @property
    def row(self) -> int:
        return tile_math.padded(self.values)

    @property
    def rows_shape(self) -> tuple[int]:
        """Staged Gaussians and one that is never visible."""
        return ((self.batch + 1) * self.row,)

    @property
    def groups(self) -> int:
        """Lists a block has: one for every 32 entries."""
        return self.batch // WARP

    @property
    def lists_shape(self) -> tuple[int]:
        return (BLOCKS * self.groups * LIST_WORDS,)

    @property
    def sums(self) -> int:
        """Sums over a block's pixels: (1, x, x^2, y, xy, y^2) times q, features, others."""
        return tile_math.GEOMETRY + self.channels + self.extra

    @property
    def sums_row(self) -> int:
        return tile_math.padded(self.sums)

    @property
    def sums_shape(self) -> tuple[int]:
        """One row a block and staged Gaussian, rounded up to 16 bytes a thread."""
        size = BLOCKS * (self.batch + 1) * self.sums_row
        step = 4 * tile_math.THREADS
        return (-(-size // step) * step,)
