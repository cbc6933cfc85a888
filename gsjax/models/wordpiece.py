"""Word pieces of BERT (uncased): text to ids by a vocabulary file. No JAX, no package needed.

The steps are those of BERT's own tokenizer (arXiv 1810.04805; google-research/bert,
``tokenization.py``): clean, part CJK characters, fold case and accents, split at white space and
punctuation, then the longest known piece first. tests/models/test_wordpiece.py compares with the
package ``tokenizers``, which does the same in Rust; that one brings a client of a model hub along,
which 150 lines need not. Special tokens written out in the text ("[SEP]") are taken as text here.
"""

import dataclasses
import functools
import os
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

_LONGEST_WORD = 100  # characters; longer ones are unknown
# Blocks of CJK ideographs, as BERT lists them.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@functools.lru_cache(maxsize=1 << 14)
def _is_punctuation(char: str) -> bool:
    """Unicode's punctuation, and all of ASCII that is neither letter, digit, space nor control."""
    code = ord(char)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(char).startswith("P")


def _clean(char: str) -> str:
    """What remains of a character: itself, a space for white space, nothing for controls."""
    if char in "\t\n\r" or unicodedata.category(char) == "Zs" or char.isspace():
        return " "
    if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Co"):
        return ""
    if any(low <= ord(char) <= high for low, high in _IDEOGRAPHS):
        return f" {char} "
    return char


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks, accents folded.

    >>> words("Café, 3D!")
    ['cafe', ',', '3d', '!']
    """
    text = unicodedata.normalize("NFD", "".join(map(_clean, text)))
    folded = "".join(c for c in text if unicodedata.category(c) != "Mn")
    # Letter by letter: of a whole word, a final sigma would become another letter.
    lower = "".join(c.lower() for c in folded)
    spaced = "".join(f" {c} " if _is_punctuation(c) else c for c in lower)
    return spaced.split()


@dataclasses.dataclass(frozen=True)
class WordPiece:
    """Turns captions into ids.

    Attributes:
        vocabulary: piece -> id; pieces inside a word begin with ``##``. Holds ``[PAD]`` (id 0),
            ``[UNK]``, ``[CLS]`` and ``[SEP]``.
        max_length: ids of a caption at most, the two special ones included; what is beyond is cut.

    Raises:
        ValueError: a special piece is absent, or there is no room for one piece.
    """

    vocabulary: Mapping[str, int]
    max_length: int = 64

    def __post_init__(self):
        absent = [p for p in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if p not in self.vocabulary]
        if absent or self.vocabulary["[PAD]"] != 0:
            raise ValueError(
                f"WordPiece.vocabulary: needs [PAD] as its first entry, [UNK], [CLS] and [SEP]; "
                f"absent: {absent}; is the file BERT's vocab.txt?"
            )
        if self.max_length < 3:
            raise ValueError(f"WordPiece.max_length: expected at least 3, found {self.max_length}")

    @classmethod
    def from_file(cls, path, max_length: int = 64) -> "WordPiece":
        """Of a ``vocab.txt``: one piece a line, its id the number of the line."""
        with open(os.fspath(path), encoding="utf-8") as file:
            pieces = [line.rstrip("\n") for line in file]
        return cls({piece: i for i, piece in enumerate(pieces)}, max_length)

    def pieces(self, word: str) -> list[str]:
        """The longest known pieces of a word from its start on; ``[UNK]`` where none fits."""
        if len(word) > _LONGEST_WORD:
            return ["[UNK]"]
        found: list[str] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            for end in range(len(word), start, -1):
                if mark + word[start:end] in self.vocabulary:
                    break
            else:
                return ["[UNK]"]
            found.append(mark + word[start:end])
            start = end
        return found

    def encode(self, caption: str) -> list[int]:
        """Ids of one caption, ``[CLS]`` first and ``[SEP]`` last, without padding."""
        ids = [self.vocabulary[p] for word in words(caption) for p in self.pieces(word)]
        ids = ids[: self.max_length - 2]
        return [self.vocabulary["[CLS]"], *ids, self.vocabulary["[SEP]"]]

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Ids int32 [B, T] of captions, 0 after their end.

        T is the longest caption's length, raised to a multiple of 8 so that few shapes occur, and
        ``max_length`` at most.
        """
        rows = [self.encode(caption) for caption in captions]
        longest = max(map(len, rows), default=2)
        ids = np.zeros((len(rows), min(-(-longest // 8) * 8, self.max_length)), np.int32)
        for row, values in zip(ids, rows):
            row[: len(values)] = values
        return ids
