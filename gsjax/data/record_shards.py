"""Sets of records in ArrayRecord shards that several processes may write and an interrupted one goes on with.

A folder holds ``part-000-00000-<token>.array_record`` and so on, beside each a ``.json`` that lists what it
holds and is written after it, and ``records.json``, written last by :func:`seal`: a folder without it is
unfinished.
Unlike ``store`` (TFDS features), a record is any bytes and its fields are read in place
(``io.packed_arrays``): of a scene's hundreds of pictures an example decodes a few. Imports no JAX.
"""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from array_record.python import array_record_data_source, array_record_module

from gsjax.io import json_text, posed_checks, records

META = "records.json"
FORMAT = 1
_OPTIONS = "group_size:1,uncompressed"  # random access; pictures do not compress


class Writer:
    """Appends records to a set; a context manager.

    Args:
        folder: made if absent.
        identity: plain JSON values that say what the set is; all writers of a folder must agree.
        part: number of this writer where several work at once.
        shard_records: records a shard.

    Raises:
        ValueError: the folder holds another set.
        FileExistsError: the set is finished.
    """

    def __init__(self, folder, identity: Mapping, *, part: int = 0, shard_records: int = 64):
        self.folder, self._part, self._size = Path(folder), part, shard_records
        if (self.folder / META).exists():
            raise FileExistsError(
                f"folder: {folder} holds a finished set; delete it to make another"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._identity = _plain(identity)
        kept = _sidecars(self.folder, self._identity)
        self.written = {entry["key"] for _, side in kept for entry in side["entries"]}
        own = [int(path.stem.split("-")[2]) for path, side in kept if side["part"] == part]
        self._next = max(own, default=-1) + 1
        self._entries: list[dict] = []
        self._file = None
        # Shards are the writer's own: two processes may make one set, and sealing takes a record once.
        self._token = uuid.uuid4().hex[:8]

    def add(self, key: str, data: bytes, **entry) -> None:
        """Appends a record.

        Args:
            key: its name in the set; :attr:`written` holds those of whole shards.
            data: its bytes.
            **entry: plain values kept in the list of records; those with ``order`` are sorted by it.

        Raises:
            ValueError: the key is there already.
        """
        if key in self.written:
            raise ValueError(f"key: {key!r} is in the set already")
        if self._file is None:
            self._file = array_record_module.ArrayRecordWriter(self._path(".part"), _OPTIONS)
        self._file.write(data)
        self.written.add(key)
        self._entries.append({"key": key, **entry})
        if len(self._entries) >= self._size:
            self.flush()

    def flush(self) -> None:
        """Finishes the shard at hand."""
        if self._file is None:
            return
        self._file.close()
        os.replace(self._path(".part"), self._path(".array_record"))
        side = {"identity": self._identity, "part": self._part, "entries": self._entries}
        records.write_atomically(self._path(".json"), json.dumps(side).encode())
        self._file, self._entries, self._next = None, [], self._next + 1

    def _path(self, ending: str) -> str:
        return os.fspath(
            self.folder / f"part-{self._part:03d}-{self._next:05d}-{self._token}{ending}"
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, *unused):
        if kind is None:
            self.flush()
        elif self._file is not None:  # what is not whole does not count
            self._file.close()
            os.unlink(self._path(".part"))


def _plain(identity: Mapping) -> dict:
    return json.loads(json.dumps(dict(identity)))


def _sidecars(folder: Path, identity: dict) -> list[tuple[Path, dict]]:
    found = []
    for path in sorted(folder.glob("part-*.json")):
        try:
            side = json_text.read(path, dict)
            known = json_text.member(side, "identity", dict, path.name)
            _check_entries(json_text.member(side, "entries", list, path.name), ("key",), path.name)
            json_text.member(side, "part", int, path.name)
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); delete it and its shard") from None
        if known != identity:
            raise ValueError(
                f"folder: {folder} holds another set ({path.name}: {_difference(known, identity)}); "
                "choose another folder"
            )
        found.append((path, side))
    return found


def _check_entries(entries: list, texts: tuple[str, ...], source: str) -> None:
    """Raises ValueError unless each is an object with these texts and, if any, a number as ``order``."""
    for entry in entries:
        for name in texts:
            json_text.member(entry, name, str, source)
        json_text.member({"order": 0, **entry}, "order", (int, float), source)


