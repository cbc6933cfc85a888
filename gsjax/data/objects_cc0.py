"""1,333 named low-poly objects (CC0): meshes into Gaussians, captions, and the two splits.

Reads a folder with ``index.jsonl`` (one line an object: id, name, category, split, colored,
captions, ...) and ``meshes.npz`` (``verts``, ``faces``, ``face_rgb`` with offsets). Objects are by
Kenney, Kay Lousberg (KayKit) and Quaternius. Imports no JAX; ``build`` renders the views.

The shipped split has near twins on both sides. The default split, 'v2', is disjoint over groups of
twins; ``twins`` made it and wrote ``splits/objects_cc0_v2.json``.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence
from importlib import resources

import numpy as np
from etils import epath

from gsjax.data import discs, features
from gsjax.io import meshes, npz

VERSION = 1  # raise it when the Gaussians or captions change
SPLITS = ("v2", "shipped")
_FILES = ("index.jsonl", "meshes.npz")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """One object: ``vertices`` f32 [P, 3] (longest side 1, y up), ``faces`` int [F, 3], ``rgb``
    f32 [F, 3] in [0, 1]."""

    vertices: np.ndarray
    faces: np.ndarray
    rgb: np.ndarray

    @functools.cached_property
    def cross(self) -> np.ndarray:
        """Face normals [F, 3], as long as twice the face's area."""
        a, b, c = (self.vertices[self.faces[:, k]].astype(np.float64) for k in range(3))
        return np.cross(b - a, c - a)

    @property
    def area(self) -> float:
        return float(np.linalg.norm(self.cross, axis=-1).sum() / 2)


class Collection:
    """The folder's index and meshes.

    Attributes:
        entries: one dict an object, as in ``index.jsonl``.
        categories: their names, sorted.

    Raises:
        ValueError: files are absent or do not belong together.
    """

    def __init__(self, folder):
        self.folder = epath.Path(folder)
        absent = [name for name in _FILES if not (self.folder / name).exists()]
        if absent:
            raise ValueError(
                f"data.source: {os.fspath(self.folder)} lacks {', '.join(absent)}; name the folder "
                "that holds objects_cc0, or set GSJAX_DATA to the folder above it"
            )
        lines = (self.folder / "index.jsonl").read_text().splitlines()
        self.entries = [json.loads(line) for line in lines if line.strip()]
        self.categories = sorted({entry["category"] for entry in self.entries})
        self._arrays = npz.read(self.folder / "meshes.npz")
        found = len(self._arrays["face_offsets"]) - 1
        if found != len(self.entries):
            raise ValueError(
                f"{os.fspath(self.folder)}: index.jsonl names {len(self.entries)} objects, "
                f"meshes.npz holds {found}; both must come from the same copy"
            )

    def __len__(self) -> int:
        return len(self.entries)

    def mesh(self, number: int) -> Mesh:
        """Mesh of object ``number``."""
        a = self._arrays
        v0, v1 = a["vert_offsets"][number : number + 2]
        f0, f1 = a["face_offsets"][number : number + 2]
        return Mesh(
            vertices=a["verts"][v0:v1].astype(np.float32) * np.float32(a["scale"]),
            faces=a["faces"][f0:f1].astype(np.int64),
            rgb=a["face_rgb"][f0:f1].astype(np.float32) / 255,
        )

    def digest(self) -> str:
        """Identity of the raw data: the index and the sizes of the meshes."""
        sizes = {name: list(value.shape) for name, value in sorted(self._arrays.items())}
        text = (self.folder / "index.jsonl").read_text()
        return f"{features.stable_seed(text, json.dumps(sizes)):016x}"


