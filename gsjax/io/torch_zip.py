"""The zip archives of ``torch.save``: members stored as they are, under one folder.

torch neither compresses nor encrypts tensors and their programs, so an archive that does is another
program's, and a few bytes of it could stand for gigabytes: such a member is refused before it is read.
What a member holds is not known here: see ``torch_pickle`` and ``gaussian_array``.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_LOCAL = b"PK\x03\x04"
_LOCAL_SIZE = 30
_ENCRYPTED = 0x1


class Archive:
    """Names (without the folder) to members; ``name in archive``, iteration over names.

    Args:
        stream: binary, seekable, open as long as members are read.

    Raises:
        ValueError: no zip archive, a damaged one, or two members of one name.
    """

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._size = stream.seek(0, os.SEEK_END)
        try:
            self._zip = zipfile.ZipFile(stream)
        # NotImplementedError (a RuntimeError): a version of the format that zipfile does not know.
        except (zipfile.BadZipFile, RuntimeError, struct.error, EOFError) as error:
            raise ValueError(f"no zip archive, or damaged: {error}") from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename.partition("/")[2]
            if not name or name.endswith("/"):  # folders, and files beside that of torch
                continue
            if name in self._members:
                raise ValueError(f"two members with the name {name[:80]}")
            self._members[name] = info

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def read(self, name: str) -> bytes:
        """A member's bytes, checked against its checksum.

        Raises:
            ValueError: they are damaged, compressed or encrypted, or more than the file has.
        """
        info = self._checked(name)
        try:
            return self._zip.read(info)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, struct.error, EOFError) as error:
            raise ValueError(f"member {name} is damaged: {error}") from None

    def place(self, name: str) -> tuple[int, int]:
        """Where a member's bytes begin in the stream, and how many there are.

        Raises:
            ValueError: the bytes leave the file, or are compressed or encrypted.
        """
        info = self._checked(name)
        self._stream.seek(info.header_offset)
        header = self._stream.read(_LOCAL_SIZE)
        if len(header) < _LOCAL_SIZE or header[:4] != _LOCAL:
            raise ValueError(f"member {name} has no header")
        named, extra = struct.unpack("<HH", header[26:30])
        start = info.header_offset + _LOCAL_SIZE + named + extra
        if start + info.file_size > self._size:
            raise ValueError(f"member {name} leaves the file; get it again")
        return start, info.file_size

    def _checked(self, name: str) -> zipfile.ZipInfo:
        """The entry of a member that is stored as it is and fits into the file."""
        info = self._members[name]
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"member {name} is encrypted; save it again with torch.save")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"member {name} is compressed (method {info.compress_type}), which torch.save does "
                "not do; unpack the archive and pack it without compression (zip -0 -r)"
            )
        if info.file_size != info.compress_size or not 0 <= info.header_offset < self._size:
            raise ValueError(f"member {name} has sizes that do not agree")
        if info.header_offset + _LOCAL_SIZE + info.file_size > self._size:
            raise ValueError(f"member {name} leaves the file of {self._size} bytes; get it again")
        return info
