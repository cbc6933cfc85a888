"""Makes embedding caches: runs frozen towers once over a data set's pictures and captions.

    python -m gsjax.data.embed --dataset_dir=DIR --towers=FILE [--out=DIR] [--shard=i --num_shards=n]

``ensure`` does the same from a config and is what systems call. The input pipeline never runs this
module: it reads the cache through ``gsjax.data.embeddings``.

Pictures stream from records through the image tower, two batches or so at a time: only embeddings are
kept for a file of the cache, however many pictures it stands for.
"""

import argparse
import collections
import concurrent.futures
import functools
import importlib.resources
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from gsjax.data import embedding_writer, embeddings, features, fitted, made_up, store, templates
from gsjax.io import weights
from gsjax.models import towers as towers_lib

_SHARD_BYTES = 1 << 26
_READERS = 8  # records that are read at once, at least
_BATCH = 256  # pictures or captions a device call; the last one is filled up


def resolve_towers(data_config) -> towers_lib.Towers:
    """The towers that ``data_config.towers`` names; see ``models.towers.load``.

    '' is the pair shipped for the data set, 'semantic' the one on networks that come as packages.

    Raises:
        ValueError: none is shipped for this data set, or the file cannot be used.
    """
    spec = data_config.get("towers", "")
    if spec and spec != towers_lib.SEMANTIC:
        return towers_lib.load(spec, weights.open_state_dict)
    assets = importlib.resources.files("gsjax.assets")
    name = data_config.name
    if name == made_up.NAME:
        return towers_lib.Towers(**made_up.tower_parts())
    if name == "fitted":  # the pair of the meshes that were fitted
        name = fitted.collection(data_config.source).split()[0]
    kind = spec or "toy_clip"
    asset = assets / f"{kind}_{name}.npz"
    if not asset.is_file():
        shipped = sorted(
            a.name.removeprefix(f"{kind}_").removesuffix(".npz")
            for a in assets.iterdir()
            if a.name.startswith(f"{kind}_") and a.name.endswith(".npz")
        )
        raise ValueError(
            f"data.towers: no {kind} towers are shipped for data set {name!r} (shipped: "
            f"{shipped}). Train a pair with `gsjax train --config toy_clip:data={name} --workdir DIR` "
            "and the same --config.data.source, if any; then pass "
            "--config.data.towers=DIR/pictures/towers.npz"
        )
    with importlib.resources.as_file(asset) as path:
        return towers_lib.load(path, weights.open_state_dict)


def cache_key(dataset_dir, towers: towers_lib.Towers) -> embeddings.CacheKey:
    """What a cache of these towers over this data set must be keyed with."""
    return embeddings.CacheKey(
        tower=towers.name,
        weights=towers.digest,
        preprocessing=towers.preprocessing,
        dataset=store.fingerprint(dataset_dir),
    )


def default_folder(dataset_dir, key: embeddings.CacheKey) -> epath.Path:
    """Where ``ensure`` keeps the cache: beside the data set, named by its key."""
    dataset_dir = epath.Path(dataset_dir)
    folder = dataset_dir.parent / f"{dataset_dir.name}-embeddings"
    return folder / f"{key.tower}-{key.digest[:16]}"


def ensure(dataset_dir, data_config, towers: towers_lib.Towers | None = None) -> epath.Path:
    """Makes the cache for a data set unless it is there, and returns its folder.

    Several processes share the work; where they do not share a file system, each makes its own.

    Args:
        dataset_dir: a prepared set (``prepare.ensure``).
        data_config: ``name`` and, optionally, ``towers``: '' (the pair shipped for the set), the
            path of an exported weight file, or ``KIND:PATH`` (see ``models.towers``).
        towers: those of ``data_config``, where they are loaded already (:func:`resolve_towers`).

    Raises:
        ValueError: no usable towers, or a data set that cannot be embedded.
    """
    towers = towers or resolve_towers(data_config)
    key = cache_key(dataset_dir, towers)
    folder = default_folder(dataset_dir, key)
    index, count = jax.process_index(), jax.process_count()
    if not embeddings.is_complete(folder):
        make(dataset_dir, towers, folder, shard=index, num_shards=count)
    if count > 1:
        multihost_utils.sync_global_devices("gsjax embedding cache")
        if not embeddings.is_complete(folder):  # the other processes have other disks
            make(dataset_dir, towers, folder)
    return folder


