"""NumPy's files read from several threads at once.

The header of a .npy file is parsed as Python, which CPython before 3.11.8 cannot always do in two threads
at once (gh-106905: SystemError, 'AST constructor recursion depth mismatch'). There, one reads at a time.
"""

import contextlib
import sys
import threading
from pathlib import Path

import numpy as np

from gsjax.io import npz

READING = threading.Lock() if sys.version_info < (3, 11, 8) else contextlib.nullcontext()


def load(path, mmap: bool = False) -> np.ndarray:
    """One array, never a pickle; see ``npz.parse``, or ``npz.mapped`` with ``mmap``."""
    if mmap:
        with READING:
            return npz.mapped(path)
    data = Path(path).read_bytes()
    with READING:
        return npz.parse(data, str(path))


def load_all(path, names) -> list[np.ndarray]:
    """Arrays of an .npz file by their names; see ``npz.read``."""
    with READING:
        found = npz.read(path, names)
    return [found[name] for name in names]
