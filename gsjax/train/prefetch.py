"""Batches from the host to the devices, ahead of the step that needs them."""

import queue
import threading
import time

import jax

WAIT = "wait for data"  # in traces
_END = object()


class Prefetch:
    """Iterator of device batches; a thread stays ``depth`` of them ahead.

    Attributes:
        state: the source's state after the batch handed out last: what a checkpoint must hold,
            whatever the thread has read since.
        waited: seconds that ``next`` has waited for data in all.
    """

    def __init__(self, source, sharding: jax.sharding.NamedSharding, depth: int = 2):
        """Starts reading.

        Args:
            source: iterator of {field: this process's rows [B / P, ...]} with ``get_state``.
            sharding: of the global batch.
            depth: batches that may wait, at least 1.
        """
        self.state = source.get_state()
        self.waited = 0.0
        self._source = source
        self._sharding = sharding
        self._queue: queue.Queue = queue.Queue(maxsize=max(depth, 1))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def _work(self):
        try:
            while not self._stop.is_set():
                batch = next(self._source)
                state = self._source.get_state()
                self._put((to_devices(batch, self._sharding), state))
        except StopIteration:
            self._put((_END, None))
        except BaseException as error:  # handed to the thread that waits for the batch
            self._put((_END, error))

    def _put(self, item):
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        with jax.profiler.TraceAnnotation(WAIT):
            batch, state = self._queue.get()
        self.waited += time.perf_counter() - start
        if batch is _END:
            self._queue.put((batch, state))
            raise StopIteration if state is None else state
        self.state = state
        return batch

    def close(self) -> None:
        """Ends the thread, then the source."""
        self._stop.set()
        self._thread.join(timeout=30)
        close = getattr(self._source, "close", None)
        if close:
            close()


def to_devices(batch, sharding: jax.sharding.NamedSharding):
    """Global arrays from this process's rows; every process calls it with as many."""
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
