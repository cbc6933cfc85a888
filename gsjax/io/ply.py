"""The 3D Gaussian splatting PLY: one vertex a Gaussian, raw (unactivated) parameters.

Columns are found by name, in any order and of any PLY number type; ``nx ny nz`` and unknown columns
are ignored. ``f_rest_*`` is channel-major: all red coefficients, then green, then blue. Not for
meshes, plain point clouds or PlayCanvas' compressed PLY, which get an error that says so.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from etils import epath

from gsjax.io import records

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_MAX_HEADER = 1 << 16
_END = re.compile(rb"\nend_header\r?\n")  # a line of its own: comments may speak of it
# Comment of a scene that was fitted with Mip-Splatting's 2D filter, to be rendered with it.
ANTIALIASED = "rasterize_mode antialiased"
_REST_COUNTS = {3 * (count - 1): count for count in records.SH_COUNTS}

_MEANS = ("x", "y", "z")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_REQUIRED = (*_MEANS, *_DC, "opacity", *_SCALES, *_QUATS)


@dataclasses.dataclass
class _Element:
    """One ``element`` of the header; ``columns`` is a list of (name, NumPy type code)."""

    name: str
    count: int
    columns: list[tuple[str, str]]
    has_lists: bool = False

    def dtype(self, order: str) -> np.dtype:
        return np.dtype([(name, order + code) for name, code in self.columns])


def read(path: epath.PathLike, *, on_bad_rows: str = "error") -> dict[str, np.ndarray]:
    """Reads a scene.

    Args:
      path: local, or any place that etils.epath reaches (gs://, s3://).
      on_bad_rows: 'error', or 'drop' to leave out rows with NaN, infinities or absurd scales (their
        number is logged; ``read_counted`` returns it).

    Returns:
      {means [N, 3], quats [N, 4] wxyz, log_scales [N, 3], logit_opacities [N], sh [N, K, 3]},
      float32, as stored (quaternions are not normalised).

    Raises:
      SplatFormatError: not a PLY, damaged header, wrong or missing columns, truncated or overlong
        data, zero Gaussians, or unusable rows.
    """
    return read_counted(path, on_bad_rows=on_bad_rows)[0]


def read_counted(
    path: epath.PathLike, *, on_bad_rows: str = "error"
) -> tuple[dict[str, np.ndarray], int]:
    """Like ``read``; also returns how many rows were dropped."""
    source, data = str(path), epath.Path(path).read_bytes()
    order, elements, body = parse_header(data, source)
    vertex = next((e for e in elements if e.name == "vertex"), None)
    if vertex is None:
        raise records.SplatFormatError(
            f"{source}: no 'vertex' element; found {[e.name for e in elements]}"
        )
    rest_count = _check_columns(vertex, elements, source)
    if order == "=":
        table = ascii_rows(data[body:], elements, vertex, source)
    else:
        table = binary_rows(data, body, order, elements, vertex, source)
    # Doubles beyond float32 become infinite here and are then reported as unusable rows.
    with np.errstate(over="ignore"):
        arrays = _to_arrays(table, rest_count)
    return records.clean(arrays, source, on_bad_rows)


def parse_header(data: bytes, source: str) -> tuple[str, list[_Element], int]:
    """(byte order or '=' for ascii, elements, offset of the body)."""
    if data[:3] != b"ply" or data[3:4] not in (b"\n", b"\r"):
        raise records.SplatFormatError(
            f"{source}: not a PLY file: it starts with {data[:16]!r}, expected 'ply' and a newline"
        )
    end = _END.search(data, 0, _MAX_HEADER)
    if end is None:
        raise records.SplatFormatError(
            f"{source}: PLY header has no 'end_header' line in its first {_MAX_HEADER} bytes; "
            f"the file is truncated or damaged"
        )
    order, elements = None, []
    for line in _lines(data[: end.start()]):
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _ORDERS:
            order = _ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal():
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[0] == "property" and elements:
            _add_property(elements[-1], words, line, source)
        else:
            raise records.SplatFormatError(f"{source}: PLY header line not understood: {line!r}")
    if order is None:
        raise records.SplatFormatError(
            f"{source}: PLY header has no 'format' line; expected one of {sorted(_ORDERS)}"
        )
    return order, elements, end.end()


def _lines(header: bytes) -> list[str]:
    """Lines after the first. Comments may be in any encoding; Latin-1 has a letter for every byte."""
    lines = header.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return [line.decode("latin-1") for line in lines[1:]]


def read_comments(path: epath.PathLike) -> list[str]:
    """The ``comment`` lines of a file's header, without that word; [] where it is no PLY."""
    with epath.Path(path).open("rb") as file:
        data = file.read(_MAX_HEADER)
    end = _END.search(data)
    if end is None or not data.startswith(b"ply"):
        return []
    words = [line.partition(" ") for line in _lines(data[: end.start()])]
    return [text.strip() for word, _, text in words if word == "comment"]


def _add_property(element: _Element, words: list[str], line: str, source: str):
    if words[1:2] == ["list"] and len(words) == 5:
        element.has_lists = True
    elif len(words) == 3 and words[1] in _TYPES:
        if words[2] in dict(element.columns):
            raise records.SplatFormatError(
                f"{source}: column {words[2]!r} of element {element.name!r} appears twice"
            )
        element.columns.append((words[2], _TYPES[words[1]]))
    else:
        raise records.SplatFormatError(
            f"{source}: PLY property not understood: {line!r}; known types {sorted(_TYPES)}"
        )


def _check_columns(vertex: _Element, elements: list[_Element], source: str) -> int:
    """Number of f_rest columns; raises where the vertex element is no Gaussian."""
    names = {name for name, _ in vertex.columns}
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        hint = ""
        if "packed_position" in names or any(e.name == "chunk" for e in elements):
            hint = "; this is PlayCanvas' compressed PLY: convert it to the uncompressed form"
        elif missing == ["scale_2"]:
            hint = "; two scales look like 2D Gaussian splatting, which is another primitive"
        elif len(missing) >= len(_REQUIRED) - len(_MEANS):
            hint = "; this is a plain point cloud or mesh, not Gaussians"
        raise records.SplatFormatError(
            f"{source}: missing columns {missing}; a 3DGS PLY has {list(_REQUIRED)}{hint}"
        )
    if vertex.has_lists:
        raise records.SplatFormatError(f"{source}: element 'vertex' has a list property")
    rest = {name for name in names if name.startswith("f_rest_")}
    if len(rest) not in _REST_COUNTS or rest != {f"f_rest_{i}" for i in range(len(rest))}:
        raise records.SplatFormatError(
            f"{source}: found {len(rest)} f_rest columns; expected f_rest_0, f_rest_1, ... without "
            f"gaps, {sorted(_REST_COUNTS)} in all (SH degree 0 to 4)"
        )
    return len(rest)


def binary_rows(data, offset, order, elements, vertex, source) -> np.ndarray:
    dtype = vertex.dtype(order)
    before = elements[: elements.index(vertex)]
    after = elements[elements.index(vertex) + 1 :]
    if any(e.has_lists for e in before):
        raise records.SplatFormatError(
            f"{source}: an element with list properties precedes 'vertex'; put 'vertex' first"
        )
    offset += sum(e.count * e.dtype(order).itemsize for e in before)
    expected, found = vertex.count * dtype.itemsize, max(len(data) - offset, 0)
    if found < expected:
        raise records.SplatFormatError(
            f"{source}: truncated: the header promises {vertex.count} vertices of "
            f"{dtype.itemsize} bytes = {expected} bytes, found {found}"
        )
    extra = found - expected - sum(e.count * e.dtype(order).itemsize for e in after)
    if extra != 0 and not any(e.has_lists for e in after):
        raise records.SplatFormatError(
            f"{source}: {'truncated by' if extra < 0 else 'longer than its header says by'} "
            f"{abs(extra)} bytes"
        )
    return np.frombuffer(data, dtype, vertex.count, offset)


def ascii_rows(body: bytes, elements, vertex, source) -> np.ndarray:
    """The vertex lines of an ASCII file; every element has one line an item."""
    lines = [line for line in body.splitlines() if line.strip()]
    first = sum(e.count for e in elements[: elements.index(vertex)])
    expected = sum(e.count for e in elements)
    if len(lines) != expected:
        raise records.SplatFormatError(
            f"{source}: {'truncated' if len(lines) < expected else 'overlong'}: the header "
            f"promises {expected} lines of data, found {len(lines)}"
        )
    dtype = np.dtype([(name, "f8") for name, _ in vertex.columns])
    table = np.empty(vertex.count, dtype)
    for row, line in enumerate(lines[first : first + vertex.count]):
        words = line.split()
        try:
            if len(words) != len(vertex.columns):
                raise ValueError
            table[row] = tuple(map(float, words))
        except ValueError as error:
            raise records.SplatFormatError(
                f"{source}: vertex {row}: expected {len(vertex.columns)} numbers, "
                f"found {line[:80]!r}"
            ) from error
    return table


def _to_arrays(table: np.ndarray, rest_count: int) -> dict[str, np.ndarray]:
    def columns(names) -> np.ndarray:
        out = np.empty((len(table), len(names)), np.float32)
        for i, name in enumerate(names):
            out[:, i] = table[name]
        return out

    rest = columns([f"f_rest_{i}" for i in range(rest_count)])
    rest = rest.reshape(len(table), 3, rest_count // 3).transpose(0, 2, 1)
    return {
        "means": columns(_MEANS),
        "quats": columns(_QUATS),
        "log_scales": columns(_SCALES),
        "logit_opacities": columns(("opacity",))[:, 0],
        "sh": np.concatenate((columns(_DC)[:, None, :], rest), axis=1),
    }


def write(path: epath.PathLike, gaussians, *, normals: bool = True, comments: Sequence[str] = ()):
    """Writes one scene as a binary little-endian PLY, atomically.

    Args:
      path: target file; its folder must exist.
      gaussians: a ``RawGaussians`` or a mapping with its fields, without leading axes.
      normals: write the (zero) ``nx ny nz`` columns that the original viewer expects.
      comments: lines of ASCII text for the header, such as ``ANTIALIASED``.

    Raises:
      ValueError: missing fields, wrong shapes, zero Gaussians, values that ``read`` would refuse, or
        a comment that is no line of ASCII text.
    """
    for text in comments:
        if not (text.isascii() and text.isprintable()):
            raise ValueError(f"comments: expected single lines of ASCII text, found {text!r}")
    arrays = records.as_dict(gaussians)
    records.clean(arrays, f"{path} (not written)", "error")
    num, sh = len(arrays["means"]), arrays["sh"]
    rest = sh[:, 1:].transpose(0, 2, 1).reshape(num, -1)  # channel-major
    blank = np.zeros((num, 3 if normals else 0), np.float32)
    parts = {
        _MEANS: arrays["means"],
        ("nx", "ny", "nz")[: blank.shape[1]]: blank,
        _DC: sh[:, 0],
        tuple(f"f_rest_{i}" for i in range(rest.shape[1])): rest,
        ("opacity",): arrays["logit_opacities"][:, None],
        _SCALES: arrays["log_scales"],
        _QUATS: arrays["quats"],
    }
    names = [name for group in parts for name in group]
    table = np.concatenate(list(parts.values()), axis=1).astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {text}" for text in comments)]
    header += [f"element vertex {num}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    records.write_atomically(path, "\n".join(header).encode("ascii") + table.tobytes())
