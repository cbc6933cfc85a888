"""The set 'fitted' packed in parallel: one Beam element a wave file, ArrayRecord shards as a result.

    python -m gsjax.data.pack_beam --source=FOLDER --num_gaussians=1024 --num_shards=64 \\
        --direct_running_mode=multi_processing --direct_num_workers=16

Does what ``prepare.ensure`` does for the set, into the same folder and with the same records in the same
order, so training finds it; but nothing ever holds more than a wave and a shard. Flags that are not
the set's go to Beam: with ``--runner=FlinkRunner`` and the like, workers need the folder of waves and the
cache on a file system that all of them share. The default runner is this machine, with all records in
memory between reading and writing; a larger set wants another runner or the serial way. Needs apache-beam (extra ``beam``), not
TensorFlow. Renders views with JAX in the workers; never used while a set is read.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from gsjax import runtime
from gsjax.data import build, fitted, prepare, store

# Beam's name DirectRunner would first try to download another runner, Prism, and run on this one if that
# fails.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one element makes: some objects of a wave file.

    Attributes:
        path: of the wave file.
        places: of the objects in the file.
        positions: of their records in the split.
        start: ``index`` of the split's first record.
    """

    path: str
    places: tuple[int, ...]
    positions: tuple[int, ...]
    start: int


@dataclasses.dataclass(frozen=True)
class Packing:
    """Makes the records of a piece; plain values only, as it travels to the workers."""

    categories: tuple[str, ...]
    num_stored: int
    fps_length: int
    views: int
    view_size: int

    def __call__(self, piece: Piece) -> Iterator[tuple[int, dict]]:
        """(position in the split, record) of every object of the piece."""
        runtime.configure_environment()  # of a worker, before JAX starts there
        items = read_places(piece.path, piece.places)
        plan = build.Plan(
            name="fitted", identity={}, categories=self.categories, parts=("",),
            splits={"": len(items)}, views=self.views, view_size=self.view_size,
            objects=lambda unused: fitted.objects(
                items, self.categories, num_stored=self.num_stored, fps_length=self.fps_length
            ),
        )  # fmt: skip
        records = build._with_views(plan, "")
        for position, record in zip(piece.positions, records, strict=True):
            yield position, {"index": piece.start + position, **record}


def read_places(path, places: Sequence[int]) -> list[fitted.Fitted]:
    """Objects at ``places`` of one wave file."""
    arrays, items = fitted.read_wave(path)
    result = []
    for place in places:
        rows, item = slice(*arrays["offsets"][place : place + 2]), items[place]
        gaussians = {name: arrays[name][rows].astype(np.float32) for name in fitted.FIELDS}
        result.append(fitted.Fitted(item["number"], item["about"], gaussians, item["scores"]))
    return result


def pieces(folder) -> tuple[dict[str, list[Piece]], dict[str, int], list[str]]:
    """Elements, sizes and categories of a folder of waves, from the lists of objects in its files.

    Records are numbered as ``fitted.sides`` has them: by object number within 'train' and 'test', an
    object that lies in two files once.

    Returns:
        {split: pieces}, {split: number of objects}, category names.

    Raises:
        ValueError: no object, or none to train on.
    """
    found: dict[int, tuple[str, int, dict]] = {}
    for path in sorted(pathlib.Path(folder).glob("wave-*.npz")):
        for place, item in enumerate(fitted.about(path)):
            found.setdefault(item["number"], (os.fspath(path), place, item["about"]))
    sides: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for number in sorted(found):
        path, place, about = found[number]
        sides["test" if about["split"] == "test" else "train"].append((path, place))
    if not sides["train"]:
        raise ValueError(
            f"data.source: {os.fspath(folder)} holds no fitted object of the training side; make "
            "them with `gsjax fit-objects`"
        )
    result, start = {}, 0
    for side, entries in sides.items():
        by_path = collections.defaultdict(list)
        for position, (path, place) in enumerate(entries):
            by_path[path].append((place, position))
        if entries:
            result[side] = [
                Piece(path, *map(tuple, zip(*rows, strict=True)), start)
                for path, rows in by_path.items()
            ]
        start += len(entries)
    sizes = {side: len(entries) for side, entries in sides.items() if entries}
    return result, sizes, sorted({about["category"] for _, _, about in found.values()})


# Not registered: run as a script, this file is imported a second time.
class PackedObjects(build.GaussianObjects, skip_registration=True):
    """The builder with a Beam transform a split instead of a generator."""

    name = build.GaussianObjects.name  # of the files

    def __init__(self, plan: build.Plan, elements, packing: Packing, *, data_dir: str):
        self._elements, self._packing = elements, packing
        super().__init__(plan, data_dir=data_dir)

    def _split_generators(self, dl_manager):
        beam = _beam()
        return {
            split: beam.Create(chosen) | beam.Reshuffle() | beam.FlatMap(self._packing)
            for split, chosen in self._elements.items()
        }

    def hash_written(self, folder) -> str:
        """The digest that the serial writer gives: over all records in order, read back."""
        for split in self._plan.splits:
            records = store.open_split(folder, split, store.ALL_FIELDS)
            for position in range(len(records)):
                self._hash(records[position])
        return self.content.hexdigest()


