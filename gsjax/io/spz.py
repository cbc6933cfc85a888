"""Niantic's SPZ: a compressed container of quantised columns. Reads versions 2 to 4, writes 2 and 3.

Versions 2 and 3 are one gzip stream of a 16-byte header and six columns; version 4 is a 32-byte
header, a table of contents and one Zstandard stream a column (reading it needs the package
zstandard). Little endian; one entry a Gaussian::

  header     magic 'NGSP' u32, version u32, count u32, SH degree u8, fractional bits u8, flags u8
             (1 = trained antialiased, 2 = extension records follow), one more byte
  positions  3 x 24-bit signed fixed point
  opacities  u8, activated
  colours    3 x u8 = (0.15 c + 0.5) 255, c the degree-0 coefficient: holds -3.33 .. 3.33
  scales     3 x u8 = 16 (s + 10), s the log-scale: holds -10 .. 5.94
  rotations  version 2: x, y, z as u8 = 127.5 v + 127.5 of the quaternion with w >= 0; from version
             3: 32 bits, index of the largest component of x y z w, then sign and 9 bits of each
             other one, in units of sqrt(1/2) / 511
  SH         (K - 1) x 3 u8 = 128 c + 128, colour channel fastest: holds -1 .. 0.992

SPZ is defined in axes right-up-back, the 3DGS PLY in right-down-front. A conversion is therefore half
a turn about x (y and z of the means, of the quaternions, and signs of some SH coefficients); with
``axes='raw'`` nothing turns, for files of writers that forget it. Source: github.com/nianticlabs/spz.
Extension records are not read.
"""

import dataclasses
import gzip
import struct
import zlib

import numpy as np
from absl import logging
from etils import epath

from gsjax.io import records

_MAGIC = 0x5053474E
_HEADER = struct.Struct("<IIIBBBB")
_HEADER_4_SIZE = 32
_ANTIALIASED, _HAS_EXTENSIONS = 1, 2
_COLOR_SCALE = 0.15
_MAX_DEGREE_WRITTEN = 3  # readers of versions 2 and 3 know no degree 4
_MAX_FRACTIONAL_BITS = 23
# A header may promise this many bytes for each of the file's; deflate packs 1032 to one at best.
_MOST_RATIO = 1100
_PIECE = 1 << 20  # bytes unpacked at a time where nothing says how many there are
_WINDOW = 1 << 27  # of a Zstandard frame: the largest that its own program unpacks unasked

# Signs of the 25 SH basis functions under (x, y, z) -> (x, -y, -z): -1 where the polynomial is odd in
# y and z together.
_SH_SIGNS = np.array(
    [1]
    + [-1, -1, 1]
    + [-1, 1, 1, -1, 1]
    + [-1, 1, -1, -1, 1, -1, 1]
    + [-1, 1, -1, 1, 1, -1, 1, -1, 1],
    np.float32,
)


@dataclasses.dataclass(frozen=True)
class Header:
    """What the first bytes of an .spz file say.

    Attributes:
      version: 2, 3 or 4.
      num: Gaussians.
      sh_degree: 0 to 4.
      fractional_bits: bits after the point of a position; one step is 2^-fractional_bits units.
      antialiased: the scene was trained with Mip-Splatting's 2D filter: render it with
        ``rasterize_mode='antialiased'``.
      has_extensions: extension records follow the columns.
    """

    version: int
    num: int
    sh_degree: int
    fractional_bits: int
    antialiased: bool
    has_extensions: bool

    @property
    def column_sizes(self) -> list[int]:
        """Bytes of the six columns, in the order of the file."""
        rotation = 3 if self.version < 3 else 4
        rest = 3 * ((self.sh_degree + 1) ** 2 - 1)
        return [self.num * size for size in (9, 1, 3, 3, rotation, rest)]


