"""The readers of files that others may have written, each as a function of a folder with such files.

A reader may give a result or raise one of the errors that it documents; whatever else comes out of it is
a finding. Results are looked at, so that what a reader gives on demand (arrays of a mapped file, frames of
a scene) is read too. Modules are imported where they are used: a worker loads those of its target alone.
"""

import dataclasses
import functools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: of the target; ``seeds.SEEDS`` has sound files under it.
        files: names of the files that are damaged; what else the seeds write stays as it is.
        read: the reader, called with the folder that holds the files.
        errors: what it may raise.
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[Path], object]
    errors: tuple[type[BaseException], ...]

    def run(self, folder: Path) -> BaseException | None:
        """The documented error that came out, or None; raises what is not documented."""
        try:
            self.read(folder)
        except self.errors as error:
            str(error)  # a message must be printable
            return error
        return None


TARGETS: dict[str, Target] = {}


def _target(*files: str, errors: tuple[type[BaseException], ...] = (ValueError,)):
    def register(read):
        TARGETS[read.__name__] = Target(read.__name__, files, read, errors)
        return read

    return register


def join(parts: list[bytes]) -> bytes:
    """Several files as one: each behind its length (4 bytes). One file is what it is."""
    if len(parts) == 1:
        return parts[0]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def split(data: bytes, count: int) -> list[bytes]:
    """``count`` files of :func:`join`, or of any bytes: lengths beyond the end are cut to it."""
    if count == 1:
        return [data]
    parts, place = [], 0
    for _ in range(count):
        size = int.from_bytes(data[place : place + 4], "little")
        parts.append(data[place + 4 : place + 4 + size])
        place += 4 + size
    return parts


def write(target: Target, folder: Path, parts: list[bytes]) -> None:
    """Puts the damaged files into the folder."""
    for name, content in zip(target.files, parts, strict=True):
        with open(folder / name, "wb") as file:
            file.write(content)


# Splats.


def _splats(path: Path) -> None:
    from gsjax.io import formats, records

    found = formats.load_gaussians(path, on_bad_rows="drop")
    assert not records.bad_rows(records.as_dict(found))
    formats.load_gaussians(path)


def _splat_target(name: str, file: str):
    def read(folder):
        _splats(folder / file)

    from gsjax.io import records

    TARGETS[name] = Target(name, (file,), read, (records.SplatFormatError,))


for _name, _file in {
    "ply": "a.ply", "ply_compressed": "a.compressed.ply", "splat": "a.splat", "spz": "a.spz",
    "npy_table": "a.npy", "unigs": "a.pkl",
}.items():  # fmt: skip
    _splat_target(_name, _file)


@_target("a.ply")
def point_cloud(folder):
    from gsjax.io import ply
    from gsjax.io import point_cloud as reader

    ply.read_comments(folder / "a.ply")
    points, colors = reader.read(folder / "a.ply")
    assert points.shape == (len(points), 3) and len(points)
    assert colors is None or colors.shape == points.shape


@_target("a.spz")
def spz_header(folder):
    from gsjax.io import spz

    spz.read_header(folder / "a.spz")


# Photographs with cameras.


def _posed(path: Path, pixels: bool = False) -> None:
    from gsjax.io import posed

    found = posed.load_posed(path)
    assert np.isfinite(found.viewmats).all() and np.isfinite(found.Ks).all()
    posed.holdout(found)
    if pixels:
        posed.load_images(found, background=(0, 0, 0))
        posed.load_masks(found)
        posed.load_depths(found)


_MODEL = ("cameras", "images", "points3D")
_posed_target = functools.partial(_target, errors=(ValueError, FileNotFoundError))


@_posed_target(*(f"sparse/0/{name}.bin" for name in _MODEL))
def colmap_binary(folder):
    _posed(folder)


@_posed_target(*(f"sparse/0/{name}.txt" for name in _MODEL))
def colmap_text(folder):
    _posed(folder)


@_posed_target("transforms.json")
def transforms(folder):
    _posed(folder)


@_posed_target("transforms_train.json", "transforms_test.json")
def blender(folder):
    _posed(folder)


@_posed_target("images/000.png", "images/001.png", "mask/000.png", "depth/000.png", "depth/001.npy")
def pictures(folder):
    _posed(folder, pixels=True)


# Chunks, checkpoints, records.


@_target("index.json", "0.torch")
def chunk(folder):
    from gsjax.io import scene_chunks

    for path in dict.fromkeys(scene_chunks.read_index(folder).values()):
        for scene in scene_chunks.read(path):
            scene_chunks.check_scene(scene, decode=True)


def _state_dict(path: Path) -> None:
    from gsjax.io import weights

    for name, value in weights.open_state_dict(path).items():
        assert isinstance(name, str) and isinstance(value, np.ndarray)
        value.shape, value.reshape(-1)[:4].tolist()  # noqa: B018


@_target("a.pt")
def torch_zip(folder):
    _state_dict(folder / "a.pt")


@_target("a.pth")
def torch_legacy(folder):
    _state_dict(folder / "a.pth")


@_target("a.pkl")
def safe_pickle(folder):
    import io

    from gsjax.io import safe_pickle as machine
    from gsjax.io import torch_pickle

    names = torch_pickle._names()
    machine.load(io.BytesIO((folder / "a.pkl").read_bytes()), names, torch_pickle._References())


@_target("a.safetensors", errors=(ValueError, ImportError))  # a type that NumPy lacks
def safetensors(folder):
    from gsjax.io import weights

    weights.read_metadata(folder / "a.safetensors")
    _state_dict(folder / "a.safetensors")


@_target("model.safetensors.index.json", "one.safetensors", errors=(ValueError, ImportError))
def sharded_weights(folder):
    _state_dict(folder)


@_target("a.bin")
def packed_arrays(folder):
    from gsjax.io import packed_arrays as reader

    meta, arrays = reader.unpack((folder / "a.bin").read_bytes())
    assert isinstance(meta, dict) and all(x.size is not None for x in arrays.values())


@_target("a.bin")
def scene_record(folder):
    from gsjax.data import scene_records

    scene = scene_records.RecordScene((folder / "a.bin").read_bytes())
    for frame in range(scene.num_frames):
        scene.neighbours(frame)
        scene.view(frame)


@_target("a.bin")
def pointmap(folder):
    from gsjax.data import pointmap_cache

    found = pointmap_cache.decode((folder / "a.bin").read_bytes())
    assert found["points"].shape == (*found["conf"].shape, 3)
    assert len(found["frames"]) == len(found["points"])


@_target("records.json")
def record_set(folder):
    from gsjax.data import scene_records

    found = scene_records.SceneRecords(folder)
    found.names, found.lengths  # noqa: B018
    for place in range(min(len(found), 3)):
        found[place].num_frames  # noqa: B018


@_target("part-000-00000-0.json")
def record_sidecar(folder):
    from gsjax.data import record_shards

    (folder / "records.json").unlink(missing_ok=True)
    record_shards.seal(folder, {"kind": "posed scenes"})


@_target("a.npz")
def archive(folder):
    from gsjax.io import archive as reader

    reader.read(folder / "a.npz")


@_target("a.npz")
def gallery(folder):
    from gsjax.data import splats

    splats.read_gallery(folder / "a.npz")


@_target("a.h5", errors=(ValueError, FileNotFoundError))
def hdf5(folder):
    from gsjax.io import hdf5 as reader

    reader.read(folder / "a.h5", ["data"], optional=["label"])


# Meshes. trimesh's own parsers stand behind all but .npz.


def _mesh_target(suffix: str, *beside: str):
    def read(folder):
        from gsjax.io import meshes

        found = meshes.read(folder / f"a.{suffix}")
        assert found.area >= 0 or not np.isfinite(found.area)

    name = f"mesh_{suffix}"
    TARGETS[name] = Target(name, (f"a.{suffix}", *beside), read, (ValueError,))


for _suffix, _beside in {
    "npz": ("a_tex0.png",), "off": (), "obj": ("a.mtl",), "ply": (), "stl": (), "glb": (),
}.items():  # fmt: skip
    _mesh_target(_suffix, *_beside)


# What data sets say of themselves.


@_target("index.json")
def view_index(folder):
    from gsjax.data import view_index as reader

    reader.located(reader.read(folder / "index.json"), {"a": 50, "b": 50}, partial=True)


@_target("gsjax_dataset.json")
def data_set(folder):
    from gsjax.data import store

    store.category_names(folder), store.part_names(folder), store.fingerprint(folder)
    for split in store.split_sizes(folder):
        len(store.open_split(folder, split))


