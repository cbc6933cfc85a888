"""Tensors from PyTorch's .pt/.pth/.bin files, without torch and without running what they hold.

Such a file is a pickle program beside raw storages: since PyTorch 1.6 a zip archive (``data.pkl``,
``data/0``, ``data/1``, ...), before that one stream (three headers, the object, the list of storages,
then each storage behind its element count). The program here may only name what tensors need
(``_ALLOWED``); any other global is refused by name before anything is called. Storages are mapped,
not read, so a large file costs memory only where it is touched.

Not read: TorchScript archives, sparse and quantised tensors, tensor subclasses, big-endian files.
"""

import collections
import dataclasses
import io
import math
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
from etils import epath

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
# What a broken or hostile pickle program can make the unpickler raise.
_BROKEN = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError),
    *(UnicodeDecodeError, OverflowError, RecursionError, MemoryError, struct.error),
)


class TorchFileError(ValueError):
    """A file that is no readable PyTorch checkpoint, or asks for more than tensors."""


@dataclasses.dataclass(frozen=True, slots=True)
class _StorageType:
    """A storage class as the program names it; None = bytes of a type given later."""

    dtype: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Dtype:
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    """Reference to raw bytes: ``numel`` elements of ``dtype`` (bytes where it is None)."""

    key: str
    dtype: str | None
    numel: int
    first: int = 0  # element of the root storage at which a view of it starts


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor whose storage is still to be found."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Rebuild:
    """A callable without attributes: a pickle program cannot alter it as it could a function."""

    __slots__ = ()


class _RebuildTensor(_Rebuild):
    """``_rebuild_tensor``, ``_rebuild_tensor_v2`` and, with a dtype behind, ``_v3``."""

    __slots__ = ()

    def __call__(self, storage, offset, shape, strides, *rest):
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        name = storage.dtype
        if len(rest) > 2 and isinstance(rest[2], _Dtype):  # v3: requires_grad, hooks, dtype
            name = rest[2].name
        if name is None:
            raise pickle.UnpicklingError("a tensor without a type")
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
            raise pickle.UnpicklingError(f"a tensor of shape {shape}, strides {strides}")
        return _Tensor(storage, name, offset, tuple(shape), tuple(strides))


class _RebuildParameter(_Rebuild):
    """``_rebuild_parameter``: its tensor."""

    __slots__ = ()

    def __call__(self, data, requires_grad=False, hooks=None, state=None):
        return data


class _Size(_Rebuild):
    """``torch.Size``: a tuple."""

    __slots__ = ()

    def __call__(self, sizes=()):
        return tuple(sizes)


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
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


class _Unpickler(pickle.Unpickler):
    """Runs a program that may name nothing but ``_ALLOWED``."""

    def __init__(self, stream, path):
        super().__init__(stream, encoding="utf-8")
        self._path = path
        self.storages: dict[str, _Storage] = {}  # roots, by key

    def find_class(self, module, name):
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise TorchFileError(
                f"{self._path}: the file asks to load {module}.{name}, which no tensor needs; "
                f"refused, nothing of it was run. If the file is to be trusted, {_REMEDY}"
            ) from None

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError(f"unknown reference {pid!r:.80}")
        _, kind, key, _, numel, *view = pid
        if not isinstance(kind, _StorageType) or type(numel) is not int or numel < 0:
            raise pickle.UnpicklingError(f"unknown storage {pid!r:.80}")
        root = self.storages.setdefault(str(key), _Storage(str(key), kind.dtype, numel))
        if (root.dtype, root.numel) != (kind.dtype, numel):
            raise pickle.UnpicklingError(f"storage {key} has two types or sizes")
        if view and view[0] is not None:  # legacy: (key, offset, size) into the root storage
            _, first, size = view[0]
            if min(first, size) < 0 or first + size > numel:
                raise pickle.UnpicklingError(f"a view that leaves storage {key}")
            return dataclasses.replace(root, first=first, numel=size)
        return root


