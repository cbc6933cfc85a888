"""Plain coloured point clouds in PLY files, the seeds of a scene's Gaussians.

Read only; Gaussians are ``ply``'s business. Columns ``x y z`` are needed, ``red green blue`` are
taken where all three are there.
"""

from pathlib import Path

import numpy as np

from gsjax.io import ply, records


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
    if not {"red", "green", "blue"} <= set(kinds):
        return points, None
    colors = np.stack([rows[c] for c in ("red", "green", "blue")], axis=1)
    if kinds["red"].startswith("f"):
        colors = np.rint(np.clip(colors, 0, 1) * 255)
    return points, np.clip(colors, 0, 255).astype(np.uint8)
