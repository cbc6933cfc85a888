"""ModelNet40 and ModelNet10 as point sets, in the two layouts that are published.

``modelnet40_ply_hdf5_2048``: ``{train,test}_files.txt`` name HDF5 files beside them, which hold
``data`` [n, 2048, 3], ``label`` [n, 1] and ``normal`` [n, 2048, 3]; ``shape_names.txt`` lists the
categories in label order. Needs h5py (``gsjax[h5]``).
``modelnet40_normal_resampled``: ``modelnet40_{train,test}.txt`` name objects (``airplane_0001``), each
a file ``airplane/airplane_0001.txt`` of 10,000 lines x,y,z,nx,ny,nz; ``modelnet40_shape_names.txt``
lists the categories. The lists ``modelnet10_*.txt`` in the same folder are ModelNet10.
+y is up. The two layouts do not hold the same points, nor quite the same training objects (9,840 and
9,843). Imports no JAX.
"""

import os
from pathlib import Path

import numpy as np

from gsjax.data import labelled_clouds
from gsjax.io import hdf5, posed_checks

# In label order, as the files spell them.
CATEGORIES = {
    "modelnet40": (
        "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone",
        "cup", "curtain", "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard",
        "lamp", "laptop", "mantel", "monitor", "night_stand", "person", "piano", "plant", "radio",
        "range_hood", "sink", "sofa", "stairs", "stool", "table", "tent", "toilet", "tv_stand",
        "vase", "wardrobe", "xbox",
    ),
    "modelnet10": (
        "bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table",
        "toilet",
    ),
}  # fmt: skip
SPLITS = ("train", "test")
FOLDERS = {"h5": "modelnet40_ply_hdf5_2048", "text": "modelnet40_normal_resampled"}


def open_split(
    root: str | Path, split: str = "train", *, name: str = "modelnet40", layout: str = ""
) -> "ModelNetArrays | ModelNetFiles":
    """A split in whichever layout the folder has.

    Args:
        root: folder of the files, or the one above it.
        split: 'train' or 'test'; the set has no validation part.
        name: 'modelnet40' or 'modelnet10' (of the text layout alone).
        layout: 'h5' or 'text'; '' = the one that is there.

    Raises:
        FileNotFoundError: no such folder or list; the message says what was looked for.
        ValueError: an unknown name, both layouts in one folder, or what the readers say.
    """
    for what, value, known in (
        ("split", split, SPLITS), ("name", name, CATEGORIES), ("layout", layout, ("", *FOLDERS))
    ):  # fmt: skip
        if value not in known:
            raise ValueError(
                f"{what}: unknown {value!r}; known: {', '.join(x or repr(x) for x in known)}"
            )
    homes = _layouts(Path(root), split, name)
    if layout and layout not in homes:
        raise FileNotFoundError(
            f"root: {root} does not hold the layout {layout!r}; {_expected(name)}"
        )
    if not layout and len(homes) > 1:
        raise ValueError(
            f"layout: {root} holds both h5 and text files; say which, layout='h5' or 'text'"
        )
    layout = layout or next(iter(homes))
    return (ModelNetArrays if layout == "h5" else ModelNetFiles)(homes[layout], split, name)


class ModelNetArrays:
    """One split of the HDF5 layout, in memory; a ``labelled_clouds.LabelledClouds``.

    Attributes:
        points: float32 [n, P, 3].
        normals: float32 [n, P, 3], or None where a file has none.
        labels: int32 [n].

    Raises:
        FileNotFoundError: a list, or a file that it names, is absent.
        ImportError: h5py is absent.
        ValueError: a file of another shape or with other labels, or other categories than expected.
    """

    parts: tuple[str, ...] = ()
    category_parts: tuple[tuple[int, ...], ...] = ()

    def __init__(self, folder: Path, split: str, name: str):
        if name != "modelnet40":
            raise ValueError(f"name: {name!r} is not in the h5 layout; expected the text layout")
        self.split = split
        self.categories = _categories(folder / "shape_names.txt", name)
        # Lines are paths of the machine that made them: data/modelnet40_ply_hdf5_2048/ply_...h5
        files = [folder / os.path.basename(line) for line in _lines(folder / f"{split}_files.txt")]
        posed_checks.check_files(files, str(folder / f"{split}_files.txt"), "HDF5")
        points, normals, labels = [], [], []
        for file in files:
            found = hdf5.read(file, ("data", "label"), optional=("normal",))
            data = labelled_clouds.points_array(found["data"], f"{file}: data")
            if points and data.shape[1:] != points[0].shape[1:]:
                raise ValueError(
                    f"{file}: data: expected {points[0].shape[1]} points an object as in "
                    f"{files[0].name}, found {data.shape[1]}"
                )
            points.append(data)
            labels.append(
                labelled_clouds.label_array(
                    found["label"], len(data), len(self.categories), f"{file}: label"
                )
            )
            if "normal" in found:
                normals.append(labelled_clouds.points_array(found["normal"], f"{file}: normal"))
                if normals[-1].shape != data.shape:
                    raise ValueError(
                        f"{file}: normal: expected {list(data.shape)} as data, found "
                        f"{list(normals[-1].shape)}"
                    )
        self.points, self.labels = np.concatenate(points), np.concatenate(labels)
        self.has_normals = len(normals) == len(files)
        self.normals = np.concatenate(normals) if self.has_normals else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> labelled_clouds.LabelledCloud:
        index = range(len(self))[index]
        normal = self.normals[index] if self.has_normals else None
        return labelled_clouds.LabelledCloud(
            f"{self.split}/{index:05d}", int(self.labels[index]), self.points[index], normal
        )