def open_cache(
    dataset_dir, data_config, towers: towers_lib.Towers | None = None
) -> embeddings.EmbeddingCache:
    """``ensure``, then the cache itself, its key checked against towers and data set.

    Args, Raises: as :func:`ensure`.
    """
    towers = towers or resolve_towers(data_config)
    folder = ensure(dataset_dir, data_config, towers)
    return embeddings.EmbeddingCache.open(folder, cache_key(dataset_dir, towers))


def make(
    dataset_dir, towers: towers_lib.Towers, folder, *, shard: int = 0, num_shards: int = 1
) -> bool:
    """Embeds every record of every split into ``folder``; goes on where an earlier call stopped.

    ``score`` of a view is its cosine with the captions' embeddings, averaged over the captions. All
    devices of this process work on each batch. Whoever finds all files written makes the cache whole.

    Args:
        dataset_dir: a prepared set.
        towers: the frozen pair.
        folder: of the cache; the same for all shards.
        shard, num_shards: this call writes every num_shards-th file of the cache.

    Returns:
        Whether the cache is complete.

    Raises:
        ValueError: not 0 <= shard < num_shards, a set without categories, a record without
            pictures, or views that differ in number.
    """
    if not 0 <= shard < num_shards:
        raise ValueError(f"shard: found {shard} of {num_shards}, expected 0 <= shard < num_shards")
    sizes = store.split_sizes(dataset_dir)
    fields = ("uid", "captions", "views")
    splits = [store.open_split(dataset_dir, split, fields=fields) for split in sorted(sizes)]
    places = [(records, i) for records in splits for i in range(len(records))]
    names = store.category_names(dataset_dir)
    _check_categories(names)  # before the long work
    num_views = len(splits[0][0]["views"])
    if not num_views:
        raise ValueError(
            f"embed: the records of {dataset_dir} hold no pictures; prepare the set with views > 0"
        )
    writer = embedding_writer.CacheWriter(
        folder,
        cache_key(dataset_dir, towers),
        num_records=len(places),
        num_views=num_views,
        dim=towers.dim,
        shard_records=max(64, min(4096, _SHARD_BYTES // (2 * num_views * towers.dim))),
    )
    encode = _Encoder(towers)
    started, done = time.monotonic(), 0
    logging.info("towers %s, licence of the weights: %s", towers.name, towers.licence)
    own = [file for file in writer.pending() if file[0] % num_shards == shard]
    for number, low, high in own:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            read = functools.partial(pool.submit, _read, towers)
            most = max(_READERS, math.ceil(encode.batch / num_views))
            records = _ahead(read, places[low:high], most)
            writer.write_shard(number, list(_embed(records, num_views, encode)))
        done += high - low
        seconds = time.monotonic() - started
        logging.info(
            "embedded %d records of %d, %d views each, %.0f views a second",
            done,
            len(places),
            num_views,
            done * num_views / seconds,
        )
    if writer.pending():
        logging.info("the other shards of %s are still to come", folder)
        return False
    tables = {
        name: class_table(names, sentences, encode)
        for name, sentences in templates.TEMPLATES.items()
    }
    provenance = dict(
        seconds=round(time.monotonic() - started, 1),
        records_of_this_run=done,
        backend=jax.default_backend(),
        devices=jax.local_device_count(),
        licence=towers.licence,
    )
    writer.finish(names, tables, provenance)
    logging.info("embedding cache %s is complete", folder)
    return True


def _read(towers: towers_lib.Towers, records: store.Records, position: int) -> dict:
    """One record with its pictures as tower inputs."""
    record = records[position]
    pictures = [towers.prepare_image(features.decode_png(data)) for data in record["views"]]
    return dict(uid=record["uid"], captions=list(record["captions"]), pictures=pictures)


def _ahead(submit: Callable, places: Iterable[tuple], most: int) -> Iterator[dict]:
    """Results of ``submit(*place)`` in order; at most ``most`` are under way or wait."""
    waiting: collections.deque = collections.deque()
    try:
        for place in places:
            if len(waiting) == most:
                yield waiting.popleft().result()
            waiting.append(submit(*place))
        while waiting:
            yield waiting.popleft().result()
    finally:  # after an error, those that have not begun need not
        for future in waiting:
            future.cancel()


def _embed(records: Iterable[dict], num_views: int, encode: "_Encoder") -> Iterator[dict]:
    """Embeds a shard's records in as few device calls as there are full batches.

    Records are taken one by one, and nothing of them is kept but names and captions.
    """
    texts_of: list[tuple[str, list[str]]] = []

    def pictures() -> Iterator[np.ndarray]:
        for record in records:
            found = record["pictures"]
            if len(found) != num_views or not record["captions"]:
                raise ValueError(
                    f"embed: record {record['uid']!r} has {len(found)} pictures and "
                    f"{len(record['captions'])} captions; expected {num_views} and at least 1"
                )
            texts_of.append((record["uid"], record["captions"]))
            yield from found

    images = encode.images(pictures())
    texts = encode.texts([caption for _, captions in texts_of for caption in captions])
    image_row = text_row = 0
    for uid, sentences in texts_of:
        views = images[image_row : image_row + num_views]
        captions = texts[text_row : text_row + len(sentences)]
        image_row, text_row = image_row + len(views), text_row + len(captions)
        yield dict(
            uid=uid,
            image_embed=views,
            text_embed=captions,
            score=(views @ captions.T).mean(axis=1),
            caption_hash=[embeddings.caption_hash(caption) for caption in sentences],
        )


def class_table(names: Sequence[str], sentences: Sequence[str], encode: "_Encoder") -> np.ndarray:
    """Class vectors [C, D]: the normalised mean of the embedded sentences of each class.

    Raises:
        ValueError: no classes.
    """
    _check_categories(names)
    texts = encode.texts([sentence.format(name) for name in names for sentence in sentences])
    table = texts.reshape(len(names), len(sentences), -1).mean(axis=1)
    return table / np.maximum(np.linalg.norm(table, axis=-1, keepdims=True), 1e-12)


def _check_categories(names: Sequence[str]) -> None:
    if not len(names):
        raise ValueError(
            "embed: the data set has no categories, so there are no class vectors to make; prepare "
            "it with the category of each object"
        )


class _Encoder:
    """The towers, compiled for one batch size."""

    def __init__(self, towers: towers_lib.Towers):
        self._tokenize = towers.tokenize
        self._images, self._texts = towers.encode_images, towers.encode_texts
        self.batch = towers.batch or _BATCH  # pictures a call

    def images(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [B, D] of prepared pictures, taken a batch at a time."""
        return _in_batches(self._images, pictures, self.batch)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [B, D] of captions; equal ones are embedded once."""
        different = sorted(set(captions))
        rows = {caption: row for row, caption in enumerate(different)}
        embedded = _in_batches(self._texts, self._tokenize(different))
        return embedded[[rows[caption] for caption in captions]]


def _in_batches(function: Callable, rows: Iterable[np.ndarray], size: int = _BATCH) -> np.ndarray:
    """Applies a compiled function to batches of one size; the last is filled with its last row.

    A batch is split over as many devices of this process as divide it.
    """
    devices = jax.local_devices()[: math.gcd(size, jax.local_device_count())]
    mesh = jax.sharding.Mesh(np.asarray(devices), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    rows, results = iter(rows), []
    while batch := list(itertools.islice(rows, size)):
        filled = np.stack(batch + batch[-1:] * (size - len(batch)))
        found = function(jax.device_put(filled, sharding))
        results.append(np.asarray(found, np.float32)[: len(batch)])
    return np.concatenate(results)


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description="Makes the embedding cache of a prepared data set."
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of a prepared set")
    parser.add_argument("--towers", required=True, help="exported weight file, or KIND:PATH")
    parser.add_argument("--out", default="", help="cache folder; default: beside the data set")
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--num_shards", type=int, default=1, help="calls that share the work")
    options = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    towers = towers_lib.load(options.towers, weights.open_state_dict)
    key = cache_key(options.dataset_dir, towers)
    folder = epath.Path(options.out or default_folder(options.dataset_dir, key))
    share = dict(shard=options.shard, num_shards=options.num_shards)
    if not embeddings.is_complete(folder) and not make(
        options.dataset_dir, towers, folder, **share
    ):
        print(f"{folder}: shard {options.shard} of {options.num_shards} is done")
        return
    cache = embeddings.EmbeddingCache.open(folder, key)
    print(f"{folder}: {len(cache)} records, {cache.num_views} views, D = {cache.dim}")


if __name__ == "__main__":
    main()
