"""Cache of frozen-tower embeddings: written once per data set, read at random in the input pipeline.

A contrastive system trains against image and text towers that never change, so their outputs are
computed once (``gsjax.data.embed``, through ``gsjax.data.embedding_writer``) and read back here.
This file knows the format and nothing of towers; it imports no JAX.

Folder layout (local disk or any store that ``etils.epath`` opens)::

    cache.json           written last: the key, sizes, shard names. Without it there is no cache.
    shard-00000.json     sizes, uids, text offsets and checksum of the shard beside it
    shard-00000.bin      image_embed | score | text_embed | caption_hash, little endian
    classes.npz          one embedding per category name and template set

Every file is written under a temporary name and renamed, so an interrupted writer leaves whole
shards, which the next one keeps.

Source of the record: CLIP-GS (arXiv 2412.19142) trains from frozen towers; its score S is the
cosine of a text and an image embedding.
"""

import dataclasses
import hashlib
import json
import os
import threading
import zlib

import grain
import numpy as np
from etils import epath

from gsjax.io import json_text, npz

FORMAT = 1
_VERIFY_BYTES = 1 << 28  # checksums of caches up to this size are verified on opening


@dataclasses.dataclass(frozen=True)
class CacheKey:
    """Everything an embedding depends on.

    Attributes:
        tower: name of the pair of towers.
        weights: digest of its weights and architecture.
        preprocessing: what happens to pixels and text before the towers, in words.
        dataset: fingerprint of the data set.
    """

    tower: str
    weights: str
    preprocessing: str
    dataset: str

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all parts and of the file format's number."""
        parts = json.dumps([FORMAT, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()

    def describe(self) -> str:
        """One line that names every part."""
        return (
            f"{self.digest[:16]} (tower {self.tower!r}, weights {self.weights[:12]}, "
            f"preprocessing {self.preprocessing!r}, data set {self.dataset[:12]})"
        )


def caption_hash(caption: str) -> int:
    """CRC-32 of a caption with case and spacing folded: equal for captions that mean the same."""
    return zlib.crc32(" ".join(caption.lower().split()).encode("utf-8"))


def read_json(path: epath.Path) -> dict:
    """A JSON file of a cache.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json_text.read(path, dict)
    except ValueError as error:
        raise ValueError(
            f"embedding cache: {error}; delete {path.parent} and make the cache again"
        ) from None


def is_complete(folder) -> bool:
    """True if ``folder`` holds a finished cache (of whatever key)."""
    return (epath.Path(folder) / "cache.json").exists()


class _Shard:
    """One shard, read by byte ranges; a local file is memory-mapped, a remote one is seeked."""

    def __init__(self, folder: epath.Path, number: int, views: int, dim: int, digest: str):
        self._path = folder / f"shard-{number:05d}.bin"
        head = read_json(folder / f"shard-{number:05d}.json")
        self._check(head, folder)
        self.uids = head["uids"]
        self._offsets = head["text_offsets"]
        self._bytes, self._crc = head["bytes"], head["crc32"]
        rows, texts = len(self.uids), self._offsets[-1]
        sizes = [rows * views * dim * 2, rows * views * 2, texts * dim * 2, texts * 4]
        self._starts = np.cumsum([0] + sizes).tolist()
        self._views, self._dim = views, dim
        self._map, self._lock = None, threading.Lock()
        found = self._path.stat().length if self._path.exists() else None
        if head["key"] != digest or self._starts[-1] != self._bytes or found != self._bytes:
            raise ValueError(
                f"embedding cache: {self._path} is damaged: {found} bytes found, "
                f"{self._starts[-1]} expected; delete {folder} and make the cache again"
            )

    @staticmethod
    def _check(head: dict, folder) -> None:
        """Raises unless a shard's description is whole: uids, and ascending offsets of their texts."""
        where = f"embedding cache: {folder}"
        for name, kind in dict(bytes=int, crc32=int, key=str).items():
            json_text.member(head, name, kind, where)
        uids, offsets = (json_text.member(head, n, list, where) for n in ("uids", "text_offsets"))
        whole = all(isinstance(uid, str) for uid in uids) and len(offsets) == len(uids) + 1
        whole = whole and all(type(n) is int and 0 <= n < 2**48 for n in offsets)
        if not whole or offsets != sorted(offsets) or offsets[0]:
            raise ValueError(f"{where}: a shard's uids and text_offsets are damaged; make it again")

    def verify(self) -> None:
        """Raises if the content does not match its checksum."""
        if zlib.crc32(self._path.read_bytes()) != self._crc:
            raise ValueError(
                f"embedding cache: {self._path} is damaged (its checksum differs); delete "
                f"{self._path.parent} and make the cache again"
            )

    @property
    def num_bytes(self) -> int:
        return self._bytes

    def __getstate__(self):
        return {**self.__dict__, "_map": None, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _read(self, start: int, count: int) -> bytes:
        if "://" not in os.fspath(self._path):
            if self._map is None:
                self._map = np.memmap(os.fspath(self._path), np.uint8, mode="r")
            return self._map[start : start + count].tobytes()
        with self._lock:  # one handle, shared by the read threads
            if self._map is None:
                self._map = self._path.open("rb")
            self._map.seek(start)
            return self._map.read(count)

    def _array(self, section: int, dtype: str, row: int, rows: int, width: int) -> np.ndarray:
        item = np.dtype(dtype).itemsize * width
        data = self._read(self._starts[section] + row * item, rows * item)
        return np.frombuffer(data, dtype).reshape(rows, width)

    def record(self, row: int) -> dict[str, np.ndarray]:
        lo, hi = self._offsets[row], self._offsets[row + 1]
        views = self._array(0, "<f2", row * self._views, self._views, self._dim)
        return dict(
            image_embed=views,
            score=self._array(1, "<f2", row, 1, self._views)[0],
            text_embed=self._array(2, "<f2", lo, hi - lo, self._dim),
            caption_hash=self._array(3, "<u4", lo, hi - lo, 1)[:, 0],
        )


class EmbeddingCache:
    """A finished cache, read by uid.

    Attributes:
        key: the :class:`CacheKey` it was made with.
        dim: D, width of every embedding.
        num_views: V, embedded views a record.
        class_names: categories in label order.
        class_embeds: {template set: float16 [C, D]}, rows L2-normalised.
    """

    def __init__(self, folder: epath.Path, meta: dict, key: CacheKey):
        self.folder, self.key = folder, key
        where = f"embedding cache: {folder}"
        for name in ("dim", "num_views", "shards", "num_records"):
            if not 0 <= json_text.member(meta, name, int, where) < 2**31:
                raise ValueError(f"{where}: {name}: {meta[name]}")
        json_text.member(meta, "class_names", list, where)
        json_text.member(meta, "digest", str, where)
        json_text.member(meta, "provenance", dict, where)
        self.dim, self.num_views = meta["dim"], meta["num_views"]
        self.class_names = tuple(meta["class_names"])
        self.provenance = meta["provenance"]
        self._shards = [
            _Shard(folder, s, self.num_views, self.dim, meta["digest"])
            for s in range(meta["shards"])
        ]
        self._rows = {
            uid: (s, row)
            for s, shard in enumerate(self._shards)
            for row, uid in enumerate(shard.uids)
        }
        if len(self._rows) != meta["num_records"]:
            raise ValueError(
                f"embedding cache: {folder} holds {len(self._rows)} distinct uids, expected "
                f"{meta['num_records']}; uids of a data set must differ"
            )
        if sum(shard.num_bytes for shard in self._shards) <= _VERIFY_BYTES:
            self.verify()
        self.class_embeds = npz.read(folder / "classes.npz")

    @classmethod
    def open(cls, folder, expected_key: CacheKey) -> "EmbeddingCache":
        """Opens a cache, refusing one that was made for anything else.

        Raises:
            ValueError: there is no finished cache, it is damaged, or its key differs from
                ``expected_key``; the message names both keys and the parts that differ.
        """
        folder = epath.Path(folder)
        if not is_complete(folder):
            raise ValueError(
                f"embedding cache: {folder} holds no finished cache (no cache.json); make it with "
                "`python -m gsjax.data.embed`"
            )
        meta = read_json(folder / "cache.json")
        if meta.get("format") != FORMAT:
            raise ValueError(
                f"embedding cache: {folder} has format {meta.get('format')}, expected {FORMAT}; "
                "make it again"
            )
        said = json_text.member(meta, "key", dict, f"embedding cache: {folder}")
        parts = [field.name for field in dataclasses.fields(CacheKey)]
        where = f"embedding cache: {folder}: key"
        found = CacheKey(*(json_text.member(said, part, str, where) for part in parts))
        if found != expected_key:
            wrong = [p for p in parts if getattr(found, p) != getattr(expected_key, p)]
            raise ValueError(
                f"embedding cache: {folder} was made with key {found.describe()}, expected "
                f"{expected_key.describe()}; they differ in {', '.join(wrong)}. Make the cache "
                "again with the towers and data of this run, or point the run at the right ones"
            )
        return cls(folder, meta, found)

    def verify(self) -> None:
        """Checks every shard against its checksum (done on opening for small caches).

        Raises:
            ValueError: a shard is damaged.
        """
        for shard in self._shards:
            shard.verify()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, uid: str) -> bool:
        return uid in self._rows

    def __getitem__(self, uid: str) -> dict[str, np.ndarray]:
        """``image_embed`` f16 [V, D], ``text_embed`` f16 [T, D], ``score`` f16 [V],
        ``caption_hash`` uint32 [T] of one record.

        Raises:
            ValueError: no such uid.
        """
        if uid not in self._rows:
            raise ValueError(
                f"embedding cache: {self.folder} has no record {uid!r} (of {len(self)}); it was "
                "made from other records than these"
            )
        shard, row = self._rows[uid]
        return self._shards[shard].record(row)


def join(
    examples: grain.MapDataset,
    cache: EmbeddingCache,
    *,
    caption: str = "random",
    seed: int = 0,
) -> grain.MapDataset:
    """Adds the embeddings of one caption and of all views to every example.

    Adds ``text_embed`` f32 [D], ``image_embed`` f32 [V, D] and ``caption_hash`` uint32 [], and
    takes ``uid`` out.

    Args:
        examples: single examples carrying ``uid`` (text or bytes); records are found by it, so
            order and split do not matter.
        cache: embeddings of the same data set.
        caption: 'random' draws one per example and epoch, 'first' always takes the first.
        seed: of the draw.

    Raises:
        ValueError: unknown ``caption``; while reading, a record that the cache does not hold.
    """
    if caption not in ("random", "first"):
        raise ValueError(f"join: caption must be 'random' or 'first', found {caption!r}")

    def add(example, rng=None):
        example = dict(example)
        uid = example.pop("uid", None)
        if uid is None:
            raise ValueError(
                f"join: examples carry no 'uid' (fields: {sorted(example)}); read that field too"
            )
        record = cache[_text(uid)]
        pick = 0 if rng is None else int(rng.integers(len(record["text_embed"])))
        example["text_embed"] = record["text_embed"][pick].astype(np.float32)
        example["image_embed"] = record["image_embed"].astype(np.float32)
        example["caption_hash"] = np.uint32(record["caption_hash"][pick])
        return example

    if caption == "first":
        return examples.map(add)
    return examples.random_map(add, seed=seed)


def _text(uid) -> str:
    """A uid as text, whether it comes as str, bytes or a NumPy scalar."""
    uid = uid.item() if isinstance(uid, np.ndarray | np.generic) else uid
    return uid.decode("utf-8") if isinstance(uid, bytes) else str(uid)
