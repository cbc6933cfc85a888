"""CLIP's tokenizer: byte-level byte-pair encoding of cleaned, lower-cased text.

Vocabulary, 49,408 entries: the 256 bytes as printable characters, the same 256 at the end of a word
(``</w>``), 48,894 merges by rank, start and end of text. The merges are those of OpenAI CLIP (MIT,
notice in ``gsjax/assets/README.md``); the scheme is Sennrich et al.'s (arXiv 1508.07909) over bytes as
in GPT-2.

Needs the packages ``regex`` (classes of letters and numerals) and ``ftfy`` (repair of mis-decoded
text), extra ``clip``: without them ids would differ silently, so there is no plainer way.
"""

import collections
import dataclasses
import functools
import gzip
import html
import importlib.resources
from collections.abc import Sequence

import numpy as np
from absl import logging

MERGES_FILE = "clip_bpe_merges.txt.gz"
NUM_MERGES = 48_894
VOCABULARY = 49_408
START, END, PAD = 49_406, 49_407, 0
CONTEXT = 77
ON_LONG = ("truncate", "error")

_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
_PATTERN = (
    "|".join(_SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)  # contractions, words, single numerals, other signs


def byte_symbols() -> dict[int, str]:
    """The printable character that stands for each byte, in the vocabulary's order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def read_merges(data: bytes) -> list[tuple[str, str]]:
    """Pairs by rank from the text of a merges file: a header line, then one pair a line.

    Raises:
        ValueError: fewer pairs than CLIP uses, or a line that is no pair.
    """
    lines = data.decode("utf-8").split("\n")[1 : 1 + NUM_MERGES]
    pairs = [tuple(line.split()) for line in lines]
    if len(pairs) != NUM_MERGES or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"bpe: expected {NUM_MERGES} pairs behind a header line, found "
            f"{sum(len(pair) == 2 for pair in pairs)}; is it CLIP's merges file?"
        )
    return pairs


def clean(text: str) -> str:
    """Text as CLIP reads it: repaired, HTML-unescaped twice, single spaces, lower case."""
    ftfy = _package("ftfy")
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _package(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"CLIP's tokenizer needs the package {name}: pip install 'gsjax[clip]'"
        ) from error


@dataclasses.dataclass(frozen=True)
class BpeTokenizer:
    """Turns captions into ids, as OpenCLIP does.

    Attributes:
        context: T, ids a caption, start and end included.
        on_long: 'truncate' cuts long captions, keeps the end token and logs how many were cut;
            'error' raises.
    """

    context: int = CONTEXT
    on_long: str = "truncate"

    def __post_init__(self):
        if self.on_long not in ON_LONG:
            raise ValueError(f"on_long: unknown {self.on_long!r}; known: {ON_LONG}")
        if self.context < 2:
            raise ValueError(f"context: needs room for start and end, found {self.context}")

    def __call__(self, captions: str | Sequence[str]) -> np.ndarray:
        """Ids int32 [T] of one caption, or [B, T] of several; 0 pads.

        Raises:
            ValueError: a caption too long, with ``on_long='error'``.
            ImportError: without ``ftfy`` or ``regex``.
        """
        if isinstance(captions, str):
            return self([captions])[0]
        ids = np.full((len(captions), self.context), PAD, np.int32)
        cut = 0
        for row, caption in zip(ids, captions, strict=True):
            tokens = [START, *encode(caption), END]
            if len(tokens) > self.context:
                if self.on_long == "error":
                    raise ValueError(
                        f"caption {caption[:60]!r}...: {len(tokens)} tokens with start and end, "
                        f"room for {self.context}; shorten it, or use on_long='truncate'"
                    )
                tokens = [*tokens[: self.context - 1], END]
                cut += 1
            row[: len(tokens)] = tokens
        if cut:
            logging.warning("%d of %d captions were cut to %d tokens", cut, len(ids), self.context)
        return ids


def encode(text: str) -> list[int]:
    """Ids of a text, without start and end."""
    vocabulary = _vocabulary()
    ids = []
    for word in vocabulary.pattern.findall(clean(text)):
        ids.extend(_word_ids(word))
    return ids


def decode(ids: Sequence[int]) -> str:
    """Text of ids up to the first end token, words parted by single spaces."""
    vocabulary = _vocabulary()
    ids = [int(i) for i in ids if i != START]
    ids = ids[: ids.index(END)] if END in ids else ids
    chars = "".join(vocabulary.symbols[i] for i in ids)
    text = chars.replace("</w>", " ")
    data = b"".join(b" " if c == " " else bytes([vocabulary.bytes_of[c]]) for c in text)
    return data.decode("utf-8", errors="replace").strip()


@dataclasses.dataclass(frozen=True)
class _Vocabulary:
    ids: dict[str, int]
    symbols: list[str]
    ranks: dict[tuple[str, str], int]
    byte_chars: dict[int, str]
    bytes_of: dict[str, int]
    pattern: object


@functools.cache
def _vocabulary() -> _Vocabulary:
    asset = importlib.resources.files("gsjax.assets") / MERGES_FILE
    merges = read_merges(gzip.decompress(asset.read_bytes()))
    byte_chars = byte_symbols()
    symbols = [*byte_chars.values(), *(c + "</w>" for c in byte_chars.values())]
    symbols += ["".join(pair) for pair in merges]
    symbols += list(_SPECIAL)
    regex = _package("regex")
    return _Vocabulary(
        ids={symbol: i for i, symbol in enumerate(symbols)},
        symbols=symbols,
        ranks={pair: rank for rank, pair in enumerate(merges)},
        byte_chars=byte_chars,
        bytes_of={char: byte for byte, char in byte_chars.items()},
        pattern=regex.compile(_PATTERN, regex.IGNORECASE),
    )


@functools.lru_cache(maxsize=1 << 16)
def _word_ids(word: str) -> tuple[int, ...]:
    """Ids of one piece of the split: the pair of lowest rank is merged, everywhere, until none is."""
    if word in _SPECIAL:
        return (_SPECIAL[word],)
    vocabulary = _vocabulary()
    parts = [vocabulary.byte_chars[byte] for byte in word.encode("utf-8")]
    parts[-1] += "</w>"
    while len(parts) > 1:
        ranked = [(vocabulary.ranks.get(pair), pair) for pair in zip(parts, parts[1:])]
        ranked = [entry for entry in ranked if entry[0] is not None]
        if not ranked:
            break
        parts = _merged(parts, min(ranked)[1])
    return tuple(vocabulary.ids[part] for part in parts)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Joins every occurrence of a pair, from the left."""
    result, queue = [], collections.deque(parts)
    while queue:
        part = queue.popleft()
        if queue and (part, queue[0]) == pair:
            part += queue.popleft()
        result.append(part)
    return result