def read(
    path: epath.PathLike, *, on_bad_rows: str = "error", axes: str = "spz"
) -> dict[str, np.ndarray]:
    """Reads a scene.

    Args:
      path: local, or any place that etils.epath reaches (gs://, s3://).
      on_bad_rows: 'error', or 'drop' to leave out unusable rows (their number is logged).
      axes: 'spz' turns the scene from SPZ's axes to those of a PLY; 'raw' leaves it as stored.

    Returns:
      {means [N, 3], quats [N, 4] wxyz of unit length, log_scales [N, 3], logit_opacities [N],
      sh [N, K, 3]}, float32.

    Raises:
      SplatFormatError: not an SPZ file, unknown version, damaged or truncated data, zero Gaussians.
      ImportError: a version 4 file and no package zstandard.
    """
    return read_counted(path, on_bad_rows=on_bad_rows, axes=axes)[0]


def read_counted(
    path: epath.PathLike, *, on_bad_rows: str = "error", axes: str = "spz"
) -> tuple[dict[str, np.ndarray], int]:
    """Like ``read``; also returns how many rows were dropped."""
    _check_axes(axes)
    header, columns = _columns(epath.Path(path).read_bytes(), str(path))
    if header.num == 0:
        raise records.SplatFormatError(f"{path}: the file holds zero Gaussians")
    if header.has_extensions:
        logging.warning("%s: its extension records are ignored", path)
    positions, opacities, colors, scales, rotations, rest = columns
    unpack = _unpack_first_three if header.version < 3 else _unpack_smallest_three
    dc = ((colors.reshape(-1, 1, 3) / 255 - 0.5) / _COLOR_SCALE).astype(np.float32)
    rest = (rest.reshape(header.num, -1, 3).astype(np.float32) - 128) / 128
    arrays = {
        "means": _unpack_positions(positions, header.fractional_bits),
        "quats": unpack(rotations),
        "log_scales": scales.reshape(-1, 3).astype(np.float32) / 16 - 10,
        "logit_opacities": records.bytes_to_opacities(opacities),
        "sh": np.concatenate((dc, rest), axis=1),
    }
    if axes == "spz":
        arrays = _half_turn(arrays)
    return records.clean(arrays, str(path), on_bad_rows)


def read_header(path: epath.PathLike) -> Header:
    """What an .spz file says about itself, the antialiasing flag included.

    Raises:
      SplatFormatError: not an SPZ file, unknown version, or a damaged header.
    """
    return _parse(epath.Path(path).read_bytes(), str(path))[0]


def write(
    path: epath.PathLike,
    gaussians,
    *,
    version: int = 3,
    axes: str = "spz",
    fractional_bits: int = 12,
    sh_bits: tuple[int, int] = (8, 8),
    antialiased: bool = False,
    drop_sh: bool = False,
):
    """Writes one scene, atomically.

    Everything is quantised as the module's docstring says; a component of a quaternion moves by up
    to 0.002 in version 3 and, where w is near 0, by up to 0.1 in version 2. Log-scales, colours and SH coefficients outside the stored ranges are
    clipped and their number is logged.

    Args:
      path: target file; its folder must exist.
      gaussians: a ``RawGaussians`` or a mapping with its fields, without leading axes.
      version: 3, or 2 for readers that do not know version 3.
      axes: 'spz' turns the scene to SPZ's axes, 'raw' stores it as it is.
      fractional_bits: of the positions; 12 (Niantic's) has steps of 2.4e-4 units and holds
        -2048 .. 2048. More bits are finer and hold less.
      sh_bits: bits kept of degree 1 and of the degrees above; (5, 4) is Niantic's choice, which
        compresses better and errs by up to 0.06.
      antialiased: sets the flag of scenes trained with Mip-Splatting's 2D filter.
      drop_sh: allow the loss of SH coefficients above degree 3, which these versions cannot hold.

    Raises:
      ValueError: missing fields, wrong shapes, zero Gaussians, values that ``read`` would refuse,
        positions out of range, SH above degree 3 without ``drop_sh``, or an unknown option.
    """
    _check_options(version, axes, fractional_bits, sh_bits)
    arrays = records.as_dict(gaussians)
    records.clean(arrays, f"{path} (not written)", "error")
    records.limit_degree(arrays, _MAX_DEGREE_WRITTEN, ".spz", drop_sh)
    if axes == "spz":
        arrays = _half_turn(arrays)
    num, sh = len(arrays["means"]), arrays["sh"]
    degree = records.SH_COUNTS.index(sh.shape[1])
    low = 0.5 / _COLOR_SCALE
    records.warn_clipped(path, "log_scales", arrays["log_scales"], -10 - 1 / 32, 255.5 / 16 - 10)
    records.warn_clipped(path, "sh (degree 0)", sh[:, 0], -low, low)
    records.warn_clipped(path, "sh (above degree 0)", sh[:, 1:], -1, 127.5 / 128)
    pack = _pack_first_three if version < 3 else _pack_smallest_three
    flags = _ANTIALIASED if antialiased else 0
    parts = [
        _HEADER.pack(_MAGIC, version, num, degree, fractional_bits, flags, 0),
        _pack_positions(arrays["means"], fractional_bits),
        records.opacities_to_bytes(arrays["logit_opacities"]).tobytes(),
        records.to_bytes((sh[:, 0] * _COLOR_SCALE + 0.5) * 255).tobytes(),
        records.to_bytes((arrays["log_scales"] + 10) * 16).tobytes(),
        pack(arrays["quats"]),
        _quantise_sh(sh[:, 1:], sh_bits).tobytes(),
    ]
    # mtime=0: the same scene gives the same bytes.
    records.write_atomically(path, gzip.compress(b"".join(parts), compresslevel=6, mtime=0))


