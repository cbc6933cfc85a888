"""Writes safetensors files one array at a time, in the memory of the largest one.

A file is the size of its header (8 bytes, little-endian), the header (JSON: name -> type, shape and
place of the data), and the data: row-major, little-endian, without gaps. Source:
github.com/huggingface/safetensors. Needs no package beyond NumPy. Not for reading, which is
``weights``; not for weights of gsjax's own, which are an ``archive`` with a digest.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from etils import epath

# NumPy's names of types (and those of ml_dtypes) -> the format's.
TYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "bool": "BOOL"},
    **{"uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
}
_NOTES = "__metadata__"


def save(
    path: epath.PathLike,
    types: Mapping[str, tuple[np.dtype, Sequence[int]]],
    read: Callable[[str], np.ndarray],
    notes: Mapping[str, str],
) -> None:
    """Writes a file; one of that name is replaced when the new one is whole.

    Args:
        path: target; its folder is made. Local or anything ``epath`` opens.
        types: name -> (dtype, shape) of every array.
        read: name -> the array; called once each, and one array is held at a time.
        notes: texts for the file's metadata.

    Raises:
        ValueError: naming the file: a type that the format lacks, an array that is not what ``types``
            says, or notes that are no texts.
    """
    path = epath.Path(path)
    header = _header(path, types, notes)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data start at a multiple of the widest type
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f".{path.name}.tmp"
    try:
        with scratch.open("wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for name in header:
                if name != _NOTES:
                    file.write(_bytes_of(path, name, read(name), *types[name]))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def save_arrays(
    path: epath.PathLike, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str] | None = None
) -> None:
    """:func:`save` of arrays that are in memory.

    Args:
        path: target; its folder is made.
        arrays: name -> array or NumPy scalar.
        notes: texts for the file's metadata.

    Raises:
        ValueError: as :func:`save`.
    """
    types = {name: (np.asarray(x).dtype, np.shape(x)) for name, x in arrays.items()}
    save(path, types, arrays.__getitem__, notes or {})


def _header(path, types, notes) -> dict[str, dict]:
    """The header, arrays in the order of their data."""
    odd = sorted({str(dtype) for dtype, _ in types.values()} - set(TYPES))
    if odd:
        raise ValueError(
            f"{path}: safetensors has no type for {odd}; cast these arrays to one of {list(TYPES)}"
        )
    if _NOTES in types:
        raise ValueError(
            f"{path}: {_NOTES!r} is the metadata's name in safetensors; rename the array"
        )
    if not all(isinstance(part, str) for note in notes.items() for part in note):
        raise ValueError(f"{path}: notes: expected texts by name, found {dict(notes)}")
    header: dict[str, dict] = {_NOTES: dict(notes)}
    end = 0
    # The widest types first: so all data are aligned.
    for name in sorted(types, key=lambda name: (-types[name][0].itemsize, name)):
        dtype, shape = types[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        kind = TYPES[str(dtype)]
        header[name] = dict(dtype=kind, shape=[int(n) for n in shape], data_offsets=[start, end])
    return header


def _bytes_of(path, name: str, array, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    """An array's data, uint8 [bytes]; raises unless it is of that type and shape."""
    array = np.asarray(array)
    if (array.dtype, array.shape) != (dtype, tuple(shape)):
        raise ValueError(
            f"{path}: array {name!r}: expected {dtype} {list(shape)}, found {array.dtype} "
            f"{list(array.shape)}"
        )
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
