"""Tensors from PyTorch's .pt/.pth/.bin files, without torch and without running what they hold.

Such a file is a pickle program beside raw storages: since PyTorch 1.6 a zip archive (``data.pkl``,
``data/0``, ``data/1``, ...), before that one stream (three headers, the object, the list of storages,
then each storage behind its element count). The program is run by ``io.safe_pickle`` and may only
name what tensors need (``_names``). What it says of a tensor is checked against the storage where the
array is made. Storages are mapped, not read, so a large file costs memory only where it is touched.

Not read: TorchScript archives, compressed archives (torch makes none), sparse and quantised tensors,
tensor subclasses, big-endian files.
"""

import io
import math
import struct

import ml_dtypes
import numpy as np
from etils import epath

from gsjax.io import safe_pickle, torch_zip
from gsjax.io.safe_pickle import ProgramError, Standin

_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_REMEDY = (
    "save the weights alone where the file was made, torch.save(model.state_dict(), ...) or as "
    "safetensors, and read that"
)
_MOST_AXES = 32
_MOST_LEVELS = 100  # of containers in one another
# Elements that an expanded tensor (stride 0) may have beyond those of its storage: reading it takes
# memory that the file does not account for.
_MOST_EXPANDED = 2**24
# What a damaged file can make this module, zipfile and memory maps raise.
_BROKEN = (
    *(ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, MemoryError),
    *(OSError, struct.error, RecursionError),
)


class TorchFileError(ValueError):
    """A file that is no readable PyTorch checkpoint, or asks for more than tensors."""


class _StorageType(Standin):
    """A storage class as the program names it; ``dtype`` None = bytes of a type given later."""

    __slots__ = ("dtype",)


class _Dtype(Standin):
    __slots__ = ("name",)


class _Storage(Standin):
    """Reference to raw bytes: ``numel`` elements of ``dtype`` (bytes where it is None).

    ``first``: element of the root storage at which a view of it starts.
    """

    __slots__ = ("key", "dtype", "numel", "first")


class _Tensor(Standin):
    """A tensor whose storage is still to be found."""

    __slots__ = ("storage", "dtype", "offset", "shape", "strides")


class _RebuildTensor(Standin):
    """``_rebuild_tensor``, ``_rebuild_tensor_v2`` and, with a dtype behind, ``_v3``."""

    __slots__ = ()

    def __call__(self, storage, offset, shape, strides, *rest):
        if not isinstance(storage, _Storage):
            raise ProgramError("a tensor without a storage")
        name = storage.dtype
        if len(rest) > 2 and isinstance(rest[2], _Dtype):  # v3: requires_grad, hooks, dtype
            name = rest[2].name
        if name is None:
            raise ProgramError("a tensor without a type")
        (offset,) = _counts((offset,), "offset")
        shape, strides = _counts(shape, "shape"), _counts(strides, "strides")
        if len(shape) != len(strides):
            raise ProgramError(f"a tensor of shape {shape}, strides {strides}")
        return _Tensor(storage, name, offset, shape, strides)


class _RebuildParameter(Standin):
    """``_rebuild_parameter``: its tensor."""

    __slots__ = ()

    def __call__(self, data, requires_grad=False, hooks=None, state=None):
        return data


class _Size(Standin):
    """``torch.Size``: a tuple."""

    __slots__ = ()

    def __call__(self, sizes=()):
        return _counts(sizes, "size")


def _counts(values, what: str) -> tuple[int, ...]:
    """``values`` if they are a few numbers from 0 to 2^63; printed only when they are."""
    if type(values) not in (tuple, list) or len(values) > _MOST_AXES:
        raise ProgramError(f"a tensor of shape, offset or strides that are no numbers ({what})")
    if any(type(value) is not int or not -(2**63) <= value < 2**63 for value in values):
        raise ProgramError(f"a tensor of shape, offset or strides that are no numbers ({what})")
    if any(value < 0 for value in values):
        raise ProgramError(f"a tensor of shape, offset or strides below zero ({what} {values})")
    return tuple(values)


def _names() -> dict[tuple[str, str], Standin]:
    """What a program may name; made anew for every program."""
    return {
        ("collections", "OrderedDict"): safe_pickle.OrderedDict(),
        ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_tensor_v3"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
        ("torch", "Size"): _Size(),
        ("torch.storage", "UntypedStorage"): _StorageType(None),
        **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
        **{("torch", name): _Dtype(name) for name in _DTYPES},
    }


