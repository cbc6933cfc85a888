"""Prepared data sets on disk: random access to their records. Imports no JAX.

A prepared set is a folder of ArrayRecord files as TFDS writes them (``dataset_info.json``,
``features.json``) with ``gsjax_dataset.json`` beside them: the set's identity, categories and
sizes, written last, so a folder without it is no data set. A folder on ``gs://`` or ``s3://`` is
copied to the local cache on first use: ArrayRecord reads files, not object stores.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source
from etils import epath

from gsjax.data import features as features_lib
from gsjax.io import json_text

META_FILE = "gsjax_dataset.json"
FORMAT = 1
# What a training example needs; pictures are left on disk unless asked for.
DEFAULT_FIELDS = (
    "index",
    "uid",
    "name",
    "category",
    "captions",
    "colored",
    *features_lib.GAUSSIAN_FIELDS,
)
ALL_FIELDS = (*DEFAULT_FIELDS, "views", "viewmats", "Ks")


def cache_root(folder: str = "") -> epath.Path:
    """``folder``, or where prepared sets live by default: $GSJAX_CACHE, else ~/.cache/gsjax."""
    chosen = folder or os.environ.get("GSJAX_CACHE", "") or "~/.cache/gsjax"
    return epath.Path(chosen).expanduser()


def is_remote(folder) -> bool:
    """True for object stores (``gs://``, ``s3://``)."""
    return "://" in os.fspath(folder)


def is_complete(dataset_dir) -> bool:
    """True if ``dataset_dir`` holds a finished set."""
    return (epath.Path(dataset_dir) / META_FILE).exists()


def localize(dataset_dir) -> pathlib.Path:
    """A local folder with the files of ``dataset_dir``; remote ones are copied once, atomically."""
    if not is_remote(dataset_dir):
        return pathlib.Path(os.fspath(dataset_dir))
    source = epath.Path(dataset_dir)
    digest = hashlib.sha256(
        os.fspath(source).encode() + (source / META_FILE).read_bytes()
    ).hexdigest()
    target = pathlib.Path(os.fspath(cache_root())) / "mirror" / digest[:16]
    if is_complete(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=".copy-"))
    for item in source.iterdir():
        with item.open("rb") as reader, open(scratch / item.name, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 24)
    move_into_place(scratch, target)
    return target


