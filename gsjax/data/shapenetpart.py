"""ShapeNetPart: objects of 16 categories whose points are labelled with 50 parts.

The layout is that of ``shapenetcore_partanno_segmentation_benchmark_v0_normal`` (annotations of Yi et
al., SIGGRAPH Asia 2016; split and normals of PointNet++, arXiv 1706.02413):
``<root>/synsetoffset2category.txt`` (``Airplane 02691156``),
``<root>/train_test_split/shuffled_{train,val,test}_file_list.json`` (``shape_data/<synset>/<object>``)
and ``<root>/<synset>/<object>.txt``, lines of x y z nx ny nz part. Parts are numbered 0 to 49 over all
categories, and an object has those of its own category alone. +y is up. 12,137 + 1,870 + 2,874 objects.
Imports no JAX.
"""

import os
from pathlib import Path

import numpy as np

from gsjax.data import labelled_clouds
from gsjax.io import json_text, posed_checks

# In label order: category as the files spell it, synset, number of parts. The parts have no published
# names; they are numbered within their category.
_CATEGORIES = (
    ("Airplane", "02691156", 4), ("Bag", "02773838", 2), ("Cap", "02954340", 2),
    ("Car", "02958343", 4), ("Chair", "03001627", 4), ("Earphone", "03261776", 3),
    ("Guitar", "03467517", 3), ("Knife", "03624134", 2), ("Lamp", "03636649", 4),
    ("Laptop", "03642806", 2), ("Motorbike", "03790512", 6), ("Mug", "03797390", 2),
    ("Pistol", "03948459", 3), ("Rocket", "04099429", 3), ("Skateboard", "04225987", 3),
    ("Table", "04379243", 3),
)  # fmt: skip
_STARTS = np.cumsum([0] + [count for _, _, count in _CATEGORIES]).tolist()
CATEGORIES = tuple(name.lower() for name, _, _ in _CATEGORIES)
SYNSETS = tuple(synset for _, synset, _ in _CATEGORIES)
CATEGORY_PARTS = tuple(
    tuple(range(start, start + count)) for start, (_, _, count) in zip(_STARTS, _CATEGORIES)
)
PARTS = tuple(f"{name.lower()} {i}" for name, _, count in _CATEGORIES for i in range(count))
SPLITS = ("train", "val", "test")
FOLDER = "shapenetcore_partanno_segmentation_benchmark_v0_normal"


class ShapeNetPart:
    """One split; files are read when asked for. A ``labelled_clouds.LabelledClouds``.

    Args:
        root: folder of the layout above, or the one that holds it.
        split: 'train', 'val' or 'test'.

    Attributes:
        names: ``<synset>/<object>``, in the order of the list.
        labels: int32 [n].

    Raises:
        FileNotFoundError: the root, a list, or a file that a list names, is absent.
        ValueError: unknown split, categories other than the 16, or a list of another form.
    """

    categories = CATEGORIES
    parts = PARTS
    category_parts = CATEGORY_PARTS
    has_normals = True

    def __init__(self, root: str | Path, split: str = "train"):
        if split not in SPLITS:
            raise ValueError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}")
        self._folder = _find(Path(root), split)
        _check_categories(self._folder / "synsetoffset2category.txt")
        source = self._folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        self.names = tuple(_names(source))
        self.labels = np.asarray(
            [SYNSETS.index(name.split("/")[0]) for name in self.names], np.int32
        )
        there = {f"{synset}/{file}" for synset in SYNSETS for file in _files(self._folder / synset)}
        missing = [f"{name}.txt" for name in self.names if f"{name}.txt" not in there]
        if missing:
            raise FileNotFoundError(
                f"{source}: {len(missing)} of {len(self.names)} point files are missing: "
                f"{posed_checks.first_few(missing)}; unpack the archive again"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> labelled_clouds.LabelledCloud:
        """Reads an object.

        Raises:
            ValueError: its file is damaged, or has a part that is none of its category's.
        """
        name, category = self.names[index], int(self.labels[index])
        path = self._folder / f"{name}.txt"
        rows = labelled_clouds.read_rows(path, 7)
        parts = labelled_clouds.label_array(rows[:, 6], len(rows), len(PARTS), f"{path}: part")
        own = CATEGORY_PARTS[category]
        if parts.min() < own[0] or parts.max() > own[-1]:
            raise ValueError(
                f"{path}: part: expected {own[0]} to {own[-1]} of the category "
                f"{CATEGORIES[category]!r}, found {np.setdiff1d(parts, own)[:5].tolist()}"
            )
        xyz, normal = np.ascontiguousarray(rows[:, :3]), np.ascontiguousarray(rows[:, 3:6])
        return labelled_clouds.LabelledCloud(name, category, xyz, normal, parts)


def _find(root: Path, split: str) -> Path:
    layout = (
        "expected <root>/synsetoffset2category.txt, "
        f"<root>/train_test_split/shuffled_{split}_file_list.json and <root>/<synset>/<object>.txt, as "
        f"{FOLDER}.zip unpacks"
    )
    if not root.is_dir():
        raise FileNotFoundError(f"root: {root} is no folder; {layout}")
    needed = ("synsetoffset2category.txt", f"train_test_split/shuffled_{split}_file_list.json")
    for home in (root, root / FOLDER):
        missing = [name for name in needed if not (home / name).is_file()]
        if not missing:
            return home
    home = root / FOLDER if (root / FOLDER).is_dir() else root
    missing = [name for name in needed if not (home / name).is_file()]
    raise FileNotFoundError(f"root: {home} has no {' and no '.join(missing)}; {layout}")


def _check_categories(path: Path) -> None:
    found = {tuple(line.split()) for line in path.read_text().splitlines() if line.strip()}
    expected = {(name, synset) for name, synset, _ in _CATEGORIES}
    if found != expected:
        odd = [" ".join(item) for item in sorted(found ^ expected)]
        raise ValueError(
            f"{path}: expected the 16 categories of ShapeNetPart, one 'Name synset' a line; differs in "
            f"{posed_checks.first_few(odd)}"
        )


def _names(source: Path) -> list[str]:
    """``<synset>/<object>`` of a list."""
    entries = json_text.read(source, list)
    if not entries:
        raise ValueError(f"{source}: expected a list of shape_data/<synset>/<object>, found none")
    names = []
    for entry in entries:
        pieces = entry.split("/")[-2:] if isinstance(entry, str) else []
        if len(pieces) != 2 or pieces[0] not in SYNSETS or not pieces[1]:
            raise ValueError(
                f"{source}: expected shape_data/<synset>/<object> with one of the 16 synsets, found "
                f"{entry!r}"
            )
        names.append("/".join(pieces))
    return names


def _files(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []
