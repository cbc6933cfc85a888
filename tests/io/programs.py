"""Pickle programs put together instruction by instruction, as no pickler would write them."""

import struct
import zipfile

NONE, POP, EMPTY_DICT, EMPTY_LIST = b"N", b"0", b"}", b"]"
BUILD, REDUCE, SETITEM, APPEND, BINPERSID = b"b", b"R", b"s", b"a", b"Q"


def program(*parts: bytes) -> bytes:
    """A whole program of protocol 2."""
    return b"\x80\x02" + b"".join(parts) + b"."


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def several(*parts: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def numbers(values) -> bytes:
    return several(*map(number, values))


def mapping(**items: bytes) -> bytes:
    return EMPTY_DICT + b"".join(text(key) + value + SETITEM for key, value in items.items())


def tower(levels: int) -> bytes:
    """Leaves a tuple on the stack that holds another twice, ``levels`` deep: 2^levels paths."""
    return b")" + b"".join(b"q\x000h\x00h\x00\x86" for _ in range(levels))


def storage(numel: int = 4, key: str = "0", kind: str = "FloatStorage") -> bytes:
    parts = text("storage"), name("torch", kind), text(key), text("cpu"), number(numel)
    return several(*parts) + BINPERSID


def tensor(shape=(4,), strides=(1,), offset: int = 0, held: bytes | None = None) -> bytes:
    parts = held or storage(), number(offset), numbers(shape), numbers(strides), b"\x89", b"N"
    return name("torch._utils", "_rebuild_tensor_v2") + several(*parts) + REDUCE


def write(path, code: bytes, storages=None, method=zipfile.ZIP_STORED):
    """An archive as torch.save lays it out."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", code)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path
