"""Captions from facts: a small grammar over noun, colour, shape words and details."""

import numpy as np

from gsjax.data.shapes.draft import Draft, article


def captions(draft: Draft, count: int, rng: np.random.Generator) -> list[str]:
    """``count`` different captions of one object; the first says all that is known.

    Args:
        draft: a finished object.
        count: K, at least 1. Objects with few facts may repeat a caption's content in other words.
        rng: chooses among the other forms.

    Raises:
        ValueError: ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1 caption, found {count}")
    colour, noun = draft.paint.name, draft.noun
    shape = " ".join(draft.adjectives[:2])
    known = [
        _phrase(draft.adjectives[:2], colour, noun, draft.details),
        _phrase([], colour, noun, draft.details[:1]),
        _phrase(draft.adjectives[:1], "", noun, draft.details),
        f"{noun}, {colour}" + "".join(f", {detail}" for detail in draft.details),
        f"a 3D model of {_phrase(draft.adjectives[:1], colour, noun, [])}",
        f"{article(noun)} that is {colour}" + (f" and {shape}" if shape else ""),
        f"this {noun} is {colour}" + (f", with {draft.details[-1]}" if draft.details else ""),
    ]
    first, rest = known[0], [text for text in dict.fromkeys(known[1:]) if text != known[0]]
    order = rng.permutation(len(rest))
    chosen = [first, *(rest[i] for i in order)]
    return [chosen[i % len(chosen)] for i in range(count)]


def _phrase(adjectives, colour: str, noun: str, details) -> str:
    """'a tall red mug with a blue handle and ...'."""
    head = article(" ".join([*adjectives, *([colour] if colour else []), noun]))
    if not details:
        return head
    return f"{head} with {' and '.join(details)}"
