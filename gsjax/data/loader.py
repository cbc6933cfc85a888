"""From single examples to batches: shuffled and endless for training, padded for evaluation.

The one place that knows ``grain.experimental.ElasticIterator``. The state of the training iterator
is one integer, the same on every process: a run may stop with 4 processes and go on with 1.
Imports no JAX.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

Batch = dict[str, np.ndarray]


def _check(global_batch: int, process_index: int, process_count: int) -> int:
    """Examples a process gets of each batch."""
    if global_batch < 1 or process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(
            "expected global_batch >= 1 and 0 <= process_index < process_count; found "
            f"{global_batch=}, {process_index=}, {process_count=}"
        )
    if global_batch % process_count:
        raise ValueError(
            f"global_batch: {global_batch} examples cannot be shared evenly by {process_count} "
            "processes; choose a multiple of the number of processes"
        )
    return global_batch // process_count


class _Interleave:
    """Re-orders a sequence so that striding over it gives each process a run of neighbours.

    ElasticIterator hands process p the items p, p + P, p + 2P, ... With item b * B + j * P + p
    of this sequence being item b * B + p * (B / P) + j of the original, the processes' local
    batches laid end to end are the global batch in its own order, whatever P is.
    """

    def __init__(self, dataset: grain.MapDataset, global_batch: int, process_count: int):
        self._dataset = dataset
        self._batch, self._count = global_batch, process_count

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int):
        start, place = index - index % self._batch, index % self._batch
        j, p = divmod(place, self._count)
        return self._dataset[start + p * (self._batch // self._count) + j]


class TrainIterator:
    """Endless local batches; see :func:`train_iterator`."""

    def __init__(self, elastic, close_elastic):
        self._elastic = elastic
        self._close = close_elastic

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        return next(self._elastic)

    def get_state(self) -> dict[str, int]:
        """``{'global_next_index': examples consumed by all processes together}``."""
        return {"global_next_index": int(self._elastic.get_state()["global_next_index"])}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, whatever number of processes wrote it.

        Raises:
            ValueError: not a state of this iterator.
        """
        if set(state) != {"global_next_index"} or int(state["global_next_index"]) < 0:
            raise ValueError(
                "state: expected {'global_next_index': k} with k >= 0, as get_state gives; found "
                f"{dict(state)}"
            )
        self._elastic.set_state({"global_next_index": int(state["global_next_index"])})

    def close(self) -> None:
        """Ends the read threads."""
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


def train_iterator(
    map_dataset: grain.MapDataset,
    *,
    seed: int,
    global_batch: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 4,
    prefetch: int = 32,
) -> TrainIterator:
    """Endless batches for this process; a new shuffle every epoch, no example left out.

    The global batch of a step is a function of ``seed`` and the step alone: process p of P holds
    rows [p * B / P, (p + 1) * B / P) of it. Batches run on over the end of an epoch.

    Args:
        map_dataset: single examples as dicts of fixed-shape arrays. One whose examples depend on the step
            makes its own sequence: a method ``endless(seed, global_batch) -> grain.MapDataset``, in which
            item p belongs to step p // ``global_batch`` (``posed_examples.TrainExamples``).
        seed: of the shuffles.
        global_batch: B, examples a step over all processes.
        process_index, process_count: this process and how many there are.
        num_threads: read threads; 0 reads in the calling thread.
        prefetch: examples that may wait in the read buffer.

    Returns:
        Iterator with ``__next__`` -> dict of arrays [B / P, ...], ``get_state``, ``set_state``,
        ``close``.

    Raises:
        ValueError: B is no multiple of P, or the data set is empty.
    """
    _check(global_batch, process_index, process_count)
    if len(map_dataset) < 1:
        raise ValueError("map_dataset: the data set is empty")
    if hasattr(map_dataset, "endless"):
        endless = map_dataset.endless(seed, global_batch)
    else:
        endless = map_dataset.seed(seed).shuffle().repeat()
    ordered = grain.MapDataset.source(_Interleave(endless, global_batch, process_count))
    elastic = grain.experimental.ElasticIterator(
        ordered,
        global_batch,
        grain.sharding.ShardOptions(shard_index=process_index, shard_count=process_count),
        read_options=grain.ReadOptions(
            num_threads=num_threads, prefetch_buffer_size=prefetch if num_threads else 0
        ),
    )
    return TrainIterator(elastic, elastic.close)


def eval_batches(
    map_dataset: grain.MapDataset,
    *,
    global_batch: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 4,
    prefetch: int = 32,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up with rows of ``valid=False``.

    All processes get the same number of batches of the same shape, so collective evaluation never
    waits for one that has finished. Padding rows repeat a real example, so nothing in them is odd.

    Args: as :func:`train_iterator`; examples carry ``valid`` bool [].

    Raises:
        ValueError: as :func:`train_iterator`, or the examples carry no ``valid``.
    """
    local = _check(global_batch, process_index, process_count)
    total = len(map_dataset)
    if total < 1:
        raise ValueError("map_dataset: the data set is empty")
    batches = -(-total // global_batch)
    rows = [
        b * global_batch + process_index * local + j for b in range(batches) for j in range(local)
    ]
    padded = grain.MapDataset.source(_Padded(map_dataset, rows)).batch(local)
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=prefetch if num_threads else 0
    )
    iterator = iter(padded.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


class _Padded:
    """The examples of given rows; rows past the end are a real one marked as not valid."""

    def __init__(self, dataset: grain.MapDataset, rows: list[int]):
        self._dataset, self._rows = dataset, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int):
        row, total = self._rows[index], len(self._dataset)
        example = self._dataset[min(row, total - 1)]
        if "valid" not in example:
            raise ValueError(
                "map_dataset: examples must carry 'valid'; add it to the fields read"
                f" (found {sorted(example)})"
            )
        return example if row < total else {**example, "valid": np.bool_(False)}
