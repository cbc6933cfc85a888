"""Loads and saves splats by file extension; the formats themselves are in ply.py and splat.py."""

import numpy as np
from etils import epath

from gsjax.io import ply, splat

FORMATS = {".ply": ply, ".splat": splat}


def _format_of(path: epath.PathLike):
    suffix = epath.Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"path: unknown extension {suffix!r} of {path}; known are {sorted(FORMATS)}"
        )
    return FORMATS[suffix]


def load_gaussians(path: epath.PathLike, *, on_bad_rows: str = "error") -> dict[str, np.ndarray]:
    """Reads a .ply or .splat file.

    Args:
      path: local, gs:// or s3:// file.
      on_bad_rows: 'error', or 'drop' to leave out unusable rows (their number is logged).

    Returns:
      A dict of float32 arrays for ``gsjax.RawGaussians(**d)``: means [N, 3], quats [N, 4] wxyz,
      log_scales [N, 3], logit_opacities [N], sh [N, K, 3].

    Raises:
      ValueError: unknown extension, or (as its subclass ``records.SplatFormatError``) a bad file.
    """
    return _format_of(path).read(path, on_bad_rows=on_bad_rows)


def load_gaussians_counted(
    path: epath.PathLike, *, on_bad_rows: str = "error"
) -> tuple[dict[str, np.ndarray], int]:
    """Like ``load_gaussians``; also returns how many unusable rows were dropped."""
    return _format_of(path).read_counted(path, on_bad_rows=on_bad_rows)


def save_gaussians(path: epath.PathLike, gaussians, **options):
    """Writes a .ply or .splat file atomically.

    Args:
      path: target file; its folder must exist.
      gaussians: a ``RawGaussians`` or a mapping with its fields, without leading axes.
      **options: of ``ply.write`` (normals) or ``splat.write`` (drop_sh).

    Raises:
      ValueError: unknown extension, or a scene that the format cannot hold.
    """
    _format_of(path).write(path, gaussians, **options)