class _References:
    """The storages that a program refers to."""

    def __init__(self):
        self.roots: dict[str, _Storage] = {}  # by key

    def __call__(self, pid) -> _Storage:
        if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage":
            raise ProgramError("an unknown kind of reference")
        _, kind, key, _, numel, *view = pid
        if not isinstance(kind, _StorageType) or type(key) not in (str, int):
            raise ProgramError("a reference to an unknown kind of storage")
        (numel,) = _counts((numel,), "size of a storage")
        root = self.roots.setdefault(str(key), _Storage(str(key), kind.dtype, numel, 0))
        if (root.dtype, root.numel) != (kind.dtype, numel):
            raise ProgramError(f"storage {key} has two types or sizes")
        if not view or view[0] is None:
            return root
        _, *view = view[0]  # legacy: (key, offset, size) into the root storage
        first, size = _counts(view, "view of a storage")
        if first + size > numel:
            raise ProgramError(f"a view that leaves storage {key}")
        return _Storage(root.key, root.dtype, size, first)


def read(path: epath.PathLike):
    """The object in a PyTorch file, tensors as read-only arrays mapped from it.

    Args:
        path: local file of ``torch.save``.

    Returns:
        Containers and plain values as they were, each tensor as ``np.ndarray`` (bfloat16 and
        float8 in the types of ``ml_dtypes``), strided as it was saved; types as ``np.dtype``.

    Raises:
        TorchFileError: no such file, another format, damaged, or a program that names anything
            beyond tensors (the message says what).
    """
    path = epath.Path(path)
    if not path.is_file():
        raise TorchFileError(f"{path}: there is no such file")
    try:
        with open(path, "rb") as stream:
            start = stream.read(4)
            stream.seek(0)
            if start == b"PK\x03\x04":
                return _read_zip(path, stream)
            return _read_legacy(path, stream)
    except TorchFileError:
        raise
    except safe_pickle.UnknownNameError as error:
        raise TorchFileError(
            f"{path}: the file asks to load {error.module}.{error.name}, which no tensor needs; "
            f"refused, nothing of it was run. If the file is to be trusted, {_REMEDY}"
        ) from None
    except _BROKEN as error:
        raise TorchFileError(
            f"{path}: damaged, or not a PyTorch file ({type(error).__name__}: {error})"
        ) from None


def _read_zip(path, stream):
    archive = torch_zip.Archive(stream)
    if "constants.pkl" in archive or any(name.startswith("code/") for name in archive):
        raise TorchFileError(
            f"{path}: a TorchScript archive (a program, as OpenAI published CLIP); get the same "
            "weights as plain tensors: the file open_clip_model.safetensors of the repository "
            "timm/vit_*_clip_*.openai, or model.safetensors of openai/clip-vit-*"
        )
    if "data.pkl" not in archive:
        raise TorchFileError(f"{path}: a zip archive without data.pkl: not a PyTorch file")
    if "byteorder" in archive and archive.read("byteorder") != b"little":
        raise TorchFileError(f"{path}: saved on a big-endian machine; {_REMEDY}")
    references = _References()
    result = safe_pickle.load(io.BytesIO(archive.read("data.pkl")), _names(), references)
    file, buffers = _map(path), {}
    for key, storage in references.roots.items():
        if f"data/{key}" not in archive:
            raise TorchFileError(f"{path}: storage {key} is missing; get the file again")
        start, size = archive.place(f"data/{key}")
        wanted = storage.numel * _itemsize(storage)
        if size != wanted:
            raise TorchFileError(f"{path}: storage {key} has {size} bytes, expected {wanted}")
        buffers[key] = file[start : start + size]
    return _Resolver(buffers)(result)


