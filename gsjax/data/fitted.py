"""Fitted objects on disk: one file a wave, and the set of them as training records.

A wave file (``wave-<first number>-<objects>.npz``) is written under another name and renamed, so it is
whole or not there; the files are the manifest: whoever starts again reads which objects they hold
and goes on with the others. ``identity.json`` says how the objects were fitted; another way wants another
folder. Imports no JAX; fitting is ``systems/scene_fit/factory.py``.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gsjax.data import discs, features
from gsjax.io import json_text, npz

VERSION = 1
IDENTITY = "identity.json"
FAILURES = "failures.jsonl"
RUNS = "runs.jsonl"
_PATTERN = "wave-*.npz"
# Gaussians of a record and the types they are stored in.
FIELDS = {
    "means": np.float32, "quats": np.float16, "log_scales": np.float16,
    "logit_opacities": np.float16, "sh": np.float16,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fitted:
    """One object: what it is, its Gaussians, how well they fit.

    Attributes:
        number: of the object in its collection.
        about: uid, name, category, captions, colored, split; plain JSON values.
        gaussians: raw arrays of ``FIELDS``, M rows.
        scores: held-out figures, plain numbers.
    """

    number: int
    about: Mapping
    gaussians: Mapping[str, np.ndarray]
    scores: Mapping[str, float]


def check_identity(folder, identity: Mapping) -> None:
    """Writes ``identity.json``, or compares with the one that is there.

    Raises:
        ValueError: the folder holds objects that were fitted in another way.
    """
    path = pathlib.Path(folder) / IDENTITY
    wanted = json.loads(json.dumps(identity))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, json.dumps(wanted, indent=1).encode())
    found = json_text.read(path, dict)
    if found != wanted:
        keys = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        raise ValueError(
            f"{os.fspath(folder)} holds objects fitted with other settings (they differ in {keys}); "
            "choose another folder, or the settings of its identity.json"
        )


def collection(folder) -> str:
    """The collection whose objects a folder holds, as ``gsjax fit-objects`` named it.

    Raises:
        ValueError: not a folder of fitted objects.
    """
    path = pathlib.Path(folder) / IDENTITY
    if not path.exists():
        raise ValueError(
            f"data.source: {os.fspath(folder)} has no {IDENTITY}; name a folder of `gsjax fit-objects`"
        )
    return json_text.member(json_text.read(path, dict), "collection", str, str(path))


def write_wave(folder, objects: Sequence[Fitted]) -> pathlib.Path:
    """Writes the objects of one wave, all or nothing."""
    counts = [len(item.gaussians["means"]) for item in objects]
    arrays = {
        name: np.concatenate([np.asarray(item.gaussians[name], dtype) for item in objects])
        for name, dtype in FIELDS.items()
    }
    about = [
        {"number": o.number, "about": dict(o.about), "scores": dict(o.scores)} for o in objects
    ]
    arrays["offsets"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    arrays["objects"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path = pathlib.Path(folder) / f"wave-{objects[0].number:08d}-{len(objects)}.npz"
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".wave-", delete=False) as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return path


def _write_whole(path: pathlib.Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def read_wave(path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Arrays of ``FIELDS`` and ``offsets`` of one file of :func:`write_wave`, and what is said of its objects.

    Raises:
        ValueError: damaged, or parts that do not agree.
    """
    try:
        arrays = npz.read(path, (*FIELDS, "offsets", "objects"))
        items = _items(arrays.pop("objects"))
        offsets, rows = arrays["offsets"], {arrays[name].shape[:1] for name in FIELDS}
        fine = offsets.dtype.kind == "i" and offsets.shape == (len(items) + 1,)
        fine = fine and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
        if not fine or rows != {(int(offsets[-1]),)}:
            raise ValueError(f"offsets of shape {offsets.shape}, arrays of {rows} rows")
        if any(arrays[name].dtype.kind != "f" for name in FIELDS):
            raise ValueError("arrays that are not of floats")
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged ({error}); delete it and fit its objects again"
        ) from None
    return arrays, items


def _items(stored: np.ndarray) -> list[dict]:
    """What is said of the objects of a wave."""
    items = json_text.parse(stored.tobytes(), "objects", list)
    for item in items:
        for name, kind in dict(number=int, about=dict, scores=dict).items():
            json_text.member(item, name, kind, "objects")
    return items


def about(path: pathlib.Path) -> list[dict]:
    """``number``, ``about`` and ``scores`` of each object of one wave file; no other array is read.

    Raises:
        ValueError: damaged.
    """
    try:
        return _items(npz.read(path, ("objects",))["objects"])
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged ({error}); delete it and fit its objects again"
        ) from None


