"""One process that gives a reader many inputs, within limits of time and memory; started by ``run``.

What it has done stands in a file of numbers that outlives it (:class:`Progress`), so that an input that
ends the process is known; findings are lines of JSON on its output.
"""

import faulthandler
import json
import logging
import mmap
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from pathlib import Path

_FIELDS = ("index", "read", "refused", "outcomes", "peak_kb")
_FORMAT = struct.Struct(f"<{len(_FIELDS)}q")
_MOST_KEPT = 3  # inputs that are kept of one kind of finding


class Progress:
    """Numbers shared between a worker and the process that started it.

    Attributes (by ``get`` and ``put``):
        index: input at work; -1 before the first.
        read, refused: inputs that the reader took, and those that it refused as documented.
        outcomes: different places that refused.
        peak_kb: largest resident memory so far.
    """

    def __init__(self, path: Path):
        if not path.exists():
            path.write_bytes(_FORMAT.pack(-1, 0, 0, 0, 0))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FORMAT.size)

    def get(self) -> dict[str, int]:
        return dict(zip(_FIELDS, _FORMAT.unpack(self._map), strict=True))

    def put(self, *values: int) -> None:
        self._map[:] = _FORMAT.pack(*values)


class Slow(BaseException):
    """The time of an input is over; no ``except Exception`` of a reader takes it."""


def _stop(*unused):
    raise Slow


def place_of(error: BaseException) -> str:
    """Where in gsjax an error came from, 'io/ply.py:97', and its type."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/gsjax/" in f.filename] or frames
    frame = own[-1]
    return f"{type(error).__name__} {frame.filename.rpartition('/gsjax/')[2]}:{frame.lineno}"


def main(argv: list[str]) -> None:
    """name seed start stop limit_seconds limit_gb home (see ``run._Run``)."""
    name, seed, start, stop, seconds, gb, home = argv
    seed, start, stop, seconds, home = int(seed), int(start), int(stop), float(seconds), Path(home)
    from tests.fuzz import inputs, targets

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    faulthandler.enable()
    made = inputs.Inputs(targets.find(name), home / "input")
    made.run(home / "input", made.make(seed, 0))  # imports what the reader needs, untimed
    most = int(float(gb) * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    signal.signal(signal.SIGALRM, _stop)
    progress, seen, kept = Progress(home / "progress"), {}, {}
    _, read, refused, _, _ = progress.get().values()
    for index in range(start, stop):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        progress.put(index, read, refused, len(seen), peak)
        parts = made.make(seed, index)
        targets.write(made.target, home / "input", parts)
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        finding = None
        try:
            error = made.target.run(home / "input")
            signal.setitimer(signal.ITIMER_REAL, 0)
            read, refused = read + (error is None), refused + (error is not None)
            outcome = "read" if error is None else place_of(error)
            if outcome not in seen:
                seen[outcome] = index
                _keep(home / "corpus", f"{seed}-{index}", parts)
        except Slow:
            finding = "slow", "Slow"
        except BaseException as error:  # whatever is not documented
            signal.setitimer(signal.ITIMER_REAL, 0)
            finding = "error", f"{place_of(error)}: {str(error)[:200]}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        if finding is None and time.monotonic() - began > seconds:
            finding = "slow", f"{time.monotonic() - began:.1f} s"
        if finding is not None:
            signature = finding[1].partition(": ")[0]
            kept[signature] = kept.get(signature, 0) + 1
            if kept[signature] <= _MOST_KEPT:
                _keep(home / "findings", f"{seed}-{index}", parts)
            line = dict(index=index, kind=finding[0], what=finding[1])
            print(json.dumps(line), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    progress.put(stop, read, refused, len(seen), peak)


def _keep(folder: Path, name: str, parts: list[bytes]) -> None:
    from tests.fuzz import targets

    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(targets.join(parts))


if __name__ == "__main__":
    main(sys.argv[1:])
