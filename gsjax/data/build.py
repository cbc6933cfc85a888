"""Makes prepared sets: renders the views and writes ArrayRecord through TFDS, without TensorFlow.

Called by ``prepare.ensure``. A set is made in a scratch folder and moved into place when it is
whole, so an interrupted run leaves nothing that could be taken for a data set. Imports JAX.
"""

import collections
import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from gsjax.data import features, render, store

_STALE_SECONDS = 86400.0
_CALLS_AHEAD = 4  # render calls waiting while records are written


@dataclass(frozen=True)
class Plan:
    """What a set is to hold.

    Attributes:
        name: of the set.
        identity: plain JSON values; two plans of equal identity make the same set.
        categories: names in label order.
        parts: names of the part labels, entry 0 for none.
        splits: {split: number of objects}, in the order of record numbers.
        objects: ``split -> iterator`` of dicts with ``uid``, ``name``, ``category`` (label),
            ``captions``, ``colored``, ``gaussians`` (what is stored) and, where more is to be
            seen than stored, ``picture`` (what is rendered).
        views, view_size: pictures of each object.
        alpha: whether pictures keep their transparency; else they are on white.
        spec: fields of a record; None = those of ``features.feature_spec``.
        records: with ``spec``, ``split -> iterator`` of whole records but for ``index``, in place of
            ``objects``: nothing is rendered here.
    """

    name: str
    identity: Mapping[str, Any]
    categories: Sequence[str]
    parts: Sequence[str]
    splits: Mapping[str, int]
    objects: Callable[[str], Iterator[dict]] | None = None
    views: int = 0
    view_size: int = 0
    alpha: bool = False
    spec: tfds.features.FeaturesDict | None = None
    records: Callable[[str], Iterator[dict]] | None = None


class GaussianObjects(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of any plan; records keep the order of the plan."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. TFDS would look for checksums beside this file, through a package that
    # recent etils no longer brings along (importlib_resources).
    url_infos = None

    def __init__(self, plan: Plan, *, data_dir: str):
        self._plan = plan
        self.content = hashlib.sha256()
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        # Not dataset_info_from_configs: it looks for a package folder of the builder's own.
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"gsjax set {self._plan.name}: {json.dumps(self._plan.identity)}",
            features=self._plan.spec or features.feature_spec(self._plan.categories),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        start = 0
        generators = {}
        for split, count in self._plan.splits.items():
            generators[split] = self._numbered(split, start, count)
            start += count
        return generators

    def _generate_examples(self):
        raise NotImplementedError("splits are made by _numbered")

    def _numbered(self, split: str, start: int, count: int):
        number = -1
        made = self._plan.records(split) if self._plan.records else _with_views(self._plan, split)
        progress = tqdm.tqdm(
            made,
            desc=f"preparing {self._plan.name}/{split}",
            total=count,
            unit=" objects",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
        )
        for number, record in enumerate(progress):
            record = {"index": start + number, **record}
            self._hash(record)
            yield number, record
        if number + 1 != count:
            raise ValueError(
                f"{self._plan.name}: split {split!r} gave {number + 1} objects, {count} expected"
            )

    def _hash(self, record: Mapping) -> None:
        """Adds a record to the digest of the set's content."""
        for name in sorted(record):
            value = record[name]
            for item in value if isinstance(value, list) else [value]:
                data = item if isinstance(item, bytes) else None
                data = item.tobytes() if isinstance(item, np.ndarray) else data
                self.content.update(data if data is not None else str(item).encode())


def _with_views(plan: Plan, split: str) -> Iterator[dict]:
    """Records of a split but for their number; rendering runs ahead of writing."""
    renderer = render.Renderer(plan.views, plan.view_size, plan.alpha)
    waiting: collections.deque = collections.deque()

    def finish():
        chunk, future = waiting.popleft()
        for thing, view in zip(chunk, future.result()):
            yield _record(thing, view)

    try:
        for chunk in _chunks(plan.objects(split), renderer.batch):
            pictures = [thing.get("picture", thing["gaussians"]) for thing in chunk]
            waiting.append((chunk, renderer.submit(pictures)))
            if len(waiting) > _CALLS_AHEAD:
                yield from finish()
        while waiting:
            yield from finish()
    finally:
        renderer.close()


def _chunks(things: Iterator[dict], size: int) -> Iterator[list[dict]]:
    chunk: list[dict] = []
    for thing in things:
        chunk.append(thing)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _record(thing: Mapping, view: render.View) -> dict:
    captions = [text for text in thing["captions"] if text.strip()]
    if not captions:
        raise ValueError(f"record {thing['uid']!r} has no caption; give it at least one")
    return {
        "uid": thing["uid"],
        "name": thing["name"],
        "category": int(thing["category"]),
        "captions": captions,
        "colored": bool(thing["colored"]),
        **features.encode_gaussians(thing["gaussians"], thing["uid"]),
        "views": view.png,
        "viewmats": view.viewmats,
        "Ks": view.Ks,
    }


def ensure(plan: Plan, folder) -> epath.Path:
    """Makes the set unless it is there; with several processes, only the first one works.

    Where processes do not share a file system, each of the others then makes its own copy. All
    processes must call this together.

    Returns:
        ``folder``.
    """
    folder = epath.Path(folder)
    if jax.process_index() == 0 and not store.is_complete(folder):
        make(plan, folder)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"gsjax data set {plan.name}")
        if not store.is_complete(folder):
            make(plan, folder)
    return folder


def make(plan: Plan, folder: epath.Path) -> None:
    """Writes the set and moves it to ``folder`` when it is whole."""
    started = time.time()
    remote = store.is_remote(folder)
    if not remote:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
    near = None if remote else os.fspath(folder.parent)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=near, prefix=f".making-{folder.name}-"))
    logging.info("preparing data set %s in %s", plan.name, folder)
    try:
        builder = GaussianObjects(plan, data_dir=os.fspath(scratch / "tfds"))
        # TFDS prints advice about the scratch folder; errors still come as exceptions.
        with contextlib.redirect_stdout(io.StringIO()), _no_tfds_progress():
            builder.download_and_prepare()
        made = pathlib.Path(os.fspath(builder.data_path))
        meta = {
            "format": store.FORMAT,
            "name": plan.name,
            "identity": dict(plan.identity),
            "categories": list(plan.categories),
            "parts": list(plan.parts),
            "splits": dict(plan.splits),
            "content": builder.content.hexdigest(),
            "seconds": round(time.time() - started, 1),
        }
        (made / store.META_FILE).write_text(json.dumps(meta, indent=1))
        if remote:
            _upload(made, folder)
        else:
            store.move_into_place(made, pathlib.Path(os.fspath(folder)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    logging.info("prepared %s in %.0f s", plan.name, time.time() - started)


def _remove_stale(folder: epath.Path) -> None:
    """Deletes scratch folders of this set that a killed process left a day or more ago."""
    for scratch in pathlib.Path(os.fspath(folder.parent)).glob(f".making-{folder.name}-*"):
        with contextlib.suppress(OSError):  # another process may be deleting it too
            if time.time() - scratch.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)


def _upload(made: pathlib.Path, folder: epath.Path) -> None:
    """Copies a finished set to an object store, its description last."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(p.name for p in made.iterdir() if p.name != store.META_FILE)
    for name in [*names, store.META_FILE]:
        with open(made / name, "rb") as reader, (folder / name).open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 24)


@contextlib.contextmanager
def _no_tfds_progress():
    """TFDS's own bars off: ours counts objects."""
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
