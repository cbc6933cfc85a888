"""PlayCanvas' compressed PLY: chunks of 256 Gaussians, 16 bytes each, and a byte an SH coefficient.

A binary little-endian PLY with two or three elements:

  chunk   one a 256 Gaussians: float min and max of position, log-scale and (newer files) colour
          0.5 + C0 c, c being the degree-0 coefficient
  vertex  four uint a Gaussian. packed_position and packed_scale: 11, 10 and 11 bits, from the chunk's
          min to its max; packed_rotation: 2 bits index of the largest component of w x y z, then
          3 x 10 bits of the others, -sqrt(1/2) .. sqrt(1/2); packed_color: 8 bits each of r, g, b
          (from min to max, or 0 .. 1 in older files) and of the activated opacity
  sh      f_rest_* of degree 1 to 3, channel-major, uchar v = floor(32 c + 128), read back as
          (v + 0.5) / 32 - 4; 0 and 255 are -4 and 4

Errors are half a step: of position and log-scale 1/2046 (x, y, z: 1/4094, 1/2046, 1/4094) of the
chunk's extent, of colour 1/510 of its range, of opacity 1/510, of a quaternion 0.0007, of SH 1/64.
Source: github.com/playcanvas/splat-transform. Not for the plain PLY, which is ply.py.
"""

import numpy as np
from etils import epath

from gsjax.io import ply, records

_CHUNK = 256
_CORNERS = tuple(
    f"{end}_{axis}" for kind in ("", "scale_") for end in ("min", "max") for axis in
    (f"{kind}x", f"{kind}y", f"{kind}z")
)  # fmt: skip
_COLORS = tuple(f"{end}_{channel}" for end in ("min", "max") for channel in "rgb")
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_MAX_DEGREE = 3
_SCALE_LIMIT = 20.0
_HEADER_BYTES = 1 << 16


def is_compressed(path: epath.PathLike) -> bool:
    """Whether the header of a PLY file has a column of this format; what comments say is nothing."""
    with epath.Path(path).open("rb") as file:
        data = file.read(_HEADER_BYTES)
    if not data.startswith(b"ply"):
        return False
    # A damaged header may lack its end: its columns still tell which reader explains the damage.
    for line in data.replace(b"\r", b"\n").split(b"\n"):
        words = line.split()
        if words == [b"end_header"]:
            return False
        if words[:1] == [b"property"] and words[-1] == b"packed_position":
            return True
    return False


def read(path: epath.PathLike, *, on_bad_rows: str = "error") -> dict[str, np.ndarray]:
    """Reads a scene.

    Args:
      path: local, or any place that etils.epath reaches (gs://, s3://).
      on_bad_rows: 'error', or 'drop' to leave out unusable rows (their number is logged).

    Returns:
      {means [N, 3], quats [N, 4] wxyz of unit length, log_scales [N, 3], logit_opacities [N],
      sh [N, K, 3]}, float32.

    Raises:
      SplatFormatError: not a compressed PLY, wrong or missing columns, truncated or overlong data,
        zero Gaussians, or unusable rows.
    """
    return read_counted(path, on_bad_rows=on_bad_rows)[0]


