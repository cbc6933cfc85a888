"""Plain coloured point clouds in PLY files: seeds of a scene's Gaussians, and clouds to look at.

Gaussians are ``ply``'s business. Columns ``x y z`` are needed, ``red green blue`` are taken where all
three are there.
"""

from pathlib import Path

import numpy as np
from etils import epath

from gsjax.io import ply, records

_COLORS = ("red", "green", "blue")


def read(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the vertices.

    Returns:
      points [M, 3] float64, colours [M, 3] uint8 or None. Colours of type float are in 0 .. 1.

    Raises:
      SplatFormatError: no PLY, no vertices with x, y and z, or truncated.
    """
    source, data = str(path), Path(path).read_bytes()
    order, elements, body = ply.parse_header(data, source)
    vertex = next((e for e in elements if e.name == "vertex"), None)
    kinds = {} if vertex is None else dict(vertex.columns)
    if not {"x", "y", "z"} <= set(kinds) or vertex.has_lists or not vertex.count:
        raise records.SplatFormatError(
            f"{source}: expected a point cloud: an element 'vertex' with x, y and z, one or more "
            f"of it; found {[(e.name, e.count) for e in elements]}, columns {list(kinds)}"
        )
    rows = (
        ply.ascii_rows(data[body:], elements, vertex, source)
        if order == "="
        else ply.binary_rows(data, body, order, elements, vertex, source)
    )
    points = np.stack([rows[c] for c in "xyz"], axis=1).astype(np.float64)
    if not set(_COLORS) <= set(kinds):
        return points, None
    colors = np.stack([rows[c] for c in _COLORS], axis=1)
    if kinds["red"].startswith("f"):
        colors = np.rint(np.clip(colors, 0, 1) * 255)
    return points, np.clip(colors, 0, 255).astype(np.uint8)


def write(path: epath.PathLike, points: np.ndarray, colors: np.ndarray | None = None):
    """Writes points as a binary little-endian PLY, atomically: float32 places, bytes for colours.

    Args:
      path: target file; its folder must exist.
      points: [M, 3], finite, M at least 1.
      colors: uint8 [M, 3] or None.

    Raises:
      ValueError: other shapes or types, no points, or points that are not finite.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"points: expected shape [M, 3], M at least 1, found {list(points.shape)}")
    bad = int((~np.isfinite(points)).any(1).sum())
    if bad:
        raise ValueError(f"points: {bad} of {len(points)} are not finite; leave them out")
    columns = [(name, "<f4") for name in "xyz"]
    if colors is not None:
        colors = np.asarray(colors)
        if colors.shape != points.shape or colors.dtype != np.uint8:
            raise ValueError(
                f"colors: expected uint8 {list(points.shape)}, found {colors.dtype} "
                f"{list(colors.shape)}"
            )
        columns += [(name, "u1") for name in _COLORS]
    table = np.empty(len(points), columns)
    for i, (name, _) in enumerate(columns):
        table[name] = points[:, i] if i < 3 else colors[:, i - 3]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in columns]
    header += ["end_header", ""]
    records.write_atomically(path, "\n".join(header).encode("ascii") + table.tobytes())