def finished(folder) -> set[int]:
    """Numbers of the objects that the folder holds."""
    paths = pathlib.Path(folder).glob(_PATTERN)
    return {item["number"] for path in paths for item in about(path)}


def failed(folder) -> dict[int, str]:
    """Number -> reason of objects that could not be fitted; a line cut short by a kill is left out."""
    path, result = pathlib.Path(folder) / FAILURES, {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            item = json_text.parse(line, FAILURES, dict)
            number = json_text.member(item, "number", int, FAILURES)
            result[number] = json_text.member(item, "reason", str, FAILURES)
        except ValueError:
            continue
    return result


def add_failure(folder, number: int, uid: str, reason: str) -> None:
    """Remembers an object that could not be fitted, so that it does not stop the others."""
    with open(pathlib.Path(folder) / FAILURES, "a") as file:
        file.write(json.dumps({"number": number, "uid": uid, "reason": reason}) + "\n")


def add_run(folder, about: Mapping) -> None:
    """Remembers what one run did here and how long it took: a line of ``runs.jsonl``."""
    with open(pathlib.Path(folder) / RUNS, "a") as file:
        file.write(json.dumps(dict(about)) + "\n")


def run_seconds(folder) -> float:
    """Seconds of all runs that finished or were stopped in time; killed ones leave no line."""
    path = pathlib.Path(folder) / RUNS
    lines = path.read_text().splitlines() if path.exists() else []
    runs = [json_text.parse(line, str(path), dict) for line in lines]
    return sum(json_text.member(run, "seconds", (int, float), str(path)) for run in runs)


def read(folder) -> Iterator[Fitted]:
    """All objects of a folder by number; one that lies in two files counts once.

    Raises:
        ValueError: the folder holds none.
    """
    places = {}
    for path in sorted(pathlib.Path(folder).glob(_PATTERN)):
        for place, item in enumerate(about(path)):
            places.setdefault(item["number"], (path, place))
    if not places:
        raise ValueError(
            f"data.source: {os.fspath(folder)} holds no fitted objects (no {_PATTERN}); make them with "
            "`gsjax fit-objects`"
        )
    opened, arrays, items = None, {}, []
    for number in sorted(places):
        path, place = places[number]
        if path != opened:
            arrays, items = read_wave(path)
            opened = path
        rows = slice(*arrays["offsets"][place : place + 2])
        gaussians = {name: arrays[name][rows].astype(np.float32) for name in FIELDS}
        yield Fitted(number, items[place]["about"], gaussians, items[place]["scores"])


def size_bytes(folder) -> int:
    """Bytes of all wave files of a folder."""
    return sum(path.stat().st_size for path in pathlib.Path(folder).glob(_PATTERN))


def digest(folder) -> str:
    """Identity of a folder's content: how objects were fitted, and which files hold them."""
    folder = pathlib.Path(folder)
    files = [f"{p.name} {p.stat().st_size}" for p in sorted(folder.glob(_PATTERN))]
    return f"{features.stable_seed((folder / IDENTITY).read_text(), *files):016x}"


def sides(folder) -> dict[str, list[Fitted]]:
    """'train' and 'test' objects, by the split that each names.

    Raises:
        ValueError: no object, or none to train on.
    """
    result: dict[str, list[Fitted]] = {"train": [], "test": []}
    for item in read(folder):
        result["test" if item.about["split"] == "test" else "train"].append(item)
    if not result["train"]:
        raise ValueError(f"data.source: {os.fspath(folder)} holds no object of the training side")
    return {side: items for side, items in result.items() if items}


def objects(
    items: Sequence[Fitted], categories: Sequence[str], *, num_stored: int, fps_length: int | None
) -> Iterator[dict]:
    """Objects as ``build`` takes them; at most ``num_stored`` Gaussians of each are stored.

    Pictures show all of them. The stored ones are a random subset, the first ``fps_length`` in
    farthest-point order.
    """
    for item in items:
        whole, about = item.gaussians, item.about
        rng = np.random.default_rng(features.stable_seed("fitted", about["uid"]))
        rows = rng.permutation(len(whole["means"]))[:num_stored]
        rows = rows[discs.farthest_point_order(whole["means"][rows], fps_length)]
        names = ("means", "quats", "log_scales", "logit_opacities")
        stored = {name: whole[name][rows] for name in names}
        length = np.linalg.norm(stored["quats"], axis=-1, keepdims=True)
        stored["quats"] = stored["quats"] / np.maximum(length, 1e-12)
        stored["sh0"] = whole["sh"][rows, 0]
        yield {
            "uid": about["uid"],
            "name": about["name"],
            "category": list(categories).index(about["category"]),
            "captions": list(about["captions"]),
            "colored": bool(about["colored"]),
            "gaussians": stored,
            "picture": dict(whole),
        }