def pack(data_config, *, beam_args: Sequence[str] = (), num_shards: int = 0) -> epath.Path:
    """The folder of the set 'fitted' that a config describes, made by Beam if it is not there.

    Args:
        data_config: as for ``prepare.ensure``, name 'fitted'.
        beam_args: of Beam's pipeline: ['--runner=...', ...]; without a runner it is this machine.
        num_shards: ArrayRecord files a split; 0 lets TFDS choose by size.

    Returns:
        The folder, the one that ``prepare.ensure`` returns for the config.

    Raises:
        ValueError: another set, no objects, or a cache in an object store.
        ImportError: apache-beam is not installed.
    """
    beam = _beam()
    s = prepare.settings({**dict(data_config), "name": "fitted"})
    if not s["source"]:
        raise ValueError("data.source: name the folder of `gsjax fit-objects` whose waves to pack")
    elements, sizes, categories = pieces(s["source"])
    stored = int(s["stored_gaussians"]) or 2 * int(s["num_gaussians"])
    identity = {
        "set": "fitted", "views": int(s["views"]), "view_size": int(s["view_size"]),
        "ordered": int(s["num_gaussians"]), "render_version": prepare.RENDER_VERSION,
        "source": fitted.digest(s["source"]), "gaussians": stored, "version": fitted.VERSION,
    }  # fmt: skip
    folder = prepare.dataset_dir(s, identity)
    if store.is_complete(folder):
        return folder
    if store.is_remote(folder):
        raise ValueError(
            f"data.dir: {os.fspath(folder)} is an object store, to which ArrayRecord does not write; "
            "name a folder on a file system that the workers share, and copy the set from there"
        )
    plan = build.Plan(
        name="fitted", identity=identity, categories=categories, parts=("",), splits=sizes,
        objects=lambda split: iter(()), views=int(s["views"]), view_size=int(s["view_size"]),
    )  # fmt: skip
    packing = Packing(
        tuple(categories), stored, int(s["num_gaussians"]), plan.views, plan.view_size
    )
    local = (
        [] if any(a.startswith("--runner") for a in beam_args) else [f"--runner={_LOCAL_RUNNER}"]
    )
    options = beam.options.pipeline_options.PipelineOptions([*local, *beam_args])
    config = tfds.download.DownloadConfig(num_shards=num_shards or None, beam_options=options)
    _write(plan, elements, packing, config, folder)
    return folder


def _write(plan, elements, packing, config, folder) -> None:
    """Writes the set beside ``folder`` and moves it there when it is whole."""
    started, target = time.time(), pathlib.Path(os.fspath(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".making-{target.name}-"))
    try:
        builder = PackedObjects(plan, elements, packing, data_dir=os.fspath(scratch / "tfds"))
        with contextlib.redirect_stdout(io.StringIO()), build._no_tfds_progress():
            builder.download_and_prepare(download_config=config)
        made = pathlib.Path(os.fspath(builder.data_path))
        written = {name: info.num_examples for name, info in builder.info.splits.items()}
        if written != dict(plan.splits):
            raise RuntimeError(f"{plan.name}: {written} records written, {plan.splits} expected")
        meta = {
            "format": store.FORMAT, "name": plan.name, "identity": dict(plan.identity),
            "categories": list(plan.categories), "parts": list(plan.parts),
            "splits": dict(plan.splits),
        }  # fmt: skip
        path = made / store.META_FILE
        path.write_text(json.dumps(meta))
        meta["content"] = builder.hash_written(made)
        meta["seconds"] = round(time.time() - started, 1)
        path.write_text(json.dumps(meta, indent=1))
        store.move_into_place(made, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    logging.info("packed %s in %.0f s", plan.name, time.time() - started)


def _beam():
    try:
        import apache_beam
    except ImportError as error:
        raise ImportError("packing by Beam needs apache-beam: pip install 'gsjax[beam]'") from error
    return apache_beam


def main() -> None:
    """Command line: packs a folder of waves and prints the set's folder."""
    from gsjax.data import pack_beam  # workers find its classes by this name, not by __main__

    runtime.configure_environment()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("source", "dir", "num_gaussians", "stored_gaussians", "views", "view_size")
    for name in names:
        default = prepare.DEFAULTS[name]
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--num_shards", type=int, default=0)
    args, beam_args = parser.parse_known_args()
    config = {name: getattr(args, name) for name in names}
    made = pack_beam.pack(config, beam_args=beam_args, num_shards=args.num_shards)
    meta = store.read_meta(made)
    print(f"{made}: {meta['splits']} objects, packed in {meta['seconds']} s")


if __name__ == "__main__":
    main()
