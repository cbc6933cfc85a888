import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.data import features, pictures
from gsjax.models import tokenize
from gsjax.systems.toy_clip import data


def _square(side=16):
    pixels = np.ones((side, side, 3), np.float32)
    pixels[4:12, 4:12] = -0.5
    return jnp.asarray(pixels)


def _augment(key, pixels, **options):
    options = dict(zoom=0.0, shift=0.0, gain=0.0, tint=0.0, grey=0.0, flip=0.0) | options
    augment = functools.partial(data.augment_picture, **options)
    return np.asarray(jax.jit(augment)(jax.random.key(key), pixels))


def test_no_augmentation_leaves_the_picture():
    np.testing.assert_allclose(_augment(0, _square()), _square(), atol=1e-6)


def test_shifts_bring_in_white_and_stay_in_range():
    moved = _augment(1, _square(), shift=0.4, zoom=0.2, gain=0.3, tint=0.1)
    assert moved.max() <= 1.0 and moved.min() >= -1.0
    assert (moved[0] == 1.0).all() or (moved[-1] == 1.0).all()  # a border row that came in
    assert not np.allclose(moved, _square(), atol=0.1)


def test_gain_keeps_white_white():
    shaded = _augment(2, _square(), gain=0.5)
    np.testing.assert_allclose(shaded[0, 0], 1.0)
    assert abs(shaded[8, 8, 0] + 0.5) > 1e-3


def test_grey_keeps_the_ink_and_drops_the_colour():
    pixels = _square().at[4:12, 4:12, 0].set(0.7)
    found = _augment(3, pixels, grey=1.0)
    np.testing.assert_allclose(found[8, 8], -0.1, atol=1e-6)
    np.testing.assert_allclose(found[0, 0], 1.0)


def test_mirrored_pictures_keep_their_rows():
    pixels = _square().at[4:12, 4:6].set(0.5)
    np.testing.assert_allclose(_augment(4, pixels, flip=1.0), pixels[:, ::-1], atol=1e-6)


def _forget(tokens, **options):
    options = dict(drop_word=0.0, drop_identity=0.0) | options
    forget = jax.jit(jax.vmap(functools.partial(data.augment_tokens, **options), (0, None)))
    return np.asarray(forget(jax.random.split(jax.random.key(0), 50), jnp.asarray(tokens)))


def test_words_are_forgotten_and_the_others_move_up():
    tokens = tokenize.HashTokenizer(1000, 6, 3)("a b tall red mug")
    rows = [row.tolist() for row in tokens[:5]]
    for found in _forget(tokens, drop_word=0.5):
        kept = [row.tolist() for row in found if row.any()]
        assert kept and found[: len(kept)].any(axis=1).all()  # never empty, no gaps
        assert [row for row in rows if row in kept] == kept  # in their order
    assert (_forget(tokens, drop_word=1.0) == tokens).all()


def test_words_may_be_known_by_their_ngrams_alone():
    tokens = tokenize.HashTokenizer(1000, 6, 3)("a b tall red mug")
    for found in _forget(tokens, drop_identity=1.0):
        assert (found[:, 1:] == tokens[:, 1:]).all()
        assert (found[:2, 0] == tokens[:2, 0]).all() and not found[2:, 0].any()


def _records(count=3, views=4):
    for i in range(count):
        pixels = np.full((8, 8, 3), 10 * i, np.uint8)
        pixels = [pixels + v for v in range(views)]
        yield dict(
            index=i + 100,
            uid=f"o{i}",
            category=i,
            captions=[f"first {i}", f"second {i}"],
            views=[features.encode_png(p) for p in pixels],
        )


def test_examples_take_the_first_view_and_caption_in_evaluation():
    source = pictures.DecodedRecords(list(_records()), lambda picture: picture)
    tokenizer = tokenize.HashTokenizer(100, 4, 3)
    fixed = pictures.picture_examples(
        source, tokenize=tokenizer, seed=0, train=False, with_text=True
    )
    example = fixed[1]
    assert example["caption"] == "first 1" and example["index"] == 101
    assert (example["view"] == 10).all() and example["view"].dtype == np.uint8
    np.testing.assert_array_equal(example["tokens"], tokenizer("first 1"))
    train = pictures.picture_examples(source, tokenize=tokenizer, seed=0, train=True)
    drawn = train.repeat(20)
    assert {int(drawn[3 * k]["view"][0, 0, 0]) for k in range(20)} == {0, 1, 2, 3}
    assert "caption" not in drawn[0]


def test_decoded_pictures_are_kept_within_the_bound():
    records, calls = list(_records()), []
    files = sum(len(data) for data in records[0]["views"])
    source = pictures.DecodedRecords(
        records, lambda p: calls.append(1) or p, memory=files + 4 * 8 * 8 * 3
    )
    for _ in range(2):
        for i in range(3):
            assert source[i]["views"][np.arange(4)].shape == (4, 8, 8, 3)
    assert len(calls) == 4 + 2 * 8  # one record is kept, two are decoded again


def test_only_pictures_that_are_shown_are_decoded():
    calls = []
    source = pictures.DecodedRecords(list(_records()), lambda p: calls.append(1) or p, memory=0)
    views = source[1]["views"]
    assert len(views) == 4 and not calls
    np.testing.assert_array_equal(views[2], np.full((8, 8, 3), 12, np.uint8))
    assert views[:2].shape == (2, 8, 8, 3) and (views[[3, 0]][:, 0, 0, 0] == [13, 10]).all()
    assert len(calls) == 5
    with pytest.raises(IndexError):
        views[4]


def test_kept_pictures_are_not_pickled():
    source = pictures.DecodedRecords(list(_records()), np.asarray)
    assert (source[0]["views"][0] == 0).all()
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 3 and (again[2]["views"][1] == 21).all()


def test_records_without_pictures_are_refused():
    record = {**next(_records()), "views": []}
    with pytest.raises(ValueError, match="0 pictures and 2 captions"):
        pictures.DecodedRecords([record], lambda p: p)[0]
