import dataclasses

import grain
import numpy as np
import pytest

from gsjax.data import embedding_writer, embeddings

KEY = embeddings.CacheKey("toy", "w" * 64, "64 px, sRGB", "d" * 64)
VIEWS, DIM = 3, 8


def _records(count=5):
    rng = np.random.default_rng(0)
    return [
        dict(
            uid=f"set/object_{i}",
            image_embed=rng.normal(size=(VIEWS, DIM)),
            text_embed=rng.normal(size=(1 + i % 3, DIM)),
            score=rng.normal(size=VIEWS),
            caption_hash=np.arange(1 + i % 3, dtype=np.uint32) + 10 * i,
        )
        for i in range(count)
    ]


def _writer(folder, key=KEY, count=5):
    return embedding_writer.CacheWriter(
        folder, key, num_records=count, num_views=VIEWS, dim=DIM, shard_records=2
    )


def _write(folder, records, key=KEY):
    writer = _writer(folder, key, len(records))
    for shard, lo, hi in writer.pending():
        writer.write_shard(shard, records[lo:hi])
    writer.finish(["chair", "table"], {"plain": np.ones((2, DIM))}, {"note": "test"})


def test_cache_returns_what_was_written(tmp_path):
    records = _records()
    _write(tmp_path / "cache", records)
    cache = embeddings.EmbeddingCache.open(tmp_path / "cache", KEY)
    assert len(cache) == 5 and cache.dim == DIM and cache.num_views == VIEWS
    for record in records:
        found = cache[record["uid"]]
        for name in ("image_embed", "text_embed", "score"):
            np.testing.assert_array_equal(found[name], record[name].astype(np.float16))
        np.testing.assert_array_equal(found["caption_hash"], record["caption_hash"])
    assert cache.class_names == ("chair", "table")
    np.testing.assert_array_equal(cache.class_embeds["plain"], np.ones((2, DIM)))


@pytest.mark.parametrize("part", ["tower", "weights", "preprocessing", "dataset"])
def test_a_cache_of_another_key_is_refused_naming_both(tmp_path, part):
    _write(tmp_path, _records())
    other = dataclasses.replace(KEY, **{part: "different"})
    with pytest.raises(ValueError, match=f"differ in {part}") as error:
        embeddings.EmbeddingCache.open(tmp_path, other)
    assert KEY.digest[:16] in str(error.value) and other.digest[:16] in str(error.value)


def test_an_unfinished_cache_is_refused_and_resumed(tmp_path):
    records = _records()
    writer = _writer(tmp_path)
    writer.write_shard(0, records[:2])
    with pytest.raises(ValueError, match="no finished cache"):
        embeddings.EmbeddingCache.open(tmp_path, KEY)
    with pytest.raises(ValueError, match=r"shards \[1, 2\] are not written"):
        writer.finish([], {})
    assert _writer(tmp_path).pending() == [(1, 2, 4), (2, 4, 5)]
    changed = dataclasses.replace(KEY, weights="v")
    assert len(_writer(tmp_path, changed).pending()) == 3  # another tower's shards do not count


def test_truncated_and_flipped_bytes_are_found(tmp_path):
    _write(tmp_path, _records())
    path = tmp_path / "shard-00001.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="damaged.*bytes found"):
        embeddings.EmbeddingCache.open(tmp_path, KEY)
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(ValueError, match="checksum differs"):
        embeddings.EmbeddingCache.open(tmp_path, KEY)
    path.write_bytes(whole)
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        embeddings.EmbeddingCache.open(tmp_path, KEY)


def test_bad_records_are_refused(tmp_path):
    records = _records(2)
    records[0]["score"] = np.full(VIEWS, np.nan)
    with pytest.raises(ValueError, match="score of record 'set/object_0' is not finite"):
        _writer(tmp_path, count=2).write_shard(0, records)
    records[0]["score"] = np.zeros(VIEWS + 1)
    with pytest.raises(ValueError, match=r"has shape \(4,\), expected \(3,\)"):
        _writer(tmp_path, count=2).write_shard(0, records)


def test_equal_uids_are_refused(tmp_path):
    records = _records()
    records[1]["uid"] = records[0]["uid"]
    _write(tmp_path, records)
    with pytest.raises(ValueError, match="uids of a data set must differ"):
        embeddings.EmbeddingCache.open(tmp_path, KEY)


def _examples(uids):
    return grain.MapDataset.source([dict(index=np.int32(i), uid=uid) for i, uid in enumerate(uids)])


def test_join_follows_uids_in_whatever_order_examples_come(tmp_path):
    records = _records()
    _write(tmp_path, records)
    cache = embeddings.EmbeddingCache.open(tmp_path, KEY)
    order = [3, 0, 4, 1, 2]
    joined = embeddings.join(_examples([records[i]["uid"] for i in order]), cache, caption="first")
    for i, example in zip(order, joined):
        assert "uid" not in example and example["text_embed"].dtype == np.float32
        assert example["caption_hash"] == 10 * i
        np.testing.assert_array_equal(
            example["image_embed"], records[i]["image_embed"].astype(np.float16)
        )


def test_join_draws_a_caption_an_epoch_and_repeats_with_its_seed(tmp_path):
    records = _records()
    _write(tmp_path, records)
    cache = embeddings.EmbeddingCache.open(tmp_path, KEY)
    examples = _examples([records[2]["uid"]] * 30)
    first = [int(e["caption_hash"]) for e in embeddings.join(examples, cache, seed=1)]
    again = [int(e["caption_hash"]) for e in embeddings.join(examples, cache, seed=1)]
    assert first == again and set(first) == {20, 21, 22}


def test_join_refuses_unknown_and_unnamed_records(tmp_path):
    _write(tmp_path, _records())
    cache = embeddings.EmbeddingCache.open(tmp_path, KEY)
    with pytest.raises(ValueError, match="no record 'stranger'"):
        list(embeddings.join(_examples(["stranger"]), cache))
    with pytest.raises(ValueError, match="carry no 'uid'"):
        list(embeddings.join(grain.MapDataset.source([dict(index=np.int32(1))]), cache))


def test_caption_hash_folds_case_and_spacing_and_is_fixed():
    assert embeddings.caption_hash("A  red cube ") == embeddings.caption_hash("a red cube")
    assert embeddings.caption_hash("a red cube") == 733707480
