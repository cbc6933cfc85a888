"""Writes the embedding cache that ``gsjax.data.embeddings`` reads (the format is described there).

An interrupted writer leaves whole shards, which the next one keeps; ``cache.json`` comes last, so
a cache that can be opened is complete. No JAX here.
"""

import dataclasses
import io
import json
import os
import threading
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from gsjax.data import embeddings


def _write_atomic(path: epath.Path, data: bytes) -> None:
    """Writes under a name of this process, then renames over the target."""
    scratch = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    scratch.write_bytes(data)
    scratch.replace(path)


class CacheWriter:
    """Writes a cache shard by shard; shards that an earlier, interrupted run finished are kept.

    Args:
        folder: where the cache goes; made if absent.
        key: what the embeddings depend on.
        num_records, num_views, dim: sizes of the whole cache.
        shard_records: records a shard; the last one may be shorter.
    """

    def __init__(
        self,
        folder,
        key: embeddings.CacheKey,
        *,
        num_records: int,
        num_views: int,
        dim: int,
        shard_records: int = 2048,
    ):
        if num_records < 1 or num_views < 1 or dim < 1 or shard_records < 1:
            raise ValueError(
                "CacheWriter: sizes must be positive; found "
                f"{num_records=}, {num_views=}, {dim=}, {shard_records=}"
            )
        self._folder = epath.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._key = key
        self._sizes = dict(num_records=num_records, num_views=num_views, dim=dim)
        self._bounds = list(range(0, num_records, shard_records)) + [num_records]

    def pending(self) -> list[tuple[int, int, int]]:
        """Shards still to write, as ``(shard, first record, one past the last record)``."""
        spans = enumerate(zip(self._bounds[:-1], self._bounds[1:]))
        return [(s, lo, hi) for s, (lo, hi) in spans if not self._is_done(s, hi - lo)]

    def _is_done(self, shard: int, count: int) -> bool:
        head = self._folder / f"shard-{shard:05d}.json"
        if not head.exists():
            return False
        meta = embeddings.read_json(head)
        return meta["key"] == self._key.digest and len(meta["uids"]) == count

    def write_shard(self, shard: int, records: Sequence[Mapping]) -> None:
        """Writes one shard.

        Args:
            shard: number from :meth:`pending`.
            records: for each record ``uid``, ``image_embed`` [V, D], ``text_embed`` [T, D] with
                T >= 1 free per record, ``score`` [V], ``caption_hash`` [T] uint32.

        Raises:
            ValueError: wrong count or shapes, or values that are not finite.
        """
        count = self._bounds[shard + 1] - self._bounds[shard]
        if len(records) != count:
            raise ValueError(
                f"write_shard: shard {shard} takes {count} records, got {len(records)}"
            )
        for record in records:
            self._check(record)
        offsets = np.cumsum([0] + [len(r["text_embed"]) for r in records])
        sections = [
            np.stack([np.asarray(r["image_embed"], "<f2") for r in records]),
            np.stack([np.asarray(r["score"], "<f2") for r in records]),
            np.concatenate([np.asarray(r["text_embed"], "<f2") for r in records]),
            np.concatenate([np.asarray(r["caption_hash"], "<u4") for r in records]),
        ]
        data = b"".join(section.tobytes() for section in sections)
        head = dict(
            key=self._key.digest,
            bytes=len(data),
            crc32=zlib.crc32(data),
            uids=[str(r["uid"]) for r in records],
            text_offsets=offsets.tolist(),
        )
        _write_atomic(self._folder / f"shard-{shard:05d}.bin", data)
        _write_atomic(self._folder / f"shard-{shard:05d}.json", json.dumps(head).encode())

    def _check(self, record: Mapping) -> None:
        """Raises unless shapes fit and the float16 values are finite."""
        views, dim, captions = self._sizes["num_views"], self._sizes["dim"], record["text_embed"]
        expected = dict(
            image_embed=(views, dim),
            score=(views,),
            text_embed=(max(len(captions), 1), dim),
            caption_hash=(max(len(captions), 1),),
        )
        for name, shape in expected.items():
            value = np.asarray(record[name])
            if value.shape != shape:
                raise ValueError(
                    f"write_shard: {name} of record {record['uid']!r} has shape {value.shape}, "
                    f"expected {shape}"
                )
            if not np.isfinite(value.astype(np.float32)).all():
                raise ValueError(
                    f"write_shard: {name} of record {record['uid']!r} is not finite; the towers "
                    "or the pictures given to them are at fault"
                )

    def finish(
        self,
        class_names: Sequence[str],
        class_embeds: Mapping[str, np.ndarray],
        provenance: Mapping | None = None,
    ) -> None:
        """Writes the category embeddings and, last of all, ``cache.json``.

        Args:
            class_names: the data set's categories, in label order.
            class_embeds: {template set: [C, D]}, rows L2-normalised.
            provenance: free JSON values kept for the reader (commands, timings).

        Raises:
            ValueError: shards are missing, or a class table has the wrong shape.
        """
        missing = [shard for shard, _, _ in self.pending()]
        if missing:
            raise ValueError(f"finish: shards {missing} are not written yet")
        shape = (len(class_names), self._sizes["dim"])
        for name, table in class_embeds.items():
            if np.shape(table) != shape:
                raise ValueError(
                    f"finish: class table {name!r} has shape {np.shape(table)}, expected {shape}"
                )
        buffer = io.BytesIO()
        np.savez(buffer, **{k: np.asarray(v, np.float16) for k, v in class_embeds.items()})
        _write_atomic(self._folder / "classes.npz", buffer.getvalue())
        meta = dict(
            format=embeddings.FORMAT,
            key=dataclasses.asdict(self._key),
            digest=self._key.digest,
            shards=len(self._bounds) - 1,
            class_names=list(class_names),
            provenance=dict(provenance or {}),
            **self._sizes,
        )
        _write_atomic(self._folder / "cache.json", json.dumps(meta, indent=1).encode())
