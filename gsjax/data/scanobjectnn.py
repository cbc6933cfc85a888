"""ScanObjectNN (arXiv 1908.04616): scanned objects of 15 categories, from its published HDF5 files.

``<root>/main_split/{training,test}_objectdataset.h5``, the same below ``main_split_nobg``, and
``<root>/main_split/{training,test}_objectdataset_augmentedrot_scale75.h5``; ``<root>`` may also be the
folder above ``h5_files``, as the archive unpacks. A file holds ``data`` [n, 2048, 3], ``label`` [n] and
``mask`` [n, 2048], -1 where a point belongs to the background. +y is up. Needs h5py (``gsjax[h5]``).
Points are as scanned: neither centred nor scaled here. Imports no JAX.
"""

from pathlib import Path

import numpy as np

from gsjax.data import labelled_clouds
from gsjax.io import hdf5

CATEGORIES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed",
    "pillow", "sink", "sofa", "toilet",
)  # fmt: skip
# Variant -> folder and what its file names end with. 'pb_t50_rs' (boxes moved by up to half their
# size, turned, scaled; about 5 examples an object) is the hardest and the one that is mostly meant.
VARIANTS = {
    "obj_only": ("main_split_nobg", ""),
    "obj_bg": ("main_split", ""),
    "pb_t50_rs": ("main_split", "_augmentedrot_scale75"),
}
SPLITS = {"train": "training", "test": "test"}
_BACKGROUND = -1


class ScanObjectNN:
    """One split, in memory; a ``labelled_clouds.LabelledClouds``.

    Args:
        root: folder of the published files.
        split: 'train' or 'test'; the set has no validation part.
        variant: a key of ``VARIANTS``, in letters of any case.

    Attributes:
        points: float32 [n, P, 3].
        labels: int32 [n].
        foreground: bool [n, P], the point belongs to the object; None where the file has no mask.

    Raises:
        FileNotFoundError: the root or the file is absent; the message says what was looked for.
        ImportError: h5py is absent.
        ValueError: unknown split or variant, or a file of another shape or with other labels.
    """

    categories = CATEGORIES
    parts: tuple[str, ...] = ()
    category_parts: tuple[tuple[int, ...], ...] = ()
    has_normals = False

    def __init__(self, root: str | Path, split: str = "train", *, variant: str = "pb_t50_rs"):
        if split not in SPLITS:
            raise ValueError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}")
        variant = variant.lower()
        if variant not in VARIANTS:
            raise ValueError(f"variant: unknown {variant!r}; known: {', '.join(VARIANTS)}")
        self.split, self.variant = split, variant
        folder, suffix = VARIANTS[variant]
        path = _find(Path(root), folder, f"{SPLITS[split]}_objectdataset{suffix}.h5")
        found = hdf5.read(path, ("data", "label"), optional=("mask",))
        self.points = labelled_clouds.points_array(found["data"], f"{path}: data")
        count = len(self.points)
        self.labels = labelled_clouds.label_array(
            found["label"], count, len(CATEGORIES), f"{path}: label"
        )
        self.foreground = None
        if "mask" in found:
            if found["mask"].shape != self.points.shape[:2]:
                raise ValueError(
                    f"{path}: mask: expected {list(self.points.shape[:2])} as data has points, found "
                    f"{list(found['mask'].shape)}"
                )
            self.foreground = found["mask"] != _BACKGROUND

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> labelled_clouds.LabelledCloud:
        index = range(len(self))[index]
        name = f"{self.variant}/{self.split}/{index:05d}"
        xyz = np.ascontiguousarray(self.points[index])
        return labelled_clouds.LabelledCloud(name, int(self.labels[index]), xyz)


def _find(root: Path, folder: str, name: str) -> Path:
    layout = f"expected <root>/{folder}/{name}, as h5_files.zip of ScanObjectNN unpacks"
    if not root.is_dir():
        raise FileNotFoundError(f"root: {root} is no folder; {layout}")
    homes = [root / folder, root / "h5_files" / folder]
    home = next((home for home in homes if home.is_dir()), None)
    if home is None:
        raise FileNotFoundError(f"root: {root} has no folder {folder!r}; {layout}")
    if not (home / name).is_file():
        there = ", ".join(sorted(path.name for path in home.glob("*.h5"))) or "no .h5 file"
        raise FileNotFoundError(f"{home}: has no {name}, but {there}; {layout}")
    return home / name
