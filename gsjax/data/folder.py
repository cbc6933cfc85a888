"""Your own objects: a folder of 3DGS files (.ply, .splat, ...) and a CSV of captions.

The CSV has a header and one row a caption: ``file`` (name inside the folder) or ``uid`` (the same
without its extension), ``caption``, and optionally ``category`` and ``split`` ('train' or 'test').
Several rows of one file are several captions. Without ``split``, one object in ten is held out by
the hash of its name. Imports no JAX; ``build`` renders the views.
"""

import csv
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator

import numpy as np
from etils import epath

from gsjax.data import discs, features, transforms
from gsjax.io import formats

VERSION = 1
EXTENSIONS = tuple(formats.FORMATS)
NO_CATEGORY = "object"
_TEST_SHARE = 0.1
_EDGE = 1 << 16  # bytes at either end of a file that go into its identity


@dataclasses.dataclass(frozen=True)
class Item:
    """One object: ``uid``, ``path``, ``captions``, ``category``, ``split``, ``name``.

    ``split`` is 'train', 'test' or '' (see ``assign_splits``); ``name`` is in words, '' = the file's.
    """

    uid: str
    path: epath.Path
    captions: tuple[str, ...]
    category: str
    split: str
    name: str = ""


def read_captions(source, captions_csv="") -> list[Item]:
    """Objects of a folder, sorted by uid.

    Args:
        source: the folder.
        captions_csv: the table; '' = ``captions.csv`` in the folder. A relative path counts from
            the working directory, then from the folder.

    Raises:
        ValueError: no folder or table, columns or files missing, rows twice or without caption,
            contradicting rows; the message says which line.
    """
    if not os.fspath(source) or not epath.Path(source).is_dir():
        raise ValueError(
            f"data.source: {os.fspath(source)!r} is no folder; name the folder of .ply or .splat "
            "files"
        )
    source = epath.Path(source)
    table = find_table(source, captions_csv)
    rows = read_table(table)
    readable = (*EXTENSIONS, *formats.NAMED_FORMATS)
    known = {p.name: p for p in source.iterdir() if p.suffix.lower() in readable}
    items: dict[str, Item] = {}
    for line, row in rows:
        item = _item(row, known, f"{os.fspath(table)}, line {line}")
        items[item.uid] = _merge(items.get(item.uid), item, f"{os.fspath(table)}, line {line}")
    if not items:
        raise ValueError(f"{os.fspath(table)} has a header but no captions; add a row an object")
    return [items[uid] for uid in sorted(items)]


def find_table(source: epath.Path, captions_csv="") -> epath.Path:
    """The table of a folder: as given, from the working directory or the folder; '' = captions.csv.

    Raises:
        ValueError: there is no such file.
    """
    given = os.fspath(captions_csv) or "captions.csv"
    places = [epath.Path(given), source / given] if captions_csv else [source / given]
    for place in places:
        if place.exists():
            return place
    raise ValueError(
        f"data.captions_csv: no file {' or '.join(os.fspath(p) for p in places)}; write a CSV with "
        "the header file,caption,category"
    )