def _check_axes(axes: str):
    if axes not in ("spz", "raw"):
        raise ValueError(f"axes: expected 'spz' or 'raw', found {axes!r}")


def _check_options(version, axes, fractional_bits, sh_bits):
    _check_axes(axes)
    if version not in (2, 3):
        raise ValueError(f"version: expected 2 or 3, found {version!r}")
    if fractional_bits not in range(_MAX_FRACTIONAL_BITS + 1):
        raise ValueError(
            f"fractional_bits: expected 0 to {_MAX_FRACTIONAL_BITS}, found {fractional_bits!r}"
        )
    if len(sh_bits) != 2 or any(bits not in range(1, 9) for bits in sh_bits):
        raise ValueError(f"sh_bits: expected two numbers from 1 to 8, found {sh_bits!r}")


def _half_turn(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scene turned by 180 degrees about x, stored signs alone: its own inverse, and exact."""
    signs = np.array([1, -1, -1], np.float32)
    return {
        **arrays,
        "means": arrays["means"] * signs,
        "quats": arrays["quats"] * np.concatenate(([1], signs)).astype(np.float32),
        "sh": arrays["sh"] * _SH_SIGNS[: arrays["sh"].shape[1], None],
    }


def _parse(data: bytes, source: str) -> tuple[Header, bytes]:
    """The checked header, and the bytes it stands in: unpacked before version 4, else the file."""
    if data[:2] == b"\x1f\x8b":
        data = _inflate(data, source)
    if len(data) < _HEADER.size or data[:4] != _MAGIC.to_bytes(4, "little"):
        raise records.SplatFormatError(
            f"{source}: not an SPZ file: it starts with {data[:8]!r}, expected b'NGSP' and a header "
            f"of {_HEADER.size} bytes"
        )
    _, version, num, degree, fractional_bits, flags, _ = _HEADER.unpack_from(data)
    if version not in (2, 3, 4):
        raise records.SplatFormatError(
            f"{source}: SPZ version {version}; known are 2, 3 and 4: convert the file"
        )
    if degree >= len(records.SH_COUNTS) or fractional_bits > _MAX_FRACTIONAL_BITS:
        raise records.SplatFormatError(
            f"{source}: damaged header: SH degree {degree} (expected 0 to 4), {fractional_bits} "
            f"fractional bits (expected 0 to {_MAX_FRACTIONAL_BITS})"
        )
    extended = bool(flags & _HAS_EXTENSIONS)
    antialiased = bool(flags & _ANTIALIASED)
    return Header(version, num, degree, fractional_bits, antialiased, extended), data


def _inflate(data: bytes, source: str) -> bytes:
    """What a gzip file holds, up to the size that its header promises and one byte more.

    Extension records behind the columns are checked, by the stream's own sum, but not kept.
    """
    stream = zlib.decompressobj(wbits=31)
    try:
        head = stream.decompress(data, _HEADER.size)
        if len(head) < _HEADER.size or head[:4] != _MAGIC.to_bytes(4, "little"):
            return head
        _, version, num, degree, _, flags, _ = _HEADER.unpack(head)
        most = sum(Header(version, num, degree, 0, False, False).column_sizes)
        _check_promise(most, len(data), source)
        body = stream.decompress(stream.unconsumed_tail, most + 1)
        while flags & _HAS_EXTENSIONS and stream.unconsumed_tail:
            stream.decompress(stream.unconsumed_tail, _PIECE)
    except zlib.error as error:
        raise records.SplatFormatError(
            f"{source}: truncated or damaged gzip stream: {error}"
        ) from error
    whole = stream.eof and not stream.unused_data.strip(b"\0")
    if not whole and (len(body) <= most or flags & _HAS_EXTENSIONS):
        raise records.SplatFormatError(
            f"{source}: truncated or damaged gzip stream: no end mark, or bytes behind it"
        )
    return head + body


def _check_promise(unpacked: int, packed: int, source: str):
    """Refuses a header that promises more than its file can hold, before memory is taken."""
    if unpacked > _MOST_RATIO * packed + _PIECE:
        raise records.SplatFormatError(
            f"{source}: damaged header: it promises {unpacked} bytes, which a file of {packed} bytes "
            f"does not hold (at most {_MOST_RATIO} to one)"
        )


def _columns(data: bytes, source: str) -> tuple[Header, list[np.ndarray]]:
    """The header and the six columns as uint8."""
    header, data = _parse(data, source)
    sizes = header.column_sizes
    if header.version == 4:
        body = b"".join(_streams(data, sizes, source))
    else:
        body = data[_HEADER.size :]
        extra = len(body) - sum(sizes)
        if extra < 0 or (extra and not header.has_extensions):
            raise records.SplatFormatError(
                f"{source}: {'truncated' if extra < 0 else 'too long'}: {header.num} Gaussians of SH "
                f"degree {header.sh_degree} take {sum(sizes)} bytes, found {len(body)}"
            )
    ends = np.cumsum([0, *sizes])
    body = np.frombuffer(body, np.uint8)
    return header, [body[i:j] for i, j in zip(ends[:-1], ends[1:], strict=True)]


def _streams(data: bytes, sizes: list[int], source: str) -> list[bytes]:
    """The unpacked Zstandard streams of a version 4 file, checked against the columns' sizes."""
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(
            f"{source}: SPZ version 4 needs the package zstandard: pip install 'gsjax[io]', or "
            f"convert the file to version 3"
        ) from error
    _check_promise(sum(sizes), len(data), source)
    sizes = [size for size in sizes if size]
    if len(data) < _HEADER_4_SIZE:
        raise records.SplatFormatError(f"{source}: truncated in its header")
    count, offset = data[15], int.from_bytes(data[16:20], "little")
    toc = data[offset : offset + 16 * count]
    if count != len(sizes) or len(toc) < 16 * count:
        raise records.SplatFormatError(
            f"{source}: expected {len(sizes)} streams and their table of contents, found {count} and "
            f"{len(toc)} bytes"
        )
    offset, found = offset + len(toc), []
    for index, ((packed, unpacked), size) in enumerate(
        zip(struct.iter_unpack("<QQ", toc), sizes, strict=True)
    ):
        chunk, offset = data[offset : offset + packed], offset + packed
        if len(chunk) < packed or unpacked != size:
            raise records.SplatFormatError(
                f"{source}: stream {index} truncated or of the wrong size: {len(chunk)} of {packed} "
                f"bytes, holding {unpacked}, expected {size}"
            )
        # A frame's own idea of its size would be taken for true by decompress(): read it in pieces.
        try:
            reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(chunk)
            pieces = [reader.read(_PIECE)]
            while pieces[-1] and sum(map(len, pieces)) <= size:
                pieces.append(reader.read(_PIECE))
        except zstandard.ZstdError as error:
            raise records.SplatFormatError(f"{source}: stream {index}: {error}") from error
        found.append(b"".join(pieces))
        if len(found[-1]) != size:
            raise records.SplatFormatError(
                f"{source}: stream {index} holds {len(found[-1])} bytes, expected {size}"
            )
    return found


def _unpack_positions(stored: np.ndarray, fractional_bits: int) -> np.ndarray:
    stored = stored.reshape(-1, 3, 3).astype(np.int32)
    # Shifted to the top so that the arithmetic shift back extends the sign.
    fixed = (stored[..., 0] << 8 | stored[..., 1] << 16 | stored[..., 2] << 24) >> 8
    return np.ldexp(fixed.astype(np.float32), -fractional_bits)


def _pack_positions(means: np.ndarray, fractional_bits: int) -> bytes:
    fixed = np.rint(np.ldexp(means.astype(np.float64), fractional_bits))
    if fixed.min() < -(1 << 23) or fixed.max() > (1 << 23) - 1:
        largest, room = float(np.abs(means).max()), (1 << 23) / float(np.abs(means).max())
        fitting = int(np.floor(np.log2(room))) if room > 1 else None
        advice = (
            f"pass fractional_bits={fitting}" if fitting is not None else "scale the scene down"
        )
        raise ValueError(
            f"means: .spz with {fractional_bits} fractional bits holds +-{2.0 ** (23 - fractional_bits):g}, "
            f"found {largest:g}; {advice}"
        )
    stored = fixed.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3]
    return np.ascontiguousarray(stored).tobytes()


