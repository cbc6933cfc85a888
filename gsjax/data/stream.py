"""Work done ahead on other threads, in order: a thin layer over grain. Imports no JAX."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain


def ordered(
    items: Sequence, work: Callable[[Any], Any], *, threads: int = 2, ahead: int = 8
) -> Iterator:
    """work(item) of every item in its order, up to `ahead` of them before they are asked for.

    Args:
        items: random access.
        work: called on a thread; its exceptions arrive with the iterator.
        threads: how many at once.
        ahead: results that may wait.
    """
    if not len(items):
        return iter(())
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, 1))
    return iter(grain.MapDataset.source(items).map(work).to_iter_dataset(options))
