"""Text to fixed-shape integers for the toy text tower: hashed words and character n-grams.

No vocabulary file: a word is known by the CRC-32 of its UTF-8 bytes, folded into a table of
``buckets`` rows, so ids are the same on every machine and Python version. Each word also brings its
character n-grams, so a word never seen in training still shares rows with its relatives
(Bojanowski et al., "Enriching Word Vectors with Subword Information", TACL 2017).

This is not the byte-pair tokenizer of CLIP.
"""

import dataclasses
import functools
import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"[^\W_]+")
_SIZES = (3, 4)  # n-gram lengths, shortest first


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, accents folded; underscores and signs separate."""
    folded = unicodedata.normalize("NFKD", text).lower()
    return _WORD.findall("".join(c for c in folded if not unicodedata.combining(c)))


def ngrams(word: str) -> list[str]:
    """Character n-grams of ``<word>``, shortest first, without the whole of it."""
    marked = f"<{word}>"
    return [
        marked[i : i + size]
        for size in _SIZES
        if size < len(marked)
        for i in range(len(marked) - size + 1)
    ]


@dataclasses.dataclass(frozen=True)
class HashTokenizer:
    """Turns captions into ids.

    Attributes:
        buckets: rows of the embedding table; id 0 is padding, so hashes fall on 1 .. buckets - 1.
        max_words: W; later words are dropped.
        max_grams: G; later n-grams of a word are dropped.
    """

    buckets: int = 3072
    max_words: int = 20
    max_grams: int = 14

    def __post_init__(self):
        if self.buckets < 2 or self.max_words < 1 or self.max_grams < 1:
            raise ValueError(
                "HashTokenizer: needs buckets >= 2, max_words >= 1, max_grams >= 1; found "
                f"{self.buckets}, {self.max_words}, {self.max_grams}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Shape [W, 1 + G] of one caption's ids."""
        return self.max_words, 1 + self.max_grams

    def __call__(self, captions: str | Sequence[str]) -> np.ndarray:
        """Ids of one caption, int32 [W, 1 + G], or of several, [B, W, 1 + G].

        Column 0 is the word, the others its n-grams; 0 pads both axes.
        """
        if isinstance(captions, str):
            return self._encode(captions)
        ids = np.zeros((len(captions), *self.shape), np.int32)
        for row, caption in enumerate(captions):
            ids[row] = self._encode(caption)
        return ids

    def _encode(self, caption: str) -> np.ndarray:
        ids = np.zeros(self.shape, np.int32)
        for row, word in enumerate(words(caption)[: self.max_words]):
            ids[row] = _word_ids(word, self.buckets, self.max_grams)
        return ids


@functools.lru_cache(maxsize=1 << 16)
def _word_ids(word: str, buckets: int, max_grams: int) -> np.ndarray:
    """Ids [1 + G] of one word; read-only, since the cache shares it."""
    ids = np.zeros(1 + max_grams, np.int32)
    pieces = [f"word:{word}", *ngrams(word)[:max_grams]]
    ids[: len(pieces)] = [1 + zlib.crc32(p.encode("utf-8")) % (buckets - 1) for p in pieces]
    ids.setflags(write=False)
    return ids