def _difference(found: Mapping, wanted: Mapping) -> str:
    keys = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
    return ", ".join(f"{k} is {found.get(k)!r}, not {wanted.get(k)!r}" for k in keys[:3])


def seal(folder, identity: Mapping, *, expected: int | None = None, notes: Mapping = {}) -> None:
    """Declares a set finished.

    Args:
        folder: with all shards.
        identity: as the writers had it.
        expected: number of records there must be; None = any but 0.
        notes: plain values kept beside the identity.

    Raises:
        ValueError: another number of records, or shards of another set.
    """
    folder, identity = Path(folder), _plain(identity)
    found: dict[str, dict] = {}
    for path, side in _sidecars(folder, identity):
        shard = path.with_suffix(".array_record").name
        for row, entry in enumerate(side["entries"]):
            found.setdefault(entry["key"], {**entry, "shard": shard, "row": row})
    entries = list(found.values())
    entries.sort(key=lambda entry: entry.get("order", 0))
    if not entries or (expected is not None and len(entries) != expected):
        raise ValueError(
            f"folder: {folder} holds {len(entries)} records, {expected or 'some'} expected; let all "
            "writers end first"
        )
    meta = {"format": FORMAT, "identity": identity, "notes": dict(notes), "entries": entries}
    records.write_atomically(folder / META, json.dumps(meta).encode())


def is_finished(folder) -> bool:
    """True if ``folder`` holds a sealed set."""
    return (Path(folder) / META).exists()


class Reader:
    """Random access to the bytes of a sealed set; may be pickled and shared between threads.

    Attributes:
        identity, notes: as they were given.
        entries: of each record, in order: ``key`` and what else its writer noted.

    Args:
        folder: of the set.
        kind: value of ``identity['kind']`` that is expected.

    Raises:
        ValueError: no finished set, or one of another kind or format.
    """

    def __init__(self, folder, kind: str):
        self.folder = Path(folder)
        path = self.folder / META
        if not path.exists():
            raise ValueError(
                f"folder: {folder} holds no finished set (no {META}); make it, or let its writers end"
            )
        try:
            meta = json_text.read(path, dict)
            self.identity = json_text.member(meta, "identity", dict, META)
            self.notes = json_text.member(meta, "notes", dict, META)
            self.entries = json_text.member(meta, "entries", list, META)
            version = json_text.member(meta, "format", int, META)
            _check_entries(self.entries, ("key", "shard"), META)
            for entry in self.entries:
                row = json_text.member(entry, "row", int, META)
                if row < 0 or Path(entry["shard"]).name != entry["shard"]:
                    raise ValueError(f"row {row} of {entry['shard']!r:.80}")
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); make the set again") from None
        if version != FORMAT or self.identity.get("kind") != kind:
            raise ValueError(
                f"{path}: format {version}, kind {self.identity.get('kind')!r} found; {FORMAT} and "
                f"{kind!r} expected"
            )
        shards = sorted({entry["shard"] for entry in self.entries})
        absent = [name for name in shards if not posed_checks.is_file(self.folder / name)]
        if absent:
            raise ValueError(f"{path}: {len(absent)} shards are missing, the first is {absent[0]}")
        self._open: dict = {}
        self._places = {entry["key"]: place for place, entry in enumerate(self.entries)}

    def __len__(self) -> int:
        return len(self.entries)

    def place_of(self, key: str) -> int | None:
        """Number of the record of this name; None = there is none."""
        return self._places.get(key)

    def __getstate__(self):
        return {**self.__dict__, "_open": {}}

    def _shard(self, name: str):
        if name not in self._open:
            path = os.fspath(self.folder / name)
            self._open[name] = array_record_data_source.ArrayRecordDataSource([path])
        return self._open[name]

    def __getitem__(self, place: int) -> bytes:
        entry = self.entries[place]
        shard = self._shard(entry["shard"])
        if entry["row"] >= len(shard):
            raise ValueError(
                f"{self.folder / entry['shard']}: {len(shard)} records, {META} asks for number "
                f"{entry['row']}; make the set again"
            )
        return shard[entry["row"]]
