"""Examples of one picture and one caption each, for training and testing image/text towers.

Gaussians are not read. Decoded pictures stay in memory while they fit, since a small set is gone
through hundreds of times and decoding would be most of the work. Imports no JAX.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from gsjax.data import embeddings, features, store

FIELDS = ("index", "uid", "category", "captions", "views")


class KeptRecords:
    """Records whose ``views`` are arrays, kept in memory up to a bound.

    Args:
        records: random access.
        memory: bytes of pictures that may be kept.
    """

    def __init__(self, records, memory: int = 1 << 30):
        self._records, self._memory = records, memory
        self._kept: dict[int, dict] = {}
        self._used = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def __getstate__(self):
        return {**self.__dict__, "_kept": {}, "_used": 0, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __getitem__(self, position: int) -> dict:
        kept = self._kept.get(position)
        if kept is not None:
            return kept
        record = self._read(position)
        with self._lock:
            if self._used + record["views"].nbytes <= self._memory:
                self._kept[position] = record
                self._used += record["views"].nbytes
        return record

    def _read(self, position: int) -> dict:
        return self._records[position]


class DecodedRecords(KeptRecords):
    """Records of a split with ``views`` decoded and prepared, kept in memory up to a bound.

    Args:
        records: random access to records with ``FIELDS``.
        prepare: uint8 [H, W, C] -> uint8 [S, S, 3].
        memory: bytes of prepared pictures that may be kept.
    """

    def __init__(self, records, prepare: Callable[[np.ndarray], np.ndarray], memory: int = 1 << 30):
        super().__init__(records, memory)
        self._prepare = prepare

    def _read(self, position: int) -> dict:
        record = dict(self._records[position])
        pictures = [self._prepare(features.decode_png(data)) for data in record["views"]]
        if not pictures or not record["captions"]:
            raise ValueError(
                f"record {record['uid']!r} has {len(pictures)} pictures and "
                f"{len(record['captions'])} captions; this system needs both: prepare the set with "
                "views > 0"
            )
        record["views"] = np.stack(pictures)
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


def open_decoded(dataset_dir, split: str, prepare, memory: int = 1 << 30) -> DecodedRecords:
    """One split of a prepared set with its pictures decoded; see :class:`DecodedRecords`."""
    return DecodedRecords(store.open_split(dataset_dir, split, fields=FIELDS), prepare, memory)
