"""Collections of meshes that the factory fits: their objects, and a text that identifies them."""

import os
import pathlib
from collections.abc import Callable

from gsjax.data import features, mesh_views, objects_cc0
from gsjax.io import meshes
from gsjax.systems.scene_fit.factory import Item

NO_CATEGORY = "object"


def load(source: str, split: str = "v2") -> tuple[list[Item], str]:
    """Objects of a collection, numbered in a fixed order.

    Args:
      source: 'objects_cc0', found by $GSJAX_DATA, or its folder; or a folder of mesh files.
      split: of objects_cc0.

    Returns:
      Items, and the collection's identity.

    Raises:
      ValueError: the folder holds neither.
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
    return _mesh_files(folder)


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


def _mesh_files(folder):
    """One object a file; the folder a file lies in is its category, 'test' in the path its split."""
    suffixes = (".obj", ".off", ".glb", ".stl", ".npz")
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in suffixes]
    if not paths:
        raise ValueError(
            f"source: {folder} holds neither index.jsonl nor mesh files ({', '.join(suffixes)})"
        )
    items = []
    for number, path in enumerate(paths):
        parts = [part for part in path.relative_to(folder).parts[:-1] if part not in _SPLITS]
        name = path.stem.replace("_", " ")
        about = {
            "uid": path.relative_to(folder).with_suffix("").as_posix(), "name": name,
            "category": parts[0] if parts else NO_CATEGORY, "captions": [f"a {name}"],
            "colored": True,
            "split": "test" if "test" in path.relative_to(folder).parts else "train",
        }  # fmt: skip
        items.append(Item(number, about, lambda path=path: meshes.read(path)))
    listing = "\n".join(f"{item.about['uid']} {p.stat().st_size}" for item, p in zip(items, paths))
    return items, f"files {features.stable_seed(listing):016x}"


_SPLITS = ("train", "test")