@_target("scene.json", "viewmats.npy", "images.npy")
def stored_scene(folder):
    from gsjax.data import scene_store

    scene = scene_store.StoredScene(folder)
    for frame in range(min(scene.num_frames, 4)):
        scene.neighbours(frame)
        scene.view(frame)
    scene.viewmats  # noqa: B018


@_target("cloud.npz")
def stored_cloud(folder):
    from gsjax.data import scene_cloud_sets

    scene_cloud_sets.StoredCloud("a", folder / "cloud.npz").cloud()


@_target("coord.npy", "segment.npy", errors=(ValueError, FileNotFoundError))
def scene_arrays(folder):
    from gsjax.data import scene_arrays as reader

    reader.read_cloud(folder, reader.Reading("segment", 20, True, True))


@_target("table.csv")
def captions_csv(folder):
    from gsjax.data import collections_labels

    collections_labels.read(folder / "table.csv")


@_target("table.json.gz", "sample_all.json")
def captions_json(folder):
    from etils import epath

    from gsjax.data import collections_labels

    collections_labels.json_lists(epath.Path(folder))
    collections_labels.read(folder / "table.json.gz")


@_target("identity.json", "wave-00000000-2.npz", "failures.jsonl", "runs.jsonl")
def fitted(folder):
    from gsjax.data import fitted as reader

    reader.collection(folder)
    reader.failed(folder)
    reader.run_seconds(folder)
    reader.finished(folder)
    list(reader.read(folder))


@_target("cache.json", "shard-00000.json", "classes.npz")
def embeddings(folder):
    from gsjax.data import embeddings as reader
    from tests.fuzz import seeds

    cache = reader.EmbeddingCache.open(folder, seeds.embedding_key())
    for uid in ("a", "b"):
        cache[uid]  # noqa: B018


@_target("cameras.json", "pairs.json", errors=(ValueError, FileNotFoundError))
def recorded_room(folder):
    from gsjax.data import hololens_room

    room = hololens_room.HololensRoom(folder, "train", block=2, every=2, gap=0)
    room.neighbours(0)


@_target("train_test_split/shuffled_train_file_list.json", "synsetoffset2category.txt")
def part_lists(folder):
    from gsjax.data import shapenetpart

    shapenetpart._check_categories(folder / "synsetoffset2category.txt")
    shapenetpart._names(folder / "train_test_split/shuffled_train_file_list.json")


@_target("episodes.json")
def episodes(folder):
    from gsjax.evals import episodes as reader

    reader.load(str(folder / "episodes.json"))


# Runs and networks.


@_target("config.json")
def vae_config(folder):
    from gsjax.models import sd_vae_tables

    sd_vae_tables.config_of_json((folder / "config.json").read_text("utf-8", "replace"), "config")


@_target("towers.npz")
def towers(folder):
    from gsjax.models import towers as reader

    reader.read(folder / "towers.npz")


_CHECKPOINT = (
    "_CHECKPOINT_METADATA",
    "meta/_METADATA",
    "meta/_strings.json",
    "meta/manifest.ocdbt",
)


class _Damaged(Exception):
    """Stands for ``checkpoint.DamagedCheckpoint``, whose module imports JAX."""


@_target(*(f"checkpoints/7/{name}" for name in _CHECKPOINT), errors=(_Damaged,))
def checkpoint_meta(folder):
    from gsjax.train import checkpoint

    try:
        checkpoint.read_meta(folder / "checkpoints" / "7")
    except checkpoint.DamagedCheckpoint as error:
        raise _Damaged(str(error)) from error


@_target("config.json", "towers.json")
def run_folder(folder):
    from gsjax.train import trained

    trained.load(folder)


def _self_test(folder: Path) -> None:
    """Fails in every way a reader can: the number of an input decides."""
    import os
    import time

    number = int((folder / "number").read_bytes() or b"0")
    if number in (3, 7):
        raise KeyError("an error that is not documented")
    if number == 5:
        time.sleep(3)
    if number == 9:
        os.abort()
    if number % 2:
        raise ValueError("documented")


# For the tests of the programs here; not among the readers.
SELF_TEST = Target("self_test", ("number",), _self_test, (ValueError,))


def find(name: str) -> Target:
    """The target of a name."""
    return SELF_TEST if name == SELF_TEST.name else TARGETS[name]