def sample_mesh(
    mesh: Mesh, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points on the faces, uniform by area.

    Faces are drawn systematically (one place in each of ``count`` equal slices of the area), which
    keeps the counts of neighbouring faces even.

    Returns:
        points [count, 3], unit normals [count, 3] (sign as the faces wind), face numbers [count].

    Raises:
        ValueError: the mesh has no area.
    """
    return meshes.sample_faces(mesh.vertices, mesh.faces, count, rng)[:3]


def gaussians_of(mesh: Mesh, count: int, rng: np.random.Generator, *, fps_length=None):
    """Raw Gaussians of a mesh: ``count`` thin discs, see ``discs.from_surface``."""
    points, normals, face = sample_mesh(mesh, count, rng)
    return discs.from_surface(
        points, normals, mesh.rgb[face], area=mesh.area, fps_length=fps_length
    )


def captions_of(entry: dict) -> list[str]:
    """Captions of an object, the plainest first: name, then the index's own lines."""
    name, category = entry["name"], entry["category"].replace("_", " ")
    first = f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"
    known = [first, *entry["captions"]]
    if entry["category"] == "other":  # "a base, other" says nothing
        known = [text for text in known if not text.endswith(", other")]
    elif category not in name:
        known.append(f"a 3D model of {first}, a kind of {category}")
    return list(dict.fromkeys(known))


def load_split(entries: list[dict], split: str) -> dict[str, list[int]]:
    """Object numbers of 'train' and 'test'.

    Args:
        entries: of the collection.
        split: 'v2' (group-disjoint, the default everywhere) or 'shipped'.

    Raises:
        ValueError: unknown split, or the split names other objects than there are.
    """
    if split not in SPLITS:
        raise ValueError(f"data.split: unknown split {split!r}; known: {list(SPLITS)}")
    if split == "shipped":
        sides = {entry["id"]: entry["split"] for entry in entries}
    else:
        path = resources.files("gsjax.data") / "splits" / "objects_cc0_v2.json"
        stored = json.loads(path.read_text())
        sides = {uid: side for side in ("train", "test") for uid in stored[side]}
    strangers = {entry["id"] for entry in entries} ^ set(sides)
    if strangers:
        raise ValueError(
            f"split {split!r} and the collection differ in {len(strangers)} objects, such as "
            f"{sorted(strangers)[:3]}; use the collection it was made for, or split='shipped'"
        )
    return {
        side: [i for i, entry in enumerate(entries) if sides[entry["id"]] == side]
        for side in ("train", "test")
    }


def hold_out(
    entries: list[dict], sides: dict[str, list[int]], categories: Sequence[str]
) -> dict[str, list[int]]:
    """Sides without some categories, whose objects, of either side, become the side 'novel'.

    Args:
        entries: of the collection.
        sides: of ``load_split``.
        categories: names, with spaces or underscores; none leaves the sides as they are.

    Raises:
        ValueError: a name that is no category, or no training object left.
    """
    if not categories:
        return sides
    wanted = {name.replace(" ", "_") for name in categories}
    known = {entry["category"] for entry in entries}
    if wanted - known:
        raise ValueError(
            f"data.exclude_categories: unknown {sorted(wanted - known)}; known: "
            f"{', '.join(sorted(known))}"
        )
    kept = {
        side: [i for i in numbers if entries[i]["category"] not in wanted]
        for side, numbers in sides.items()
    }
    if not kept["train"]:
        raise ValueError("data.exclude_categories: no object is left for training; name fewer")
    novel = sorted(i for n in sides.values() for i in n if entries[i]["category"] in wanted)
    return {**kept, "novel": novel}


def objects(
    collection: Collection,
    numbers: list[int],
    *,
    num_gaussians: int,
    seed: int,
    fps_length: int | None = None,
) -> Iterator[dict]:
    """Objects as ``build`` takes them: uid, name, category, captions, colored, gaussians."""
    label = {name: i for i, name in enumerate(collection.categories)}
    for number in numbers:
        entry = collection.entries[number]
        rng = np.random.default_rng(features.stable_seed("objects_cc0", seed, entry["id"]))
        yield {
            "uid": entry["id"],
            "name": entry["name"],
            "category": label[entry["category"]],
            "captions": captions_of(entry),
            "colored": bool(entry["colored"]),
            "gaussians": gaussians_of(
                collection.mesh(number), num_gaussians, rng, fps_length=fps_length
            ),
        }