def _read_legacy(path, stream):
    if safe_pickle.load(stream, {}) != _LEGACY_MAGIC:
        raise TorchFileError(f"{path}: not a PyTorch file")
    version, system = safe_pickle.load(stream, {}), safe_pickle.load(stream, {})
    if version != _LEGACY_VERSION or not isinstance(system, dict):
        raise TorchFileError(f"{path}: of another version than {_LEGACY_VERSION}; {_REMEDY}")
    if system.get("little_endian", True) is not True:
        raise TorchFileError(f"{path}: saved on a big-endian machine; {_REMEDY}")
    references = _References()
    result = safe_pickle.load(stream, _names(), references)
    keys = safe_pickle.load(stream, {})
    if type(keys) is not list or not all(type(key) in (str, int) for key in keys):
        raise TorchFileError(f"{path}: damaged: it does not list its storages")
    file, buffers, start = _map(path), {}, stream.tell()
    for key in keys:
        (numel,) = struct.unpack("<q", file[start : start + 8].tobytes())
        storage = references.roots.get(str(key))
        if storage is None or storage.numel != numel:
            expected = "none" if storage is None else storage.numel
            raise TorchFileError(f"{path}: storage {key} has {numel} elements, expected {expected}")
        size = numel * _itemsize(storage)
        start += 8
        if start + size > len(file):
            raise TorchFileError(f"{path}: ends before its data does; get the file again")
        buffers[storage.key] = file[start : start + size]
        start += size
    return _Resolver(buffers)(result)


def _itemsize(storage: _Storage) -> int:
    return 1 if storage.dtype is None else np.dtype(_DTYPES[storage.dtype]).itemsize


def _map(path) -> np.ndarray:
    """The file as read-only bytes [size]; one map, since each holds a file descriptor."""
    return np.asarray(np.memmap(path, np.uint8, "r"))


class _Resolver:
    """Puts arrays in the place of references, each object once however often it occurs."""

    def __init__(self, buffers: dict[str, np.ndarray]):
        self._buffers = buffers
        self._done: dict[int, tuple] = {}  # id -> (object, so that its id stays its own; result)
        self._open: set[int] = set()

    def __call__(self, value, level: int = 0):
        if not isinstance(value, (Standin, dict, list, tuple)):
            return value
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._open:
            raise ProgramError(f"a {type(value).__name__} that contains itself")
        if level > _MOST_LEVELS:
            raise ProgramError(f"containers nested more than {_MOST_LEVELS} deep")
        self._open.add(id(value))
        result = self._resolved(value, level + 1)
        self._open.remove(id(value))
        self._done[id(value)] = value, result
        return result

    def _resolved(self, value, level: int):
        if isinstance(value, dict):
            return {key: self(item, level) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self(item, level) for item in value])
        if isinstance(value, _Tensor):
            return _array(value, self._buffers)
        if isinstance(value, _Dtype):
            return np.dtype(_DTYPES[value.name])
        raise ProgramError(f"a {type(value).__name__.strip('_')} in the place of a value")


def _array(tensor: _Tensor, buffers: dict[str, np.ndarray]) -> np.ndarray:
    """The tensor as a view of its storage; every number is checked here, whoever made it."""
    storage = tensor.storage
    if storage.key not in buffers:
        raise ProgramError(f"storage {storage.key} is missing; get the file again")
    if tensor.dtype not in _DTYPES:
        raise ProgramError("a tensor of unknown type")
    dtype, size = np.dtype(_DTYPES[tensor.dtype]), _itemsize(storage)
    (offset,) = _counts((tensor.offset,), "offset")
    shape, strides = _counts(tensor.shape, "shape"), _counts(tensor.strides, "strides")
    first, numel = _counts((storage.first, storage.numel), "storage")
    buffer = buffers[storage.key][first * size : (first + numel) * size]
    flat = buffer[: len(buffer) // dtype.itemsize * dtype.itemsize].view(dtype)
    if len(shape) != len(strides):
        raise ProgramError(f"a tensor of shape {shape}, strides {strides}")
    count = math.prod(shape)
    if count == 0:
        return np.zeros(shape, dtype)
    if offset + sum((n - 1) * s for n, s in zip(shape, strides)) >= len(flat):
        raise ProgramError(
            f"a tensor of shape {shape}, strides {strides}, offset {offset} leaves its storage of "
            f"{len(flat)} elements"
        )
    if count > max(len(flat), _MOST_EXPANDED):
        raise ProgramError(f"a tensor of shape {shape} expanded from {len(flat)} elements")
    strides = [s * dtype.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, strides, writeable=False)
