"""Weights as one plain ``.npz``: named arrays in their own types, with what they are and a digest.

For weights converted from other projects, where ``models.towers`` keeps its own small float16 files.
No pickle. bfloat16, which NumPy's format cannot name, is stored as the same bits in uint16.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from etils import epath

from gsjax.io import json_text, npz

_META = "__meta__"
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Archive:
    """Attributes:
    kind: what the arrays are the weights of ('clip_gs').
    config: the architecture as JSON values.
    notes: JSON values that are not part of the digest (source, licence).
    digest: SHA-256 over kind, architecture and arrays.
    arrays: 'a/b/kernel' -> array.
    """

    kind: str
    config: dict
    notes: dict
    digest: str
    arrays: dict[str, np.ndarray]


def save(
    path: epath.PathLike,
    kind: str,
    config: Mapping,
    arrays: Mapping[str, np.ndarray],
    notes: Mapping | None = None,
) -> str:
    """Writes an archive; a file of that name is replaced when the new one is whole.

    Args:
        path: target, ``.npz``; local or anything ``epath`` opens.
        kind: what the arrays are the weights of.
        config: the architecture as JSON values.
        arrays: name -> array of floats or integers; names may hold '/'.
        notes: JSON values kept beside the weights.

    Returns:
        The digest.

    Raises:
        ValueError: another ending of ``path``, no arrays, or an array that is not of plain numbers.
    """
    path = epath.Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"archive: {path} must end in .npz")
    if not arrays:
        raise ValueError(f"archive: there is nothing to write to {path}")
    bits, halves = {}, []
    for name, value in arrays.items():
        value = np.asarray(value)
        if value.dtype == _BFLOAT16:
            halves.append(name)
            value = np.ascontiguousarray(value).view(np.uint16)
        if value.dtype.kind not in "biuf":
            raise ValueError(f"archive: array {name!r} is of type {value.dtype}, not of numbers")
        bits[name] = value
    config = json.loads(json.dumps(dict(config)))
    digest = _digest(kind, config, bits, halves)
    meta = dict(kind=kind, config=config, digest=digest, bfloat16=halves, notes=dict(notes or {}))
    text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f".{path.name}.tmp"
    with scratch.open("wb") as file:
        np.savez(file, **{_META: text}, **bits)
    scratch.replace(path)
    return digest


def read(path: epath.PathLike) -> Archive:
    """Reads an archive and checks its digest.

    Raises:
        ValueError: no such file, not an archive, or damaged.
    """
    path = epath.Path(path)
    if not path.exists():
        raise ValueError(f"archive: there is no file {path}")
    try:
        bits = npz.read(path)
        meta = json_text.parse(bits.pop(_META).tobytes(), _META, dict)
        found = Archive(meta["kind"], meta["config"], meta["notes"], meta["digest"], bits)
        digest = _digest(found.kind, found.config, bits, meta["bfloat16"])
        halves = [name for name in meta["bfloat16"] if bits[name].dtype == np.uint16]
        if len(halves) != len(meta["bfloat16"]) or type(found.kind) is not str:
            raise ValueError("its list of arrays in bfloat16, or its kind")
        dict(found.config), dict(found.notes)  # objects, both
    except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise ValueError(
            f"archive: {path} is not an archive of gsjax's, or is damaged ({error})"
        ) from None
    if digest != found.digest:
        raise ValueError(f"archive: the arrays in {path} do not match their digest; convert again")
    for name in halves:
        bits[name] = bits[name].view(_BFLOAT16)
    return found


def _digest(kind, config, bits, halves) -> str:
    result = hashlib.sha256(json.dumps([kind, config, sorted(halves)], sort_keys=True).encode())
    for name in sorted(bits):
        value = np.ascontiguousarray(bits[name])
        result.update(f"{name} {value.dtype.str} {bits[name].shape}".encode())
        result.update(value.reshape(-1).view(np.uint8).data)
    return result.hexdigest()
