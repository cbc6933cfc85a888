import dataclasses
import functools
import types
import weakref

import jax
import numpy as np
import pytest

from gsjax.data import embed, embeddings, features, prepare, store, templates
from gsjax.models import towers, toy_towers
from gsjax.systems.clip_gs import data as clip_gs_data

CONFIG = toy_towers.TowerConfig(
    dim=8,
    image_size=32,
    image_widths=(8, 8, 8, 8),
    text_width=4,
    text_heads=1,
    text_depth=0,
    buckets=64,
    max_words=4,
    max_grams=3,
)
SPLITS = {"train": 70, "test": 3}  # more than one shard of 64


def _record(split, i):
    rng = np.random.default_rng([len(split), i])
    views = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(2)]
    return dict(
        uid=f"{split}/{i}",
        captions=["a cube", f"thing {i}"][: 1 + i % 2],
        views=[features.encode_png(view) for view in views],
        pixels=views,
    )


@pytest.fixture()
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "_SHARD_BYTES", 1)  # the smallest shards: 64 records
    monkeypatch.setattr(store, "split_sizes", lambda folder: SPLITS)
    monkeypatch.setattr(store, "fingerprint", lambda folder: "f" * 64)
    monkeypatch.setattr(store, "category_names", lambda folder: ["cube", "night stand"])
    monkeypatch.setattr(
        store,
        "open_split",
        lambda folder, split, fields: [_record(split, i) for i in range(SPLITS[split])],
    )
    return tmp_path / "set"


@functools.cache
def _params():
    model = toy_towers.ToyTowers(CONFIG)
    tokens = CONFIG.tokenizer(["a"])
    pixels = np.zeros((1, 32, 32, 3), np.float32)
    return jax.jit(model.init)(jax.random.key(0), pixels, tokens)["params"]


@pytest.fixture()
def data_config(tmp_path):
    path = tmp_path / "towers.npz"
    towers.save(path, "toy_clip", dataclasses.asdict(CONFIG), _params())
    return dict(name="procedural", towers=str(path))


def _config(**fields):
    return types.SimpleNamespace(**fields, get=lambda name, default="": fields.get(name, default))


def test_ensure_embeds_every_record_once_and_keeps_it(dataset, data_config, monkeypatch):
    config = _config(**data_config)
    cache = embed.open_cache(dataset, config)
    assert len(cache) == 73 and cache.num_views == 2 and cache.dim == 8
    pair = towers.load(config.towers)
    encode_images, encode_texts = jax.jit(pair.encode_images), jax.jit(pair.encode_texts)
    for split, i in (("train", 0), ("train", 69), ("test", 1)):
        record, found = _record(split, i), cache[f"{split}/{i}"]
        images = np.asarray(encode_images(np.stack(record["pixels"])))
        captions = [*record["captions"], ""][:2]
        texts = np.asarray(encode_texts(pair.tokenize(captions)))[: len(record["captions"])]
        np.testing.assert_allclose(found["image_embed"], images, atol=1e-3)
        np.testing.assert_allclose(found["text_embed"], texts, atol=1e-3)
        np.testing.assert_allclose(found["score"], (images @ texts.T).mean(1), atol=2e-3)
        hashes = [embeddings.caption_hash(c) for c in record["captions"]]
        assert found["caption_hash"].tolist() == hashes
    assert set(cache.class_embeds) == set(templates.TEMPLATES)
    norms = np.linalg.norm(cache.class_embeds["short"].astype(np.float32), axis=-1)
    np.testing.assert_allclose(norms, 1.0, atol=2e-3)
    monkeypatch.setattr(embed, "make", lambda *args: pytest.fail("made twice"))
    assert embed.ensure(dataset, config) == cache.folder


def test_an_interrupted_run_is_finished_not_repeated(dataset, data_config, monkeypatch):
    config = _config(**data_config)
    read = embed._read

    def fail_late(pair, records, i):
        if records[i]["uid"] == "train/69":
            raise KeyboardInterrupt
        return read(pair, records, i)

    monkeypatch.setattr(embed, "_read", fail_late)
    with pytest.raises(KeyboardInterrupt):
        embed.ensure(dataset, config)
    seen = []
    monkeypatch.setattr(
        embed, "_read", lambda pair, records, i: seen.append(i) or read(pair, records, i)
    )
    assert len(embed.open_cache(dataset, config)) == 73
    assert len(seen) == 73 - 64


