"""Named arrays and a few plain values in one run of bytes, read in place.

The records of posed scenes and of pointmaps: of a record with hundreds of pictures a reader wants a few,
and gets views of the bytes, nothing is copied or decoded. Layout: a magic word, the length of a JSON
header (uint32), the header (``meta``; name, type, shape and place of each array), then the arrays, each
from a multiple of 16 bytes on, little-endian and in C order. Nothing of it is ever run.
"""

import json
import math
import struct
from collections.abc import Mapping

import numpy as np

from gsjax.io import json_text

MAGIC = b"GSPACK1\n"
TYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
)
_ALIGN = 16
_HEAD = len(MAGIC) + 4


def pack(meta: Mapping, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of one record.

    Args:
        meta: plain JSON values.
        arrays: of the types in ``TYPES``, any shapes.

    Raises:
        ValueError: an array of another type.
    """
    entries, parts, place = [], [], 0
    for name, value in arrays.items():
        value = np.asarray(value)
        if value.dtype.name not in TYPES:
            raise ValueError(f"arrays[{name!r}]: type {value.dtype} cannot be stored; use {TYPES}")
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        entries.append([name, value.dtype.name, list(value.shape), place])
        padding = -len(data) % _ALIGN
        parts += [data, bytes(padding)]
        place += len(data) + padding
    header = json.dumps({"meta": dict(meta), "arrays": entries}).encode()
    header += b" " * (-(_HEAD + len(header)) % _ALIGN)
    return b"".join([MAGIC, struct.pack("<I", len(header)), header, *parts])


def unpack(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """``(meta, arrays)`` of a record; the arrays are read-only views of ``data``.

    Raises:
        ValueError: no such record, or a damaged one.
    """
    if len(data) < _HEAD or data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"data: {len(data)} bytes that are no packed record; make the set again")
    (length,) = struct.unpack("<I", data[len(MAGIC) : _HEAD])
    start = _HEAD + length
    try:
        header = json_text.parse(bytes(data[_HEAD:start]), "header", dict)
        meta = json_text.member(header, "meta", dict, "header")
        entries = json_text.member(header, "arrays", list, "header")
        arrays = {str(name): _view(data, start, *rest) for name, *rest in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"data: a damaged record ({error}); make the set again") from None
    return meta, arrays


def _view(data: bytes, start: int, kind: str, shape: list, place: int) -> np.ndarray:
    """One array; every number of the header is checked against the bytes there are."""
    numbers = [*shape, place]
    if kind not in TYPES or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"an array of type {str(kind)[:20]!r} and shape {str(shape)[:80]}")
    dtype = np.dtype(kind).newbyteorder("<")
    count = math.prod(shape)
    if start + place + count * dtype.itemsize > len(data):
        raise ValueError(f"an array of shape {shape} that leaves the record of {len(data)} bytes")
    return np.frombuffer(data, dtype, count, start + place).reshape(shape)
