"""What XLA compiled and what came out of the cache on disk: counted from JAX's own events.

Counts are of the whole process and of all threads; a log reads what was added since it last asked.
"""

import collections
import threading

from jax import monitoring

# Events of JAX (jax._src.dispatch, .compiler, .compilation_cache), the same from 0.10 to 0.12. The time of a
# program includes looking for it on disk; a hit is one that was there, a miss one that was then written.
_SECONDS = "/jax/core/compile/backend_compile_duration"
_EVENTS = {
    "/jax/compilation_cache/cache_hits": "hits",
    "/jax/compilation_cache/cache_misses": "misses",
}

_lock = threading.Lock()
_totals: collections.Counter = collections.Counter()
_listening = False


def _listen() -> None:
    """Starts counting, once in a process: JAX keeps its listeners for good."""
    global _listening
    with _lock:
        if _listening:
            return
        _listening = True
    monitoring.register_event_listener(_on_event)
    monitoring.register_event_duration_secs_listener(_on_seconds)


def _on_event(event: str, **unused) -> None:
    if event in _EVENTS:
        with _lock:
            _totals[_EVENTS[event]] += 1


def _on_seconds(event: str, seconds: float, **unused) -> None:
    if event == _SECONDS:
        with _lock:
            _totals["seconds"] += seconds
            _totals["programs"] += 1


class Compiling:
    """Compilations since it was made, or since :meth:`take` was last called."""

    def __init__(self):
        _listen()
        self._taken = self._now()

    @staticmethod
    def _now() -> collections.Counter:
        with _lock:
            return collections.Counter(_totals)

    def peek(self) -> dict[str, float]:
        """Fields of a line of metrics; empty where nothing was compiled.

        ``compile_seconds`` (of the compiler, reading the cache included; not tracing),
        ``compile_programs``, ``compile_cache_hits`` of them, and ``compile_cache_misses``: compiled and
        written to the cache for the next time. A program in neither was too quick to be kept, or there
        is no cache.
        """
        added = {name: value - self._taken[name] for name, value in self._now().items()}
        if not added.get("programs"):
            return {}
        return {
            "compile_seconds": round(added["seconds"], 3),
            "compile_programs": added["programs"],
            "compile_cache_hits": added.get("hits", 0),
            "compile_cache_misses": added.get("misses", 0),
        }

    def take(self) -> dict[str, float]:
        """As :meth:`peek`; counts from here on."""
        found = self.peek()
        self._taken = self._now()
        return found

    def describe(self) -> str:
        """The same in words."""
        found = self.peek()
        if not found:
            return "nothing compiled"
        return (
            f"{found['compile_programs']} programs, {found['compile_seconds']:.1f} s in the compiler, "
            f"{found['compile_cache_hits']} of them from the cache on disk"
        )
