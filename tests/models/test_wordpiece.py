import numpy as np
import pytest

from gsjax.models import packaged, wordpiece

VOCABULARY = {
    piece: i
    for i, piece in enumerate(
        [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "a",
            "chair",
            "##s",
            "arm",
            "##chair",
            "-",
            "cafe",
            "東",
        ]
    )
}


def test_words_are_folded_and_cut_at_punctuation():
    assert wordpiece.words("Café\t3D-Chair!\x00\u200b") == ["cafe", "3d", "-", "chair", "!"]
    assert wordpiece.words("an東京") == ["an", "東", "京"]
    assert wordpiece.words("ΟΔΟΣ") == ["οδοσ"]  # no final sigma
    assert wordpiece.words(" \n ") == []


def test_longest_piece_goes_first():
    tokenizer = wordpiece.WordPiece(VOCABULARY)
    assert tokenizer.pieces("armchairs") == ["arm", "##chair", "##s"]
    assert tokenizer.pieces("armrest") == ["[UNK]"]
    assert tokenizer.pieces("a" * 101) == ["[UNK]"]


def test_ids_are_framed_padded_and_cut():
    tokenizer = wordpiece.WordPiece(VOCABULARY, max_length=6)
    ids = tokenizer(["a chair", "", "a a a a a a a"])
    np.testing.assert_array_equal(ids, [[2, 4, 5, 3, 0, 0], [2, 3, 0, 0, 0, 0], [2, 4, 4, 4, 4, 3]])
    assert ids.dtype == np.int32
    assert wordpiece.WordPiece(VOCABULARY)(["a chair"]).shape == (1, 8)  # a multiple of 8
    assert tokenizer([]).shape == (0, 6)


def test_foreign_vocabularies_are_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"absent: \['\[PAD\]', '\[UNK\]'.*vocab.txt"):
        wordpiece.WordPiece.from_file(path)
    with pytest.raises(ValueError, match="max_length: expected at least 3, found 2"):
        wordpiece.WordPiece(VOCABULARY, max_length=2)


def _texts() -> list[str]:
    """Captions, and characters from all over Unicode with neighbours."""
    rng = np.random.default_rng(0)
    codes = [int(c) for c in rng.integers(32, 0x2FFFF, 3000) if not 0xD800 <= c < 0xE000]
    mixed = [chr(codes[i]) + "aé" + chr(codes[i + 1]) + " Chair's" for i in range(0, 2000, 2)]
    plain = [
        "a low-poly 3D model of a chair",
        "It's 3D: 12 chairs!",
        "İSTANBUL straße ﬁve",
        "",
        "…a–b",
    ]
    return plain + [chr(c) for c in range(32, 0x3000)] + mixed


def test_ids_equal_those_of_the_package_tokenizers():
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is absent")
    if packaged.folder(packaged.MINILM) is None:
        pytest.skip(f"the word pieces are absent; run `{packaged.INSTALL}`")
    theirs = tokenizers.Tokenizer.from_file(str(packaged.vocabulary().parent / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_truncation(64)
    ours = wordpiece.WordPiece.from_file(packaged.vocabulary(), 64)
    texts = _texts()
    wrong = [
        text
        for text, found in zip(texts, theirs.encode_batch(texts))
        if found.ids != ours.encode(text)
    ]
    # The package's table of Unicode is older: marks added since are unknown words there.
    assert len(wrong) <= 0.01 * len(texts), [ascii(text) for text in wrong[:20]]
    assert not [text for text in wrong if all(ord(char) < 0x500 for char in text)]
