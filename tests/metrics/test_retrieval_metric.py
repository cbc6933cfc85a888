"""metrics.retrieval: ranks, ties, duplicates, blocks."""

import numpy as np
import pytest

from gsjax.metrics import retrieval


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_ranks_match_a_sorted_similarity_matrix_in_any_block_size():
    rng = np.random.default_rng(0)
    queries, gallery = _unit(rng.normal(size=(13, 4))), _unit(rng.normal(size=(13, 4)))
    sim = queries @ gallery.T
    expected = 1 + np.sum(sim > np.diag(sim)[:, None], 1)
    for block in (4, 13, 64):
        found = retrieval.ranks(queries, gallery, block=block)
        np.testing.assert_array_equal(found.optimistic, expected)
        np.testing.assert_array_equal(found.pessimistic, expected)


def test_constant_embeddings_score_chance_only_when_counted_optimistically():
    ones = _unit(np.ones((10, 4)))
    found = retrieval.ranks(ones, ones, block=4)
    np.testing.assert_array_equal(found.optimistic, 1)
    np.testing.assert_array_equal(found.pessimistic, 10)
    assert retrieval.Recall.from_ranks(found.pessimistic).compute() == {
        "R@1": 0.0,
        "R@5": 0.0,
        "R@10": 100.0,
    }


def test_equal_ids_count_as_correct():
    gallery = np.eye(4, dtype=np.float32)
    queries = _unit(np.asarray([[0.5, 0.9, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.5], [0, 0, 0.9, 0.5]]))
    np.testing.assert_array_equal(retrieval.ranks(queries, gallery).optimistic, [2, 1, 1, 2])
    ids = np.asarray([9, 9, 4_000_000_000, 4_000_000_000], np.uint32)  # hashes: large values
    found = retrieval.ranks(queries, gallery, ids, ids)
    np.testing.assert_array_equal(found.optimistic, [1, 1, 1, 1])


def test_four_directions_and_merge():
    rng = np.random.default_rng(1)
    text, image, shape = (_unit(rng.normal(size=(6, 3))) for _ in range(3))
    found = retrieval.cross_modal(
        {"text": text, "image": image, "gaussian": shape}, anchor="gaussian"
    )
    assert set(found) == {"text->gaussian", "gaussian->text", "image->gaussian", "gaussian->image"}
    sim = text @ shape.T
    np.testing.assert_array_equal(
        found["gaussian->text"].optimistic, 1 + np.sum(sim.T > np.diag(sim)[:, None], 1)
    )
    whole = found["text->gaussian"].optimistic
    merged = retrieval.Recall.from_ranks(whole[:2]) + retrieval.Recall.from_ranks(whole[2:])
    assert merged.compute() == retrieval.Recall.from_ranks(whole).compute()


def test_errors_name_what_was_found():
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3, 5\)"):
        retrieval.ranks(np.ones((3, 4)), np.ones((3, 5)))
    with pytest.raises(ValueError, match="no gallery item has id 7"):
        retrieval.ranks(np.ones((1, 2)), np.ones((1, 2)), np.asarray([7]), np.asarray([1]))


def test_values_that_are_not_finite_are_refused():
    x = np.eye(3, dtype=np.float32)
    bad = np.where(x == 1, np.nan, x)[:2]
    with pytest.raises(ValueError, match="queries: 2 of 2 rows hold NaN"):
        retrieval.ranks(bad, x)
    with pytest.raises(ValueError, match="gallery: 2 of 2 rows"):
        retrieval.ranks(x[:2], bad)
