"""Collections of meshes: their objects in a fixed order, and a text that identifies them.

What `gsjax fit-objects` fits, and what cross-modal training shows pictures of.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from gsjax.data import features, mesh_views, objects_cc0
from gsjax.io import meshes

NO_CATEGORY = "object"
_SUFFIXES = (".obj", ".off", ".glb", ".stl", ".npz")
_SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Item:
    """An object: its number in the collection, what it is (see `fitted.Fitted`), its mesh."""

    number: int
    about: dict
    mesh: Callable[[], meshes.Mesh]


def load(source: str, split: str = "v2") -> tuple[list[Item], str]:
    """Objects of a collection, numbered in a fixed order.

    Args:
      source: 'objects_cc0', found by $GSJAX_DATA, or its folder; a folder laid out as ModelNet10 is
        (<class>/train/*.off, <class>/test/*.off); or any folder of mesh files.
      split: of objects_cc0.

    Returns:
      Items, and the collection's identity.

    Raises:
      ValueError: the folder holds none of these.
    """
    folder = pathlib.Path(source)
    if source == "objects_cc0":
        root = os.environ.get("GSJAX_DATA")
        if not root:
            raise ValueError(
                "source: 'objects_cc0' is looked for in $GSJAX_DATA, which is not set; name its folder"
            )
        folder = pathlib.Path(root) / source
    if (folder / "index.jsonl").exists():
        return _objects_cc0(folder, split)
    paths = _mesh_paths(folder)
    modelnet = paths and all(_in_modelnet_layout(path.relative_to(folder)) for path in paths)
    about = _about_modelnet if modelnet else _about_file
    items = [
        Item(number, about(path.relative_to(folder)), lambda path=path: meshes.read(path))
        for number, path in enumerate(paths)
    ]
    listing = "\n".join(
        f"{item.about['uid']} {path.stat().st_size}"
        for item, path in zip(items, paths, strict=True)
    )
    return items, f"{'modelnet' if modelnet else 'files'} {features.stable_seed(listing):016x}"


def _objects_cc0(folder, split):
    collection = objects_cc0.Collection(folder)
    sides = objects_cc0.load_split(collection.entries, split)
    side_of = {number: side for side, numbers in sides.items() for number in numbers}
    items = []
    for number, entry in enumerate(collection.entries):
        about = {
            "uid": entry["id"], "name": entry["name"], "category": entry["category"],
            "captions": objects_cc0.captions_of(entry), "colored": bool(entry["colored"]),
            "split": side_of.get(number, "train"),
        }  # fmt: skip
        items.append(Item(number, about, _mesh_of(collection, number)))
    return items, f"objects_cc0 {collection.digest()} {split}"


def _mesh_of(collection, number) -> Callable[[], meshes.Mesh]:
    return lambda: mesh_views.from_objects_cc0(collection.mesh(number))


def _mesh_paths(folder):
    """Mesh files of a folder; archives packed on a Mac hold hidden doubles of every file."""
    paths = [
        p
        for p in sorted(folder.rglob("*"))
        if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")
    ]
    if not paths:
        raise ValueError(
            f"source: {folder} holds neither index.jsonl nor mesh files ({', '.join(_SUFFIXES)})"
        )
    return paths


def _in_modelnet_layout(path) -> bool:
    return len(path.parts) == 3 and path.parts[1] in _SPLITS and path.suffix.lower() == ".off"


def _about_modelnet(path) -> dict:
    """Category and split are folders; the file's name is a number of the class, not a name."""
    category, split, _ = path.parts
    name = category.replace("_", " ")
    article = "an" if name[0] in "aeiou" else "a"
    return {
        "uid": path.with_suffix("").as_posix(), "name": name, "category": category,
        "captions": [f"{article} {name}"], "colored": False, "split": split,
    }  # fmt: skip


def _about_file(path) -> dict:
    """The outermost folder is the category, 'test' anywhere in the path the split."""
    parts = [part for part in path.parts[:-1] if part not in _SPLITS]
    name = path.stem.replace("_", " ")
    return {
        "uid": path.with_suffix("").as_posix(), "name": name,
        "category": parts[0] if parts else NO_CATEGORY, "captions": [f"a {name}"],
        "colored": True, "split": "test" if "test" in path.parts else "train",
    }  # fmt: skip
