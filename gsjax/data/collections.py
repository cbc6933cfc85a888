"""Public collections of 3DGS objects as lists of ``folder.Item``; the rest is as for a folder.

``modelnet_splats``: ModelNet40 as Gaussians, what CLIP-GS calls ModelNet-GS. ``shape_splats``:
ShapeNetCore as Gaussians. Both are of ShapeSplat (arXiv 2408.10906). ``unigs_objaverse``: Objaverse
and its LVIS part as Gaussians, of UniGS (arXiv 2502.17860); also any folder of tables or PLYs named by
Objaverse uid. Nothing is downloaded here: ``COLLECTIONS`` says where each lies, under which terms, and
how it must look on disk. Layouts follow the collections' own loaders. None but UniGS comes with
captions; the others get 'a 3D model of a <category>'. Imports no JAX.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator

import tqdm
from absl import logging
from etils import epath

from gsjax.data import collections_labels, collections_names, features, folder
from gsjax.io import gaussian_array

VERSION = 1
# Points that fitting started from, which lie beside the Gaussians.
_NOT_GAUSSIANS = ("input.ply", "points3d.ply")


@dataclasses.dataclass(frozen=True)
class Collection:
    """Where a collection comes from and how its files are understood.

    Attributes:
        title, home, licence: for people; ``licence`` as its publishers state it.
        layout: what the folder must look like.
        up_axis: of its files, see ``transforms.UP_ROTATIONS``.
        endings: of its files, lower case.
        place: names of a file's folders and its own -> (uid, category, split), where '' is not
            known from the place; None = no place of this collection.
        split_lists: folder -> {uid: split}; empty where there are no lists.
    """

    title: str
    home: str
    licence: str
    layout: str
    up_axis: str
    endings: tuple[str, ...]
    place: Callable[[tuple[str, ...]], tuple[str, str, str] | None]
    split_lists: Callable[[epath.Path], dict[str, str]]


def list_items(name: str, source, table="") -> list[folder.Item]:
    """Objects of a collection, sorted by uid.

    Args:
        name: one of ``COLLECTIONS``.
        source: its folder.
        table: captions by uid, a CSV or JSON as ``collections_labels.read`` reads it; '' = none. They
            replace the collection's own, its categories stand where the folder tells none. Objects
            of UniGS that it lacks are left out; records are opened only for captions that it lacks,
            which saves reading the whole collection twice.

    Raises:
        ValueError: unknown name; no folder, no objects in it, files that are not where the
            collection has them, two files of one object, or nothing to say about an object.
    """
    if name not in COLLECTIONS:
        raise ValueError(f"data.name: unknown collection {name!r}; known: {list(COLLECTIONS)}")
    known = COLLECTIONS[name]
    root = _root(known, source)
    labels = collections_labels.read(folder.find_table(root, table)) if table else {}
    items = _placed(known, root)
    if labels and not labels.keys() & items.keys():
        raise ValueError(
            f"data.captions_csv: none of the {len(labels)} uids of {os.fspath(table)} is among the "
            f"{len(items)} objects of {os.fspath(root)} ({collections_labels.some(items)}); check "
            "what it calls them"
        )
    items = _split(items, known.split_lists(root), root)
    items = {uid: _labelled(item, labels.get(uid)) for uid, item in items.items()}
    if name == "unigs_objaverse":
        items = _recorded(_within(items, labels) if labels else items)
    return [_captioned(items[uid], known) for uid in sorted(items)]


def thin(items: list[folder.Item], limit: int) -> list[folder.Item]:
    """At most ``limit`` objects, chosen by the hash of their uids: all categories have a chance.

    ``limit`` 0 keeps all. The order stays.
    """
    if not limit or len(items) <= limit:
        return items
    ranked = sorted(items, key=lambda item: features.stable_seed("collection", item.uid))
    kept = {item.uid for item in ranked[:limit]}
    return [item for item in items if item.uid in kept]


def caption(category: str) -> str:
    """What is said of an object that has only a category; underscores become spaces."""
    words = category.replace("_", " ")
    return f"a 3D model of {'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"


def _root(known: Collection, source) -> epath.Path:
    root = epath.Path(source) if os.fspath(source) else None
    if root is None or not root.is_dir():
        raise ValueError(
            f"data.source: {os.fspath(source)!r} is no folder; {known.title} is at {known.home} "
            f"({known.licence}). Unpack it and name the folder that holds {known.layout}"
        )
    return root


def _placed(known: Collection, root: epath.Path) -> dict[str, folder.Item]:
    """uid -> object without captions, of every file."""
    items: dict[str, folder.Item] = {}
    files = _files(known, root)
    strange = []
    for names, path in files.items():
        place = known.place(names)
        if place is None:
            strange.append(path.relative_to(root))
            continue
        uid, category, split = place
        if uid in items:
            _refuse_two(uid, items[uid].path, path)
        items[uid] = folder.Item(uid, path, (), category, split)
    if strange:
        raise ValueError(
            f"data.source: {len(strange)} of {len(files)} files below {os.fspath(root)} are not "
            f"where {known.title} has them ({collections_labels.some(strange)}); it has "
            f"{known.layout}"
        )
    return items


def _files(known: Collection, root: epath.Path) -> dict[tuple[str, ...], epath.Path]:
    """Folders and own name of each object -> its file; where a fit has several steps, the last."""
    result: dict[tuple[str, ...], tuple[int, epath.Path]] = {}
    others: dict[str, int] = {}
    for path in _walk(root, known.endings):
        ending = path.suffix.lower()
        if ending in known.endings and path.name not in _NOT_GAUSSIANS:
            names, step = _names(path.relative_to(root).parts)
            other, old = result.get(names, (-1, None))
            if old is not None and min(step, other) < 0:
                _refuse_two(names[-1], old, path)
            if old is None or step > other:
                result[names] = step, path
        elif ending:
            others[ending] = others.get(ending, 0) + 1
    if not result:
        found = ", ".join(f"{count} x {ending}" for ending, count in sorted(others.items()))
        unpack = "; unpack the archives" if others.keys() & {".zip", ".gz", ".tar", ".7z"} else ""
        raise ValueError(
            f"data.source: {os.fspath(root)} holds no {' or '.join(known.endings)} file (found: "
            f"{found or 'nothing'}){unpack}. {known.title} ({known.home}) has {known.layout}"
        )
    return {names: path for names, (_, path) in result.items()}


def _walk(top: epath.Path, endings: tuple[str, ...]) -> Iterator[epath.Path]:
    """Files below a folder, sorted, without hidden ones; what has an ending is taken for one."""
    for path in sorted(top.iterdir()):
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if path.suffix.lower() not in endings and path.is_dir():
            yield from _walk(path, endings)
        else:
            yield path


def _refuse_two(uid: str, first: epath.Path, second: epath.Path):
    raise ValueError(
        f"data.source: two files of the object {uid!r}: {first} and {second}; leave one in the "
        "folder"
    )


def _names(parts: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Folders and own name of an object's file, and the step of its fit (-1 = not said).

    The original 3DGS code writes <object>/point_cloud/iteration_<step>/point_cloud.ply.
    """
    names = [*parts[:-1], parts[-1].rpartition(".")[0]]
    step = -1
    if names[-1] == "point_cloud" and len(names) > 1:
        names.pop()
        found = re.fullmatch(r"iteration_(\d+)", names[-1])
        if found and len(names) > 2 and names[-2] == "point_cloud":
            step = int(found[1])
            del names[-2:]
    return tuple(names), step