def read_counted(
    path: epath.PathLike, *, on_bad_rows: str = "error"
) -> tuple[dict[str, np.ndarray], int]:
    """Like ``read``; also returns how many rows were dropped."""
    source, data = str(path), epath.Path(path).read_bytes()
    order, elements, body = ply.parse_header(data, source)
    by_name = {element.name: element for element in elements}
    has_colors = _check_elements(order, by_name, source)
    tables = {
        name: ply.binary_rows(data, body, order, elements, element, source)
        for name, element in by_name.items()
    }
    num = len(tables["vertex"])
    if num == 0:
        raise records.SplatFormatError(f"{source}: the file holds zero Gaussians")
    chunk = np.arange(num) // _CHUNK
    position, rotation, scale, color = (tables["vertex"][name].astype(np.int64) for name in _PACKED)

    def between(fractions: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        ends = np.stack([tables["chunk"][name] for name in names], axis=1).astype(np.float64)
        low, high = ends[chunk, :3], ends[chunk, 3:]
        return low * (1 - fractions) + high * fractions

    rgba = _split(color, (24, 16, 8, 0), (8, 8, 8, 8))
    rgb = between(rgba[:, :3], _COLORS) if has_colors else rgba[:, :3]
    sh = [(rgb[:, None] - 0.5) / records.SH_C0]
    if "sh" in tables:
        sh.append(_unpack_sh(tables["sh"]))
    arrays = {
        "means": between(_split(position, (21, 11, 0), (11, 10, 11)), _CORNERS[:6]),
        "quats": _unpack_quats(rotation),
        "log_scales": between(_split(scale, (21, 11, 0), (11, 10, 11)), _CORNERS[6:]),
        "logit_opacities": records.bytes_to_opacities(color & 255),
        "sh": np.concatenate(sh, axis=1),
    }
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    return records.clean(arrays, source, on_bad_rows)


def _check_elements(order: str, by_name: dict, source: str) -> bool:
    """Whether chunks hold colour ranges; raises where the header is not of this format."""
    if order != "<":
        raise records.SplatFormatError(
            f"{source}: a compressed PLY is binary_little_endian; this one is not"
        )
    if set(by_name) not in ({"chunk", "vertex"}, {"chunk", "vertex", "sh"}):
        raise records.SplatFormatError(
            f"{source}: expected elements 'chunk', 'vertex' and perhaps 'sh', found {list(by_name)}"
        )
    chunk, vertex = by_name["chunk"], by_name["vertex"]
    has_colors = len(chunk.columns) > len(_CORNERS)
    _check_columns(chunk, _CORNERS + (_COLORS if has_colors else ()), "f4", source)
    _check_columns(vertex, _PACKED, "u4", source)
    if chunk.count != -(-vertex.count // _CHUNK):
        raise records.SplatFormatError(
            f"{source}: {vertex.count} vertices need {-(-vertex.count // _CHUNK)} chunks of {_CHUNK}, "
            f"found {chunk.count}"
        )
    if "sh" in by_name:
        sh = by_name["sh"]
        counts = [3 * (count - 1) for count in records.SH_COUNTS[1 : _MAX_DEGREE + 1]]
        if len(sh.columns) not in counts or sh.count != vertex.count:
            raise records.SplatFormatError(
                f"{source}: element 'sh' has {sh.count} rows of {len(sh.columns)} columns; expected "
                f"{vertex.count} rows of {counts} (SH degree 1 to {_MAX_DEGREE})"
            )
        _check_columns(sh, tuple(f"f_rest_{i}" for i in range(len(sh.columns))), "u1", source)
    return has_colors


def _check_columns(element, names: tuple[str, ...], code: str, source: str):
    if element.has_lists or dict(element.columns) != dict.fromkeys(names, code):
        raise records.SplatFormatError(
            f"{source}: element {element.name!r} has columns {element.columns}; expected {names} of "
            f"type {code}"
        )


def _split(packed: np.ndarray, shifts, bits) -> np.ndarray:
    """Fields of packed integers [N] as fractions of their largest value, [N, len(shifts)]."""
    fields = [
        (packed >> shift & ((1 << width) - 1)) / ((1 << width) - 1)
        for shift, width in zip(shifts, bits, strict=True)
    ]
    return np.stack(fields, axis=1)


def _unpack_quats(packed: np.ndarray) -> np.ndarray:
    rows, largest = np.arange(len(packed)), packed >> 30
    stored = (_split(packed, (20, 10, 0), (10, 10, 10)) - 0.5) * np.sqrt(2)
    rest = np.sqrt(np.maximum(1 - np.sum(stored * stored, axis=1), 0))
    # Column j of the three goes to component j, or to j + 1 from the largest on.
    targets = np.arange(3) + (np.arange(3) >= largest[:, None])
    quats = np.empty((len(packed), 4))
    np.put_along_axis(quats, targets, stored, axis=1)
    quats[rows, largest] = rest
    return records.unit_quats(quats)


def _unpack_sh(table: np.ndarray) -> np.ndarray:
    """uint8 columns -> [N, K - 1, 3]."""
    stored = np.stack([table[f"f_rest_{i}"] for i in range(len(table.dtype))], axis=1)
    values = (stored + 0.5) / 32 - 4
    values = np.where(stored == 0, -4.0, np.where(stored == 255, 4.0, values))
    return values.reshape(len(table), 3, -1).transpose(0, 2, 1)


def write(path: epath.PathLike, gaussians, *, drop_sh: bool = False, keep_order: bool = False):
    """Writes one scene, atomically.

    Everything is quantised as the module's docstring says. Log-scales beyond +-20 and SH
    coefficients beyond +-4 are clipped and their number is logged. The Gaussians are reordered along
    a Z-order curve, which keeps chunks, and so the errors, small.

    Args:
      path: target file; its folder must exist.
      gaussians: a ``RawGaussians`` or a mapping with its fields, without leading axes.
      drop_sh: allow the loss of SH coefficients above degree 3, which the format cannot hold.
      keep_order: write the Gaussians in the order given, at the price of larger errors.

    Raises:
      ValueError: missing fields, wrong shapes, zero Gaussians, values that ``read`` would refuse, or
        SH above degree 3 without ``drop_sh``.
    """
    arrays = records.as_dict(gaussians)
    records.clean(arrays, f"{path} (not written)", "error")
    records.limit_degree(arrays, _MAX_DEGREE, "a compressed PLY", drop_sh)
    if not keep_order:
        rows = _z_order(arrays["means"])
        arrays = {name: value[rows] for name, value in arrays.items()}
    num, log_scales, rest = len(arrays["means"]), arrays["log_scales"], arrays["sh"][:, 1:]
    records.warn_clipped(path, "log_scales", log_scales, -_SCALE_LIMIT, _SCALE_LIMIT)
    records.warn_clipped(path, "sh (above degree 0)", rest, -4, 4)
    colors = arrays["sh"][:, 0] * records.SH_C0 + 0.5
    position, position_ends = _pack_ranges(arrays["means"], (11, 10, 11))
    scale, scale_ends = _pack_ranges(np.clip(log_scales, -_SCALE_LIMIT, _SCALE_LIMIT), (11, 10, 11))
    color, color_ends = _pack_ranges(colors, (8, 8, 8))
    color = color << 8 | records.opacities_to_bytes(arrays["logit_opacities"])
    chunks = np.concatenate((position_ends, scale_ends, color_ends), axis=1).astype("<f4")
    packed = np.stack((position, _pack_quats(arrays["quats"]), scale, color), axis=1).astype("<u4")
    stored = np.clip(np.floor(rest * 32 + 128), 0, 255).astype(np.uint8)
    stored = stored.transpose(0, 2, 1).reshape(num, -1)  # channel-major
    header = ["ply", "format binary_little_endian 1.0", f"element chunk {len(chunks)}"]
    header += [f"property float {name}" for name in _CORNERS + _COLORS]
    header += [f"element vertex {num}", *(f"property uint {name}" for name in _PACKED)]
    if stored.size:
        header += [f"element sh {num}"]
        header += [f"property uchar f_rest_{i}" for i in range(stored.shape[1])]
    parts = ["\n".join([*header, "end_header", ""]).encode("ascii")]
    parts += [part.tobytes() for part in (chunks, packed, stored)]
    records.write_atomically(path, b"".join(parts))


def _pack_ranges(values: np.ndarray, bits: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values [N, 3] as packed integers [N], and the [chunks, 6] float32 ends they lie between."""
    starts = np.arange(0, len(values), _CHUNK)
    values = values.astype(np.float32)
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    chunk = np.arange(len(values)) // _CHUNK
    extent = (high.astype(np.float64) - low)[chunk]
    fractions = (values - low[chunk].astype(np.float64)) / np.where(extent > 0, extent, 1)
    packed = np.zeros(len(values), np.int64)
    for axis, width in enumerate(bits):
        packed = packed << width | np.rint(fractions[:, axis] * ((1 << width) - 1)).astype(np.int64)
    return packed, np.concatenate((low, high), axis=1)


def _pack_quats(quats: np.ndarray) -> np.ndarray:
    quats = records.unit_quats(quats)
    rows, largest = np.arange(len(quats)), np.abs(quats).argmax(axis=1)
    quats = np.where(quats[rows, largest][:, None] < 0, -quats, quats)
    stored = np.clip(np.rint((quats * np.sqrt(0.5) + 0.5) * 1023), 0, 1023).astype(np.int64)
    packed = largest.astype(np.int64)
    for axis in range(4):
        packed = np.where(largest != axis, packed << 10 | stored[:, axis], packed)
    return packed


def _z_order(means: np.ndarray) -> np.ndarray:
    """Rows [N] along a Z-order curve of 2^20 cells a side over the bounding box."""
    low, high = means.min(axis=0).astype(np.float64), means.max(axis=0)
    extent = np.where(high > low, high - low, 1)
    cells = ((means - low) / extent * ((1 << 20) - 1)).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for bit in range(20):
        for axis in range(3):
            code |= (cells[:, axis] >> np.uint64(bit) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")