def move_into_place(scratch: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a finished folder; if another process was first, its folder stays."""
    try:
        os.rename(scratch, target)
    except OSError:
        if not is_complete(target):
            raise
        shutil.rmtree(scratch, ignore_errors=True)


def read_meta(dataset_dir) -> dict:
    """The set's own description: identity, categories, part names, sizes of its splits.

    Raises:
        ValueError: the folder holds no finished data set, or one of another format.
    """
    path = epath.Path(dataset_dir) / META_FILE
    if not path.exists():
        raise ValueError(
            f"dataset_dir: {os.fspath(dataset_dir)} holds no finished data set (no {META_FILE}); "
            "make it with `python -m gsjax.data.prepare` or gsjax.data.prepare.ensure"
        )
    meta = json_text.read(path, dict)
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format {meta.get('format')!r} found, {FORMAT} expected; delete the folder "
            "and prepare the set again"
        )
    for name in ("categories", "parts"):
        if not all(isinstance(x, str) for x in json_text.member(meta, name, list, str(path))):
            raise ValueError(f"{path}: {name!r}: expected names; prepare the set again")
    splits = json_text.member(meta, "splits", dict, str(path))
    if not all(type(size) is int and 0 <= size < 2**62 for size in splits.values()):
        raise ValueError(f"{path}: 'splits': expected sizes; prepare the set again")
    json_text.member(meta, "content", str, str(path))
    json_text.member(meta, "identity", dict, str(path))
    return meta


def category_names(dataset_dir) -> list[str]:
    """Category names in label order, as words (no underscores)."""
    return [name.replace("_", " ") for name in read_meta(dataset_dir)["categories"]]


def part_names(dataset_dir) -> list[str]:
    """Names of the part labels; entry 0 stands for 'no label'."""
    return read_meta(dataset_dir)["parts"]


def split_sizes(dataset_dir) -> dict[str, int]:
    """Number of records in each split."""
    return read_meta(dataset_dir)["splits"]


def fingerprint(dataset_dir) -> str:
    """Hex digest of what the set is: its source, options and content, not where it lies."""
    meta = read_meta(dataset_dir)
    known = {key: meta[key] for key in ("format", "identity", "categories", "parts", "splits")}
    known["content"] = meta["content"]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


class Records:
    """Random access to the records of one split; safe to share between threads and to pickle.

    ``records[i]`` is a dict of the chosen fields: text as ``str``, ``captions`` and ``views`` (PNG
    files as bytes) as lists, ``category`` and ``index`` as int, the rest as arrays in their stored
    types (see ``features.feature_spec``).
    """

    def __init__(self, dataset_dir, split: str, fields: Sequence[str]):
        self._dir = localize(dataset_dir)
        self.split = split
        self.fields = tuple(fields)
        self._size = read_meta(self._dir)["splits"][split]

    def __len__(self) -> int:
        return self._size

    @functools.cached_property
    def _features(self) -> tfds.features.FeaturesDict:
        spec = tfds.features.FeaturesDict.from_config(os.fspath(self._dir))
        return tfds.features.FeaturesDict({name: spec[name] for name in self.fields})

    @functools.cached_property
    def _files(self) -> array_record_data_source.ArrayRecordDataSource:
        paths = sorted(os.fspath(p) for p in self._dir.glob(f"*-{self.split}.array_record*"))
        return array_record_data_source.ArrayRecordDataSource(paths)

    def __getstate__(self):
        kept = ("_dir", "split", "fields", "_size")
        return {name: self.__dict__[name] for name in kept}

    def __getitem__(self, position: int) -> dict:
        position = int(position)
        if not 0 <= position < self._size:
            raise IndexError(f"record {position} of {self._size} in split {self.split!r}")
        raw = self._files[position]
        try:
            record = self._features.deserialize_example_np(raw)
        except Exception as error:
            raise ValueError(
                f"{self._dir}: record {position} of split {self.split!r} cannot be read "
                f"({error}); delete the folder and prepare the set again"
            ) from error
        return {name: _plain(record[name]) for name in self.fields}


def _plain(value):
    """Bytes that are text become ``str``; lists of texts likewise; arrays stay."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, list | tuple) and value and isinstance(value[0], bytes):
        is_text = not value[0].startswith((b"\x89PNG", b"\xff\xd8"))
        return [item.decode("utf-8") for item in value] if is_text else list(value)
    if isinstance(value, np.generic):
        return value.item()
    return value


def open_split(dataset_dir, split: str, fields: Sequence[str] | None = None) -> Records:
    """Opens one split of a prepared set.

    Args:
        dataset_dir: what ``prepare.ensure`` returned.
        split: 'train' or 'test' (or what else the set has).
        fields: names from ``ALL_FIELDS``; by default all but the pictures and their cameras.

    Raises:
        ValueError: no such set, split or field; the message lists what there is.
    """
    sizes = split_sizes(dataset_dir)
    if split not in sizes:
        raise ValueError(f"split: unknown split {split!r} of {dataset_dir}; known: {sorted(sizes)}")
    fields = DEFAULT_FIELDS if fields is None else tuple(fields)
    unknown = sorted(set(fields) - set(ALL_FIELDS))
    if unknown:
        raise ValueError(f"fields: unknown {unknown}; known: {sorted(ALL_FIELDS)}")
    return Records(dataset_dir, split, fields)


def read_uids(dataset_dir, split: str) -> list[str]:
    """The uids of a split, in record order."""
    records = open_split(dataset_dir, split, fields=("uid",))
    return [records[i]["uid"] for i in range(len(records))]
