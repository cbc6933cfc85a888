"""What is said of a collection's objects outside their files: captions, categories, split lists.

Tables are by uid, the split lists are those that the collections publish. Imports no JAX.
"""

import gzip
import os
import pathlib
import zlib

from etils import epath

from gsjax.data import folder
from gsjax.io import json_text

_SHOWN = 3  # names that an error gives as examples
_SPLIT_FILES = ("sample_all.json", "file_paths.json")  # UniGS; the first is what its loader reads


def read(table: epath.PathLike) -> dict[str, folder.Item]:
    """Captions, categories and splits by uid; what a table does not say is empty.

    A CSV has a header with ``uid`` or ``file`` and any of ``caption``, ``category``, ``split``; several
    rows of one object are several captions. A JSON file (also .json.gz) is {category: [uid, ...]}, as
    the LVIS annotations of Objaverse, or a list of objects with 'uid' and such keys, as OpenShape's.

    Raises:
        ValueError: another form, or a split other than 'train' and 'test'.
    """
    table = epath.Path(table)
    rows = folder.read_table(table, ()) if table.suffix.lower() == ".csv" else _json_rows(table)
    result: dict[str, folder.Item] = {}
    for where, row in rows:
        file = pathlib.PurePosixPath(row.get("file") or "")
        uid = row.get("uid") or file.stem
        split = (row.get("split") or "").lower()
        if not uid or split not in ("", "train", "test"):
            raise ValueError(
                f"{os.fspath(table)}, line or entry {where}: uid {uid!r} and split {split!r} found; "
                "a uid is needed, a split is 'train' or 'test'"
            )
        old = result.get(uid, folder.Item(uid, table, (), "", ""))
        said = (row["caption"],) if row.get("caption") else ()
        captions = tuple(dict.fromkeys((*old.captions, *said)))
        category = row.get("category") or old.category
        result[uid] = folder.Item(uid, table, captions, category, split or old.split)
    if not result:
        raise ValueError(f"{os.fspath(table)}: holds no rows; add one an object")
    return result


def _json_rows(table: epath.Path) -> list[tuple[int, dict[str, str]]]:
    content = _json(table)
    if isinstance(content, dict) and all(isinstance(v, list) for v in content.values()):
        if not all(isinstance(uid, str) for uids in content.values() for uid in uids):
            raise ValueError(
                f"{os.fspath(table)}: expected {{category: [uid, ...]}}, uids as texts"
            )
        content = [{"uid": uid, "category": key} for key, uids in content.items() for uid in uids]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(
            f"{os.fspath(table)}: expected {{category: [uid, ...]}} or a list of objects with 'uid', "
            f"'category' or 'caption', found {_described(content)}"
        )
    fields = ("uid", "file", "caption", "category", "split")
    return [
        (number, {name: str(row[name]).strip() for name in fields if row.get(name)})
        for number, row in enumerate(content)
    ]


def _json(path: epath.Path):
    if path.suffix.lower() != ".gz":
        return json_text.read(path)
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise ValueError(f"{os.fspath(path)}: not readable JSON ({error})") from None
    return json_text.parse(data, os.fspath(path))


def text_lists(root: epath.Path) -> dict[str, str]:
    """Splits by train.txt and test.txt, a file name a line; they lie beside the objects."""
    result = {}
    for split in ("train", "test"):
        if (root / f"{split}.txt").exists():
            lines = (root / f"{split}.txt").read_text().split()
            result |= {line.removesuffix(".ply"): split for line in lines}
    return result


def json_lists(root: epath.Path) -> dict[str, str]:
    """Splits by UniGS's lists of paths, of which only the file's name counts; 'val' is training."""
    path = next((root / name for name in _SPLIT_FILES if (root / name).exists()), None)
    if path is None:
        return {}
    content = _json(path)
    content = content.get("original", content) if isinstance(content, dict) else {}
    content = content if isinstance(content, dict) else {}
    lists = {split: content.get(split, []) for split in ("train", "val", "test")}
    if not any(lists.values()) or not all(isinstance(v, list) for v in lists.values()):
        raise ValueError(
            f"{path}: found {some(content)}; expected lists 'train' and 'test' of paths"
        )
    sides = {"train": "train", "val": "train", "test": "test"}
    return {
        pathlib.PurePosixPath(str(entry)).stem: sides[split]
        for split, entries in lists.items()
        for entry in entries
    }


def _described(content) -> str:
    names = some(content) if isinstance(content, dict | list) else f"{content!r:.60}"
    return f"{type(content).__name__} of {names}"


def some(names) -> str:
    """The first names of many, for messages."""
    names = [str(name)[:60] for name in names]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
