"""Loads and saves splats by file name; the formats themselves are in the modules beside this one.

``.compressed.ply`` and ``.ply`` are told apart by their header where they are read and by their name
where they are written.
"""

import numpy as np
from etils import epath

from gsjax.io import compressed_ply, gaussian_array, ply, splat, spz

FORMATS = {".compressed.ply": compressed_ply, ".ply": ply, ".splat": splat, ".spz": spz}
# Endings of much else besides: such files are read where they are named, not looked for in folders.
NAMED_FORMATS = {".npy": gaussian_array, ".pkl": gaussian_array}


def _format_of(path: epath.PathLike):
    """The module for a name, by its longest known ending."""
    known = FORMATS | NAMED_FORMATS
    name = epath.Path(path).name.lower()
    for ending in sorted(known, key=len, reverse=True):
        if name.endswith(ending):
            return known[ending]
    raise ValueError(
        f"path: unknown extension {epath.Path(path).suffix.lower()!r} of {path}; known are "
        f"{sorted(known)}"
    )


def _format_of_file(path: epath.PathLike):
    """The module that reads a file: by name, and by header among the kinds of PLY."""
    module = _format_of(path)
    if module in (ply, compressed_ply):
        return compressed_ply if compressed_ply.is_compressed(path) else ply
    return module


def load_gaussians(
    path: epath.PathLike, *, on_bad_rows: str = "error", **options
) -> dict[str, np.ndarray]:
    """Reads a .ply, .compressed.ply, .splat or .spz file, a .npy table or a .pkl record of UniGS.

    Args:
      path: local, gs:// or s3:// file.
      on_bad_rows: 'error', or 'drop' to leave out unusable rows (their number is logged).
      **options: of ``spz.read`` (axes).

    Returns:
      A dict of float32 arrays for ``gsjax.RawGaussians(**d)``: means [N, 3], quats [N, 4] wxyz,
      log_scales [N, 3], logit_opacities [N], sh [N, K, 3].

    Raises:
      ValueError: unknown extension, or (as its subclass ``records.SplatFormatError``) a bad file.
      ImportError: the file needs a package that an extra of gsjax installs; the message names it.
    """
    return load_gaussians_counted(path, on_bad_rows=on_bad_rows, **options)[0]


def load_gaussians_counted(
    path: epath.PathLike, *, on_bad_rows: str = "error", **options
) -> tuple[dict[str, np.ndarray], int]:
    """Like ``load_gaussians``; also returns how many unusable rows were dropped."""
    return _format_of_file(path).read_counted(path, on_bad_rows=on_bad_rows, **options)


def save_gaussians(path: epath.PathLike, gaussians, **options):
    """Writes a .ply, .compressed.ply, .splat, .spz or .npy file atomically.

    Args:
      path: target file; its folder must exist.
      gaussians: a ``RawGaussians`` or a mapping with its fields, without leading axes.
      **options: of ``ply.write`` (normals), ``compressed_ply.write`` (drop_sh, keep_order),
        ``splat.write`` (drop_sh) or ``spz.write`` (version, axes, fractional_bits, sh_bits,
        antialiased, drop_sh).

    Raises:
      ValueError: unknown or read-only extension, or a scene that the format cannot hold.
    """
    _format_of(path).write(path, gaussians, **options)