def test_shards_share_the_work_and_the_last_one_completes_it(dataset, data_config):
    config = _config(**data_config)
    pair = embed.resolve_towers(config)
    key, folder = embed.cache_key(dataset, pair), dataset.parent / "shared"
    assert not embed.make(dataset, pair, folder, shard=1, num_shards=2)
    assert not embeddings.is_complete(folder)
    assert embed.make(dataset, pair, folder, shard=0, num_shards=2)
    shared = embeddings.EmbeddingCache.open(folder, key)
    alone = embed.open_cache(dataset, config)
    for uid in ("train/3", "train/68", "test/2"):
        np.testing.assert_array_equal(shared[uid]["image_embed"], alone[uid]["image_embed"])
        np.testing.assert_array_equal(shared[uid]["score"], alone[uid]["score"])
    with pytest.raises(ValueError, match="found 2 of 2"):
        embed.make(dataset, pair, folder, shard=2, num_shards=2)


def test_another_data_set_is_another_cache(dataset, data_config, monkeypatch):
    config = _config(**data_config)
    first = embed.ensure(dataset, config)
    monkeypatch.setattr(store, "fingerprint", lambda folder: "e" * 64)
    key = embed.cache_key(dataset, embed.resolve_towers(config))
    with pytest.raises(ValueError, match="differ in dataset"):
        embeddings.EmbeddingCache.open(first, key)
    assert embed.ensure(dataset, config) != first


def test_a_data_set_without_shipped_towers_says_how_to_train_them():
    with pytest.raises(
        ValueError, match="--config toy_clip:data=martian .*DIR/pictures/towers.npz"
    ):
        embed.resolve_towers(_config(name="martian"))


def test_sixty_four_different_templates():
    sentences = templates.TEMPLATES["modelnet40_64"]
    assert len(sentences) == len(set(sentences)) == 64
    assert "a photo of the one {}." not in sentences and "itap of my {}." in sentences


def test_pictures_are_held_a_few_batches_at_a_time(dataset, data_config, monkeypatch):
    pair = embed.resolve_towers(_config(**data_config))
    key, alive, most = embed.cache_key(dataset, pair), weakref.WeakSet(), []

    class Picture(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def prepared(picture):
        found = pair.prepare_image(picture).view(Picture)
        alive.add(found)
        most.append(len(alive))
        return found

    embed.make(dataset, pair, dataset.parent / "whole")
    monkeypatch.setattr(embed, "_BATCH", 8)
    counting = dataclasses.replace(pair, prepare_image=prepared)
    embed.make(dataset, counting, dataset.parent / "parts")
    assert len(most) == 2 * 73 and max(most) <= 2 * 8 + 2 * 8  # a shard has 128
    whole, parts = (
        embeddings.EmbeddingCache.open(dataset.parent / name, key) for name in ("whole", "parts")
    )
    for uid in ("train/0", "train/40", "train/69", "test/2"):
        np.testing.assert_allclose(
            whole[uid]["image_embed"], parts[uid]["image_embed"], atol=1e-3
        )  # float16; batches of other sizes
        np.testing.assert_array_equal(whole[uid]["caption_hash"], parts[uid]["caption_hash"])


def test_towers_are_loaded_once(dataset, data_config, monkeypatch):
    loaded, load = [], towers.load
    monkeypatch.setattr(towers, "load", lambda *args: loaded.append(args) or load(*args))
    config = _config(**data_config)
    embed.open_cache(dataset, config)
    embed.open_cache(dataset, config)  # finished
    assert len(loaded) == 2
    embed.open_cache(dataset, config, load(config.towers))
    assert len(loaded) == 2


def test_a_set_without_categories_is_refused_before_the_work(dataset, data_config, monkeypatch):
    pair = embed.resolve_towers(_config(**data_config))
    monkeypatch.setattr(store, "category_names", lambda folder: [])
    monkeypatch.setattr(embed, "_read", lambda *args: pytest.fail("a record was read"))
    with pytest.raises(ValueError, match="the data set has no categories"):
        embed.make(dataset, pair, dataset.parent / "none")
    with pytest.raises(ValueError, match="the data set has no categories"):
        embed.class_table([], ("{}",), embed._Encoder(pair))


def test_views_that_differ_in_number_are_refused(dataset, data_config, monkeypatch):
    pair, read = embed.resolve_towers(_config(**data_config)), embed._read

    def fewer(towers, records, position):
        record = read(towers, records, position)
        short = record["uid"] == "train/5"
        return dict(record, pictures=record["pictures"][: 1 if short else None])

    monkeypatch.setattr(embed, "_read", fewer)
    with pytest.raises(ValueError, match="'train/5' has 1 pictures and 2 captions; expected 2"):
        embed.make(dataset, pair, dataset.parent / "uneven")


def test_without_towers_no_data_set_is_prepared(monkeypatch):
    monkeypatch.setattr(prepare, "ensure", lambda *args: pytest.fail("prepared in vain"))
    config = types.SimpleNamespace(data=_config(name="modelnet10"))
    monkeypatch.setattr(prepare, "NAMES", ("modelnet10",))
    with pytest.raises(
        ValueError, match="no toy_clip towers are shipped for data set 'modelnet10'"
    ):
        clip_gs_data._stored(config)