def read(path: epath.PathLike):
    """The object in a PyTorch file, tensors as read-only arrays mapped from it.

    Args:
        path: local file of ``torch.save``.

    Returns:
        Containers and plain values as they were, each tensor as ``np.ndarray`` (bfloat16 and
        float8 in the types of ``ml_dtypes``), strided as it was saved.

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
            if start == b"PK\x03\x04":
                return _read_zip(path, stream)
            stream.seek(0)
            return _read_legacy(path, stream)
    except TorchFileError:
        raise
    except (*_BROKEN, ValueError, OSError, zipfile.BadZipFile) as error:
        raise TorchFileError(
            f"{path}: damaged, or not a PyTorch file ({type(error).__name__}: {error})"
        ) from None


def _read_zip(path, stream):
    with zipfile.ZipFile(stream) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            raise TorchFileError(
                f"{path}: a TorchScript archive (a program, as OpenAI published CLIP); get the same "
                "weights as plain tensors: the file open_clip_model.safetensors of the repository "
                "timm/vit_*_clip_*.openai, or model.safetensors of openai/clip-vit-*"
            )
        if "data.pkl" not in names:
            raise TorchFileError(f"{path}: a zip archive without data.pkl: not a PyTorch file")
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise TorchFileError(f"{path}: saved on a big-endian machine; {_REMEDY}")
        unpickler = _Unpickler(io.BytesIO(archive.read(names["data.pkl"])), path)
        result = unpickler.load()
        buffers = {}
        for key, storage in unpickler.storages.items():
            if f"data/{key}" not in names:
                raise TorchFileError(f"{path}: storage {key} is missing; get the file again")
            info = archive.getinfo(names[f"data/{key}"])
            wanted = storage.numel * _itemsize(storage)
            if info.file_size != wanted:
                raise TorchFileError(
                    f"{path}: storage {key} has {info.file_size} bytes, expected {wanted}"
                )
            if info.compress_type != zipfile.ZIP_STORED:
                buffers[key] = np.frombuffer(archive.read(info), np.uint8)
            else:
                buffers[key] = _map(path, _data_start(stream, info), wanted)
    return _resolved(result, buffers)


def _data_start(stream, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin."""
    stream.seek(info.header_offset)
    header = stream.read(30)
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra


def _read_legacy(path, stream):
    if _Unpickler(stream, path).load() != _LEGACY_MAGIC:
        raise TorchFileError(f"{path}: not a PyTorch file")
    version = _Unpickler(stream, path).load()
    system = _Unpickler(stream, path).load()
    if version != _LEGACY_VERSION or not system.get("little_endian", True):
        raise TorchFileError(f"{path}: version {version}, {system}: cannot be read; {_REMEDY}")
    unpickler = _Unpickler(stream, path)
    result = unpickler.load()
    keys = _Unpickler(stream, path).load()
    buffers, start = {}, stream.tell()
    for key in keys:
        stream.seek(start)
        (numel,) = struct.unpack("<q", stream.read(8))
        storage = unpickler.storages.get(str(key))
        if storage is None or storage.numel != numel:
            raise TorchFileError(f"{path}: storage {key} has {numel} elements, expected {storage}")
        size = numel * _itemsize(storage)
        buffers[storage.key] = _map(path, start + 8, size)
        start += 8 + size
    return _resolved(result, buffers)


def _itemsize(storage: _Storage) -> int:
    return 1 if storage.dtype is None else np.dtype(_DTYPES[storage.dtype]).itemsize


def _map(path, start: int, size: int) -> np.ndarray:
    """Bytes of the file as a read-only map."""
    if not size:
        return np.zeros(0, np.uint8)
    if start + size > path.stat().length:
        raise TorchFileError(f"{path}: ends before its data does; get the file again")
    return np.memmap(path, np.uint8, "r", start, (size,))


def _resolved(value, buffers: dict[str, np.ndarray]):
    """The object with arrays in the place of references."""
    if isinstance(value, _Tensor):
        return _array(value, buffers)
    if isinstance(value, dict):
        # dict.items, not value.items: a program may have set attributes of an OrderedDict.
        return {key: _resolved(item, buffers) for key, item in dict.items(value)}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(item, buffers) for item in value)
    return value


def _array(tensor: _Tensor, buffers: dict[str, np.ndarray]) -> np.ndarray:
    storage = tensor.storage
    if storage.key not in buffers:
        raise TorchFileError(f"storage {storage.key} is missing; get the file again")
    dtype = np.dtype(_DTYPES[tensor.dtype])
    size = _itemsize(storage)
    buffer = buffers[storage.key][storage.first * size : (storage.first + storage.numel) * size]
    flat = np.asarray(buffer)[: len(buffer) // dtype.itemsize * dtype.itemsize].view(dtype)
    reach = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides))
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, dtype)
    if reach >= len(flat):
        raise TorchFileError(
            f"a tensor of shape {tensor.shape}, strides {tensor.strides}, offset {tensor.offset} "
            f"leaves its storage of {len(flat)} elements"
        )
    strides = [s * dtype.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )
