"""Arrays of .npz and .npy files whose numbers are checked before memory is taken for them.

NumPy's own reader makes the array that a header asks for and then looks for its bytes, and unpacks
whatever a compressed member holds; a damaged header is parsed as Python and fails in many ways. Here a
member must have the size that its header says, and may be ``MOST_RATIO`` times its packed size at most.
Arrays of numbers, truth values and text; never a pickle.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from etils import epath

MOST_RATIO = 1100  # deflate packs 1032 to one at best
_KINDS = "biufcSU"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_HEADER = 1 << 16  # bytes in which a member's header ends; NumPy itself refuses more than 10,000
# What a damaged header can make NumPy raise: it is a Python literal.
_BROKEN = (
    *(ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, MemoryError),
    *(SyntaxError, RecursionError, tokenize.TokenError),
)
_BROKEN_ZIP = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, LookupError),
    *(OverflowError, MemoryError),
)


def read(
    source: epath.PathLike | bytes, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an .npz archive.

    Args:
        source: the file, or its bytes.
        names: those that are wanted; None = all.

    Returns:
        {name: array}; arrays may be altered.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no archive of arrays, a damaged one, an array of objects, one that ``names`` asks for
            and it lacks, or sizes that do not agree.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), names)
    with epath.Path(source).open("rb") as stream:
        return _read(stream, names)


def _read(stream: BinaryIO, names: Iterable[str] | None) -> dict[str, np.ndarray]:
    try:
        archive = zipfile.ZipFile(stream)
    except _BROKEN_ZIP as error:
        raise ValueError(f"no archive of arrays, or damaged ({error})") from None
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise ValueError("two arrays of one name")
    wanted = list(members) if names is None else list(names)
    absent = [name for name in wanted if name not in members]
    if absent:
        raise ValueError(f"no array {absent[0]!r}; there are {str(sorted(members))[:200]}")
    return {name: _member(archive, members[name]) for name in wanted}


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    name = info.filename[:80]
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        raise ValueError(f"{name}: encrypted, or packed by method {info.compress_type}")
    if info.file_size > MOST_RATIO * info.compress_size + _HEADER:
        raise ValueError(f"{name}: {info.compress_size} bytes cannot hold {info.file_size}")
    try:
        data = archive.read(info)  # as many bytes as its entry says, and checked by their sum
    except _BROKEN_ZIP as error:
        raise ValueError(f"{name}: damaged ({error})") from None
    return parse(data, name)


def header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, column-major, type) as a .npy file begins; ``stream`` is left behind it.

    Nothing has been checked of the three: sizes may be negative, the type one of objects.

    Raises:
        ValueError: no such file, or a damaged one.
    """
    try:
        wide = np.lib.format.read_magic(stream) != (1, 0)
        read_header = (
            np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
        )
        return read_header(stream)
    except _BROKEN as error:
        raise ValueError(f"{name}: not a .npy file, or damaged ({str(error)[:200]})") from None


def parse(data: bytes, name: str) -> np.ndarray:
    """The array of a .npy file's bytes, a copy of them.

    Raises:
        ValueError: no such file, a damaged one, an array of objects, or a size that is not the header's.
    """
    stream = io.BytesIO(data)
    shape, fortran, dtype = header(stream, name)
    if dtype.kind not in _KINDS or dtype.names or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"{name}: an array of {str(dtype)[:80]}, shape {str(shape)[:80]}")
    start = stream.tell()
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - start != expected:
        raise ValueError(f"{name}: {expected} bytes expected, {len(data) - start} found")
    flat = np.frombuffer(data, dtype, math.prod(shape), start) if expected else np.zeros(0, dtype)
    if not expected:
        return _empty(shape, dtype, name)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def mapped(path: epath.PathLike) -> np.ndarray:
    """The array of a local .npy file, read from it where it is touched; not to be altered.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such file's content, damaged, an array of objects, or cut short.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (*_BROKEN, OSError) as error:
        raise ValueError(f"{path}: no .npy file, or damaged ({str(error)[:200]})") from None


def _empty(shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    try:
        return np.zeros(shape, dtype)
    except (ValueError, MemoryError) as error:
        raise ValueError(f"{name}: shape {str(shape)[:80]} ({error})") from None