def _unpack_first_three(stored: np.ndarray) -> np.ndarray:
    """uint8 [3 N] -> [N, 4] wxyz."""
    xyz = stored.reshape(-1, 3) / 127.5 - 1
    w = np.sqrt(np.maximum(1 - np.sum(xyz * xyz, axis=1, keepdims=True), 0))
    return records.unit_quats(np.concatenate((w, xyz), axis=1)).astype(np.float32)


def _pack_first_three(quats: np.ndarray) -> bytes:
    quats = records.unit_quats(quats)
    quats = np.where(quats[:, :1] < 0, -quats, quats)
    return records.to_bytes(quats[:, 1:] * 127.5 + 127.5).tobytes()


def _unpack_smallest_three(stored: np.ndarray) -> np.ndarray:
    """uint8 [4 N] -> [N, 4] wxyz."""
    packed = np.ascontiguousarray(stored).view("<u4").astype(np.int64)
    rows = np.arange(len(packed))
    largest = packed >> 30
    xyzw = np.zeros((len(packed), 4))
    # The last of the three components lies in the lowest bits.
    for axis in (3, 2, 1, 0):
        is_stored = largest != axis
        value = (packed & 511) * (np.sqrt(0.5) / 511)
        value = np.where(packed & 512, -value, value)
        xyzw[:, axis] = np.where(is_stored, value, 0)
        packed = np.where(is_stored, packed >> 10, packed)
    xyzw[rows, largest] = np.sqrt(np.maximum(1 - np.sum(xyzw * xyzw, axis=1), 0))
    return records.unit_quats(np.roll(xyzw, 1, axis=1)).astype(np.float32)