class ModelNetFiles:
    """One split of the text layout, a ``labelled_clouds.LabelledClouds``; files are read when asked for.

    Attributes:
        names: of the objects, in the order of the list.
        labels: int32 [n].

    Raises:
        FileNotFoundError: a list, or a file that it names, is absent.
        ValueError: other categories than expected.
    """

    parts: tuple[str, ...] = ()
    category_parts: tuple[tuple[int, ...], ...] = ()
    has_normals = True

    def __init__(self, folder: Path, split: str, name: str):
        self._folder = folder
        self.categories = _categories(folder / f"{name}_shape_names.txt", name)
        source = folder / f"{name}_{split}.txt"
        self.names = tuple(_lines(source))
        spelled = CATEGORIES[name]
        homes = [item.rsplit("_", 1)[0] for item in self.names]
        unknown = sorted(set(homes) - set(spelled))
        if unknown:
            raise ValueError(
                f"{source}: objects of unknown categories {posed_checks.first_few(unknown)}; expected "
                f"<category>_<number> with the categories of {name}"
            )
        self.labels = np.asarray([spelled.index(home) for home in homes], np.int32)
        self._files = [folder / home / f"{item}.txt" for home, item in zip(homes, self.names)]
        posed_checks.check_files(self._files, str(source), "point")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> labelled_clouds.LabelledCloud:
        """Reads an object.

        Raises:
            ValueError: its file is damaged, or its lines are no x,y,z,nx,ny,nz.
        """
        index = range(len(self))[index]
        rows = labelled_clouds.read_rows(self._files[index], 6, delimiter=",")
        xyz, normal = np.ascontiguousarray(rows[:, :3]), np.ascontiguousarray(rows[:, 3:])
        return labelled_clouds.LabelledCloud(
            self.names[index], int(self.labels[index]), xyz, normal
        )


def _expected(name: str) -> str:
    return (
        f"expected {FOLDERS['h5']} with train_files.txt, test_files.txt and shape_names.txt, or "
        f"{FOLDERS['text']} with {name}_train.txt, {name}_test.txt and {name}_shape_names.txt"
    )


def _layouts(root: Path, split: str, name: str) -> dict[str, Path]:
    """{layout: folder} of what there is."""
    if not root.is_dir():
        raise FileNotFoundError(f"root: {root} is no folder; {_expected(name)}")
    lists = {"text": f"{name}_{split}.txt"}
    if name == "modelnet40":
        lists["h5"] = f"{split}_files.txt"
    found = {}
    for layout, file in lists.items():
        homes = [home for home in (root, root / FOLDERS[layout]) if (home / file).is_file()]
        if homes:
            found[layout] = homes[0]
    if not found:
        raise FileNotFoundError(
            f"root: {root} has neither {' nor '.join(lists.values())}; {_expected(name)}"
        )
    return found


def _lines(path: Path) -> list[str]:
    """Lines of a list that are not blank."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: has no {path.name}")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: expected one name a line, found an empty file")
    return lines


def _categories(path: Path, name: str) -> tuple[str, ...]:
    """Names as words, after the file was found to list those that are expected."""
    expected, found = CATEGORIES[name], tuple(_lines(path))
    if found != expected:
        odd = sorted(set(found) ^ set(expected)) or ["another order"]
        raise ValueError(
            f"{path}: expected the {len(expected)} categories of {name}, found {len(found)} "
            f"that differ ({posed_checks.first_few(odd)})"
        )
    return tuple(item.replace("_", " ") for item in expected)