def read_table(
    table: epath.Path, needed: tuple[str, ...] = ("caption",)
) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of every row that is not blank; column names in lower case.

    Raises:
        ValueError: no UTF-8, neither 'file' nor 'uid' or another needed column absent, or a row with
            more values than columns.
    """
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(table)} is not UTF-8 text ({error})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    if not set(needed) <= set(columns) or not {"file", "uid"} & set(columns):
        named = "".join(f"{name!r} and " for name in needed)
        raise ValueError(
            f"{os.fspath(table)}: columns {columns} found; {named}one of 'file', 'uid' are needed, "
            "'caption', 'category' and 'split' are the others"
        )
    rows = []
    for row in reader:
        if None in row:
            raise ValueError(
                f"{os.fspath(table)}, line {reader.line_num}: more values than columns; put "
                "captions that hold commas in double quotes"
            )
        rows.append((reader.line_num, {k: (v or "").strip() for k, v in row.items()}))
    return [(line, row) for line, row in rows if any(row.values())]


def _item(row: dict[str, str], known: dict[str, epath.Path], where: str) -> Item:
    name = row.get("file") or row.get("uid") or ""
    if name in known:
        path = known[name]
    else:
        matches = [p for p in known.values() if p.stem == name and p.suffix.lower() in EXTENSIONS]
        if len(matches) != 1:
            found = f"{len(matches)} files" if matches else "no file"
            raise ValueError(
                f"{where}: {found} for {name!r} in the folder (it holds {len(known)} of "
                f"{', '.join(EXTENSIONS)}); check the name"
            )
        path = matches[0]
    if not row["caption"]:
        raise ValueError(f"{where}: the caption of {name!r} is empty; write one or drop the row")
    split = row.get("split", "").lower()
    if split not in ("", "train", "test"):
        raise ValueError(f"{where}: split {split!r} found; 'train' or 'test' expected")
    return Item(
        uid=row.get("uid") or path.stem,
        path=path,
        captions=(row["caption"],),
        category=row.get("category") or NO_CATEGORY,
        split=split,
    )


def _merge(old: Item | None, new: Item, where: str) -> Item:
    """One more caption of an object already known."""
    if old is None:
        return new
    if new.captions[0] in old.captions:
        raise ValueError(f"{where}: duplicate row for {new.uid!r} (same caption); drop one")
    for field in ("path", "category", "split"):
        a, b = getattr(old, field), getattr(new, field)
        if a != b:
            raise ValueError(
                f"{where}: {field} of {new.uid!r} is {os.fspath(b) if field == 'path' else b!r}, an "
                f"earlier row says {os.fspath(a) if field == 'path' else a!r}; make them equal"
            )
    return dataclasses.replace(old, captions=(*old.captions, *new.captions))


def assign_splits(items: list[Item]) -> dict[str, list[Item]]:
    """'train' and 'test' objects; those without a split are divided by the hash of their uid.

    A set of two or more objects without any split given has at least one on each side.

    Raises:
        ValueError: no object is left for training.
    """
    free = [item for item in items if not item.split]
    ranked = sorted(free, key=lambda item: features.stable_seed("folder", item.uid))
    held = 0
    if len(free) == len(items) and len(items) > 1:
        held = max(1, round(_TEST_SHARE * len(items)))
    test = {item.uid for item in ranked[:held]}
    sides: dict[str, list[Item]] = {"train": [], "test": []}
    for item in items:
        side = item.split or ("test" if item.uid in test else "train")
        sides[side].append(item)
    if not sides["train"]:
        raise ValueError("the captions' 'split' column leaves no object for training")
    return {side: chosen for side, chosen in sides.items() if chosen}


def digest(items: list[Item]) -> str:
    """Identity of a folder: names, captions, sizes and both ends of every file."""
    state = hashlib.sha256()
    for item in items:
        size = item.path.stat().length
        state.update(repr((item.uid, item.captions, item.category, item.split, size)).encode())
        with item.path.open("rb") as file:
            state.update(file.read(_EDGE))
            if size > 2 * _EDGE:
                file.seek(size - _EDGE)
                state.update(file.read(_EDGE))
    return state.hexdigest()


def load(item: Item, *, up_axis: str, on_bad_rows: str) -> dict[str, np.ndarray]:
    """Raw Gaussians of one file, turned y up, with ``sh`` [M, K, 3] of its own degree.

    Only the degree-0 part survives a turn unchanged; other files must be y up already.

    Raises:
        ValueError: the file is bad (the message names it), or higher SH would have to be turned.
    """
    gaussians = formats.load_gaussians(item.path, on_bad_rows=on_bad_rows)
    if up_axis != "y":
        gaussians["sh"] = gaussians["sh"][:, :1]
    return transforms.to_y_up(gaussians, up_axis)


def objects(
    items: list[Item],
    categories: list[str],
    *,
    num_stored: int,
    fps_length: int | None = None,
    up_axis: str = "y",
    on_bad_rows: str = "error",
) -> Iterator[dict]:
    """Objects as ``build`` takes them; at most ``num_stored`` Gaussians of each are stored.

    Pictures show all of them. The stored ones are a random subset, the first ``fps_length`` (default
    all) in farthest-point order.
    """
    for item in items:
        gaussians = load(item, up_axis=up_axis, on_bad_rows=on_bad_rows)
        rng = np.random.default_rng(features.stable_seed("folder", item.uid))
        rows = rng.permutation(len(gaussians["means"]))[:num_stored]
        rows = rows[discs.farthest_point_order(gaussians["means"][rows], fps_length)]
        names = ("means", "quats", "log_scales", "logit_opacities")
        stored = {name: gaussians[name][rows] for name in names}
        stored["quats"] = stored["quats"] / np.maximum(
            np.linalg.norm(stored["quats"], axis=-1, keepdims=True), 1e-12
        )
        stored["sh0"] = gaussians["sh"][rows, 0]
        yield {
            "uid": item.uid,
            "name": item.name or item.path.stem.replace("_", " "),
            "category": categories.index(item.category),
            "captions": list(item.captions),
            "colored": True,
            "gaussians": stored,
            "picture": gaussians,
        }