def _pack_smallest_three(quats: np.ndarray) -> bytes:
    xyzw = np.roll(records.unit_quats(quats), -1, axis=1)
    rows, largest = np.arange(len(xyzw)), np.abs(xyzw).argmax(axis=1)
    xyzw = np.where(xyzw[rows, largest][:, None] < 0, -xyzw, xyzw)
    size = np.minimum(np.rint(np.abs(xyzw) * (511 / np.sqrt(0.5))), 511).astype(np.int64)
    packed = largest.astype(np.int64)
    for axis in range(4):
        component = (xyzw[:, axis] < 0).astype(np.int64) << 9 | size[:, axis]
        packed = np.where(largest != axis, packed << 10 | component, packed)
    return packed.astype("<u4").tobytes()


def _quantise_sh(rest: np.ndarray, sh_bits: tuple[int, int]) -> np.ndarray:
    """[N, K - 1, 3] -> uint8, rounded to centres of buckets of 2^(8 - bits); 0 stays 0."""
    bits = np.where(np.arange(rest.shape[1]) < 3, *sh_bits)[:, None]
    bucket = 1 << (8 - bits)
    value = np.rint(rest * 128).astype(np.int64) + 128
    return np.clip((value + bucket // 2) // bucket * bucket, 0, 255).astype(np.uint8)
