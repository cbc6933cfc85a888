"""Features of frozen networks over a whole data set, computed once and kept beside it.

A projection on top of networks that never change sees nothing of them but their outputs: 1,280
numbers a picture and 384 a caption. They fit in memory, so that training it takes seconds. The
networks are those of ``models.semantic_towers``.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging
from etils import epath

from gsjax.data import features as features_lib
from gsjax.data import store, templates
from gsjax.io import npz, weights
from gsjax.models import semantic_towers

FORMAT = 1
_PICTURES, _TEXTS = 32, 128  # a device call
_FIELDS = ("uid", "captions", "views")


@dataclasses.dataclass(frozen=True)
class Features:
    """Outputs of the frozen networks.

    Attributes:
        images: {split: float16 [N, V, 1280]}, in the order of the records.
        sentences: every different caption, and every template around every category name.
        texts: float16 [T, 384], one row a sentence.
    """

    images: dict[str, np.ndarray]
    sentences: tuple[str, ...]
    texts: np.ndarray

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Sentence -> row of ``texts``."""
        return {sentence: row for row, sentence in enumerate(self.sentences)}


def folder_of(dataset_dir) -> epath.Path:
    """Where features of a data set are kept: beside it."""
    dataset_dir = epath.Path(dataset_dir)
    return dataset_dir.parent / f"{dataset_dir.name}-features"


def ensure(dataset_dir, config: semantic_towers.SemanticConfig) -> Features:
    """Reads the features of a prepared set; computes and keeps them first if they are not there.

    About 20 ms a picture on one x86 core.

    Raises:
        ValueError: the packages with the networks are absent (see ``models.packaged``), or records
            have no pictures or different numbers of them.
    """
    identity = dict(
        format=FORMAT,
        dataset=store.fingerprint(dataset_dir),
        networks=semantic_towers.checksums(),
        image_size=config.image_size,
        max_length=config.max_length,
        templates=templates.TEMPLATES,
    )
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = folder_of(dataset_dir) / f"semantic-{digest[:16]}.npz"
    if not path.exists():
        found = compute(dataset_dir, semantic_towers.load_bases(config, weights.read_state_dict))
        _write(path, found)
    return _read(path)


def compute(dataset_dir, bases: semantic_towers.Bases) -> Features:
    """Runs the networks over every picture and every different text of a data set."""
    splits = sorted(store.split_sizes(dataset_dir))
    records = {s: store.open_split(dataset_dir, s, fields=_FIELDS) for s in splits}
    sentences = {
        sentence.format(name)
        for name in store.category_names(dataset_dir)
        for sentences in templates.TEMPLATES.values()
        for sentence in sentences
    }
    images = {}
    for split in splits:
        images[split] = _images(records[split], bases, split)
        sentences |= {text for record in records[split] for text in record["captions"]}
    ordered = tuple(sorted(sentences))
    return Features(images, ordered, _texts(ordered, bases))


def _images(records: store.Records, bases: semantic_towers.Bases, split: str) -> np.ndarray:
    """Features float16 [N, V, 1280] of a split."""
    views = len(records[0]["views"])
    started, batch, found = time.monotonic(), [], []

    def flush():
        short = _PICTURES - len(batch)
        full = np.stack(batch + batch[-1:] * short)
        found.append(np.asarray(bases.image_features(full), np.float16)[: len(batch)])
        batch.clear()

    for number, pictures in enumerate(_pictures(records, bases)):
        if len(pictures) != views or not views:
            raise ValueError(
                f"features: record {number} of {split!r} has {len(pictures)} pictures, expected "
                f"{max(views, 1)}; prepare the set with views > 0"
            )
        for picture in pictures:
            batch.append(picture)
            if len(batch) == _PICTURES:
                flush()
        if number % 100 == 99:
            logging.info("%s: features of %d of %d objects", split, number + 1, len(records))
    if batch:
        flush()
    seconds = time.monotonic() - started
    logging.info("%s: %d pictures in %.0f s", split, len(records) * views, seconds)
    return np.concatenate(found).reshape(len(records), views, -1)


def _pictures(records: store.Records, bases: semantic_towers.Bases) -> Iterator[list[np.ndarray]]:
    """Prepared pictures of each record, decoded a few records ahead."""

    def read(number: int) -> list[np.ndarray]:
        views = records[number]["views"]
        return [bases.prepare_image(features_lib.decode_png(view)) for view in views]

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = []
        for number in range(len(records)):
            waiting.append(pool.submit(read, number))
            if len(waiting) > 8:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _texts(sentences: Sequence[str], bases: semantic_towers.Bases) -> np.ndarray:
    """Features float16 [T, 384]; the shortest sentences go together, which saves padding."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    result = None
    for start in range(0, len(order), _TEXTS):
        rows = order[start : start + _TEXTS]
        chosen = [sentences[i] for i in rows] + [""] * (_TEXTS - len(rows))
        found = np.asarray(bases.text_features(bases.tokenize(chosen)), np.float16)[: len(rows)]
        result = np.zeros((len(order), found.shape[1]), np.float16) if result is None else result
        result[rows] = found
    return result


def _write(path: epath.Path, found: Features) -> None:
    """One file, moved into place when it is whole."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(found.sentences).encode(), np.uint8)
    arrays = {f"images/{split}": value for split, value in found.images.items()}
    np.savez(buffer, sentences=text, texts=found.texts, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f".{path.name}.{os.getpid()}.tmp"
    scratch.write_bytes(buffer.getvalue())
    scratch.replace(path)


def _read(path: epath.Path) -> Features:
    arrays = npz.read(path)
    return Features(
        images={k.removeprefix("images/"): v for k, v in arrays.items() if k.startswith("images/")},
        sentences=tuple(json.loads(arrays["sentences"].tobytes())),
        texts=arrays["texts"],
    )
