"""Examples of one picture and one caption each, for training and testing image/text towers.

Gaussians are not read. Pictures are decoded when an example shows them, and stay in memory while they fit, since
a small set is gone through hundreds of times and decoding would be most of the work. Imports no JAX.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from gsjax.data import embeddings, features, store

FIELDS = ("index", "uid", "category", "captions", "views")
MEMORY = 1 << 30  # bytes of pictures that are kept, unless a config says otherwise


def memory_of(data_config) -> int:
    """Bytes that ``data.memory`` (MB) lets a process keep of what it decoded."""
    megabytes = data_config.get("memory", MEMORY >> 20)
    if megabytes < 0:
        raise ValueError(f"data.memory: expected megabytes from 0 on, found {megabytes}")
    return int(megabytes) << 20


class Budget:
    """Bytes that several holders may keep together; safe between threads."""

    def __init__(self, size: int):
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """True if ``size`` bytes were left; they are then taken."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True


class KeptRecords:
    """Records whose ``views`` are arrays, kept in memory up to a bound.

    Args:
        records: random access.
        memory: bytes of pictures that may be kept.
    """

    def __init__(self, records, memory: int = MEMORY):
        self._records, self._memory = records, memory
        self._forget()

    def _forget(self):
        self._kept: dict[int, dict] = {}
        self._budget = Budget(self._memory)

    def __len__(self) -> int:
        return len(self._records)

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_kept", "_budget")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._forget()

    def __getitem__(self, position: int) -> dict:
        kept = self._kept.get(position)
        if kept is not None:
            return kept
        record = self._read(position)
        if self._budget.take(record["views"].nbytes):
            self._kept[position] = record
        return record

    def _read(self, position: int) -> dict:
        return self._records[position]


class Views:
    """Pictures of a record, decoded when they are asked for: of dozens an example shows a few.

    ``views[i]`` is one picture, ``views[rows]`` an array [R, ...] of those; ``len`` is their number.

    Args:
        files: picture files.
        prepare: pixels as stored -> as wanted.
        budget: of what may stay decoded.

    Attributes:
        nbytes: of the files.
    """

    def __init__(self, files: Sequence[bytes], prepare: Callable, budget: Budget):
        self._files, self._prepare, self._budget = files, prepare, budget
        self._decoded: dict[int, np.ndarray] = {}
        self.nbytes = sum(map(len, files))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, chosen):
        rows = np.arange(len(self))[chosen]
        if rows.ndim == 0:
            return self._one(int(rows))
        return np.stack([self._one(int(row)) for row in rows])

    def _one(self, row: int) -> np.ndarray:
        found = self._decoded.get(row)
        if found is None:
            found = self._prepare(features.decode_png(self._files[row]))
            if self._budget.take(found.nbytes):
                self._decoded[row] = found
        return found


class DecodedRecords(KeptRecords):
    """Records of a split with ``views`` decoded and prepared when asked for, kept up to a bound.

    Args:
        records: random access to records with ``FIELDS``.
        prepare: uint8 [H, W, C] -> uint8 [S, S, 3].
        memory: bytes of files and of prepared pictures that may be kept.
    """

    def __init__(self, records, prepare: Callable[[np.ndarray], np.ndarray], memory: int = MEMORY):
        super().__init__(records, memory)
        self._prepare = prepare

    def _read(self, position: int) -> dict:
        record = dict(self._records[position])
        if not record["views"] or not record["captions"]:
            raise ValueError(
                f"record {record['uid']!r} has {len(record['views'])} pictures and "
                f"{len(record['captions'])} captions; this system needs both: prepare the set with "
                "views > 0"
            )
        record["views"] = Views(record["views"], self._prepare, self._budget)
        return record


def picture_examples(
    records: Sequence[Mapping] | DecodedRecords,
    *,
    tokenize: Callable[[str], np.ndarray],
    seed: int,
    train: bool,
    with_text: bool = False,
) -> grain.MapDataset:
    """Examples of a picture and a caption, in the order of ``records``.

    Fields: ``index`` int32 [], ``valid`` bool [] (True), ``category`` int32 [], ``view`` uint8
    [S, S, 3], ``tokens`` int32 (the tokenizer's shape) and ``caption_hash`` uint32 [].

    Args:
        records: random access to records whose ``views`` are uint8 [V, S, S, 3].
        tokenize: caption -> ids.
        seed: of the draws.
        train: draw a view and a caption anew for every step, or take the first ones.
        with_text: also the field ``caption``, a ``str``; such examples cannot go to a device.
    """

    def pick(record, rng=None):
        views, captions = record["views"], record["captions"]
        view = 0 if rng is None else int(rng.integers(len(views)))
        caption = captions[0 if rng is None else int(rng.integers(len(captions)))]
        text = {"caption": caption} if with_text else {}
        return {
            **text,
            "index": np.int32(record["index"]),
            "valid": np.bool_(True),
            "category": np.int32(record["category"]),
            "view": views[view],
            "tokens": tokenize(caption),
            "caption_hash": np.uint32(embeddings.caption_hash(caption)),
        }

    dataset = grain.MapDataset.source(records)
    return dataset.random_map(pick, seed=seed) if train else dataset.map(pick)


def open_decoded(dataset_dir, split: str, prepare, memory: int = MEMORY) -> DecodedRecords:
    """One split of a prepared set with its pictures decoded; see :class:`DecodedRecords`."""
    return DecodedRecords(store.open_split(dataset_dir, split, fields=FIELDS), prepare, memory)
