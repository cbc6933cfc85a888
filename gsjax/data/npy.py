"""NumPy's files read from several threads at once.

The header of a .npy file is parsed as Python, which CPython before 3.11.8 cannot always do in two threads
at once (gh-106905: SystemError, 'AST constructor recursion depth mismatch'). There, one reads at a time.
"""

import contextlib
import sys
import threading

import numpy as np

READING = threading.Lock() if sys.version_info < (3, 11, 8) else contextlib.nullcontext()


def load(path, **options) -> np.ndarray:
    """One array by ``np.load``, never a pickle."""
    with READING:
        return np.load(path, allow_pickle=False, **options)


def load_all(path, names) -> list[np.ndarray]:
    """Arrays of an .npz file by their names, never a pickle."""
    with READING, np.load(path, allow_pickle=False) as file:
        return [file[name] for name in names]