def _place_modelnet(names: tuple[str, ...]) -> tuple[str, str, str] | None:
    """.../<category>/<train or test>/<object>, with a folder more or less around the object."""
    found = [i for i, name in enumerate(names[:-1]) if name in ("train", "test")]
    if len(found) != 1 or found[0] == 0:
        return None
    category = names[found[0] - 1].replace(" ", "_")
    if category not in collections_names.MODELNET40:
        return None
    return names[-1], category, names[found[0]]


def _place_shapenet(names: tuple[str, ...]) -> tuple[str, str, str] | None:
    """<offset>-<object>, or <object> somewhere below <offset> (or <offset>_0, a part of it)."""
    joined = re.fullmatch(r"(\d{8})-(.+)", names[-1])
    if joined:
        offset, own = joined.groups()
    else:
        above = [re.fullmatch(r"(\d{8})(_\d+)?", name) for name in names[:-1]]
        offsets = [match[1] for match in above if match]
        if not offsets:
            return None
        offset, own = offsets[-1], names[-1]
    if offset not in collections_names.SHAPENET55:
        return None
    return f"{offset}-{own}", collections_names.SHAPENET55[offset], ""


def _place_by_uid(names: tuple[str, ...]) -> tuple[str, str, str] | None:
    return names[-1], "", ""


