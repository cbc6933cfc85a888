"""Arrays of an HDF5 file, with the package h5py. Reading only; HDF5 runs nothing that a file holds.

What the arrays mean is the business of the data sets' own modules.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def read(
    path: str | Path, names: Sequence[str], *, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Whole arrays of one file.

    Args:
        path: the file.
        names: arrays that it must hold.
        optional: arrays that are read where they are there.

    Returns:
        {name: array} in the stored types.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the package h5py is absent.
        ValueError: the file is damaged or no HDF5, an array is absent, or it holds no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{path.name} is HDF5, which needs h5py: pip install 'gsjax[h5]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            there = [name for name in file if isinstance(file[name], h5py.Dataset)]
            missing = [name for name in names if name not in there]
            if missing:
                raise KeyError(
                    f"no array {', '.join(map(repr, missing))}; it holds {', '.join(there) or 'none'}"
                )
            wanted = [name for name in (*names, *optional) if name in there]
            found = {name: np.asarray(file[name][()]) for name in wanted}
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}") from error
    except (OSError, RuntimeError) as error:  # not HDF5, truncated, an unknown compression
        raise ValueError(f"{path}: not a readable HDF5 file, or truncated ({error})") from error
    for name, value in found.items():
        if value.dtype.kind not in "fiub":
            raise ValueError(f"{path}: {name}: expected numbers, found {value.dtype}")
    return found
