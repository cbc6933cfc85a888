import numpy as np
import pytest

from gsjax.models import tokenize

SMALL = tokenize.HashTokenizer(buckets=1000, max_words=3, max_grams=4)


def test_ids_are_fixed_for_all_time():
    # Weight files depend on these numbers: if this test fails, shipped weights mean nothing.
    expected = [[802, 72, 346, 787, 467], [415, 711, 967, 895, 337], [520, 925, 868, 0, 0]]
    assert SMALL("Red CUBE, 3d stairs").tolist() == expected


def test_words_fold_case_accents_and_signs():
    assert tokenize.words("A low-poly 3D Café_table!") == [
        "a",
        "low",
        "poly",
        "3d",
        "cafe",
        "table",
    ]
    assert tokenize.words("Größe 桌子") == ["große", "桌子"]
    assert tokenize.words(" -- ") == []


def test_ngrams_mark_the_ends_of_a_word():
    assert tokenize.ngrams("lamp") == ["<la", "lam", "amp", "mp>", "<lam", "lamp", "amp>"]
    assert tokenize.ngrams("a") == []  # '<a>' is the word itself


def test_related_words_share_ids_and_equal_captions_agree():
    tokenizer = tokenize.HashTokenizer()
    lantern, lanterns = tokenizer("lantern")[0], tokenizer("lanterns")[0]
    assert len(set(lantern) & set(lanterns) - {0}) >= 5
    np.testing.assert_array_equal(tokenizer("Red  cube"), tokenizer("red cube"))


def test_shapes_padding_and_truncation():
    ids = SMALL(["one two three four", ""])
    assert ids.shape == (2, 3, 5) and ids.dtype == np.int32
    assert (ids[0] > 0).all() and ids[0].max() < 1000
    assert not ids[1].any()


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="buckets >= 2"):
        tokenize.HashTokenizer(buckets=1)