def _split(
    items: dict[str, folder.Item], listed: dict[str, str], root: epath.Path
) -> dict[str, folder.Item]:
    """Objects with the split of the lists; those in no list are left out where there are lists."""
    if not listed:
        return items
    kept = {
        uid: dataclasses.replace(item, split=listed[uid])
        for uid, item in items.items()
        if uid in listed
    }
    if not kept:
        raise ValueError(
            f"data.source: none of the {len(items)} objects below {os.fspath(root)} "
            f"({collections_labels.some(items)}) is in its lists of training and test objects "
            f"({collections_labels.some(listed)}); they are of another set"
        )
    if len(kept) < len(items):
        logging.warning("%s: %d objects are in no list, left out", root, len(items) - len(kept))
    return kept


def _labelled(item: folder.Item, label: folder.Item | None) -> folder.Item:
    """An object with a table's captions and split; its category only where it has none itself."""
    if label is None:
        return item
    return dataclasses.replace(
        item,
        captions=label.captions,
        category=item.category or label.category,
        split=label.split or item.split,
    )


def _within(items: dict[str, folder.Item], labels: dict) -> dict[str, folder.Item]:
    """Objects that a table knows."""
    kept = {uid: item for uid, item in items.items() if uid in labels}
    if len(kept) < len(items):
        logging.warning("%d objects are not in the table, left out", len(items) - len(kept))
    return kept


def _recorded(items: dict[str, folder.Item]) -> dict[str, folder.Item]:
    """Objects with what records say, where a table gave no caption; other files say nothing."""
    result = dict(items)
    asked = [o for o in items.values() if not o.captions and o.path.suffix.lower() == ".pkl"]
    quiet = not sys.stderr.isatty()
    for item in tqdm.tqdm(asked, desc="reading captions", unit="file", disable=quiet):
        record = gaussian_array.read_record(item.path)
        result[item.uid] = dataclasses.replace(
            item, captions=record.captions, category=item.category or record.label
        )
    return result


def _captioned(item: folder.Item, known: Collection) -> folder.Item:
    """An object with something said about it and a category."""
    if not item.captions and not item.category:
        raise ValueError(
            f"{item.path}: neither category nor caption of {item.uid!r} is known; name a table of "
            "either by uid with --config.data.captions_csv=FILE (for the LVIS part of Objaverse its "
            f"annotations, lvis-annotations.json.gz; {known.home})"
        )
    return dataclasses.replace(
        item,
        captions=item.captions or (caption(item.category),),
        category=item.category or folder.NO_CATEGORY,
        name=item.category.replace("_", " ") or item.uid,
    )


# Up axes: ShapeSplat trains on camera poses of Blender, whose up is z, and UniGS on those of Zero123's
# renderings, with points turned from y up to z up. data.up_axis overrides them.
COLLECTIONS = {
    "modelnet_splats": Collection(
        title="ModelNet_Splats",
        home="https://huggingface.co/datasets/ShapeSplats/ModelNet_Splats",
        licence="CC BY-NC 4.0 and the terms of use of ModelNet: academic use",
        layout="<category>/<train or test>/<object>/point_cloud.ply for the categories of ModelNet40, "
        "as airplane/train/airplane_0001/point_cloud.ply",
        up_axis="z",
        endings=(".ply",),
        place=_place_modelnet,
        split_lists=lambda root: {},
    ),
    "shape_splats": Collection(
        title="ShapeSplats",
        home="https://huggingface.co/datasets/ShapeNet/ShapeSplatsV1",
        licence="on request, for non-commercial research and education, by the terms of ShapeNet",
        layout="<WordNet offset>-<object>.ply or <WordNet offset>/<object>.ply for the 55 categories of "
        "ShapeNetCore, as 03001627-d388617a719f23a191d0dff7aea42471.ply, and where a split is to be "
        "kept train.txt and test.txt, a name <offset>-<object>.ply a line",
        up_axis="z",
        endings=(".ply",),
        place=_place_shapenet,
        split_lists=collections_labels.text_lists,
    ),
    "unigs_objaverse": Collection(
        title="UniGS's Objaverse",
        home="https://huggingface.co/datasets/lihy285/UniGS",
        licence="no licence stated there; objects under the terms of Objaverse, each with its own",
        layout="<uid>.pkl records (as objects/<uid>.pkl), or <uid>.npy tables [N, 14] or <uid>.ply "
        "files, and where a split is to be kept sample_all.json or file_paths.json",
        up_axis="z",
        endings=(".pkl", ".npy", ".ply"),
        place=_place_by_uid,
        split_lists=collections_labels.json_lists,
    ),
}
NAMES = tuple(COLLECTIONS)
