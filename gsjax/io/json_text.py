"""JSON of files that others may have written: whatever is wrong with it is one kind of error.

Python's parser raises RecursionError, not ValueError, for a few thousand brackets in one another, and says
nothing of where a text came from. What a file must hold is the business of its reader. No JAX.
"""

import json
from collections.abc import Mapping

from etils import epath

_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


def parse(text: str | bytes, source: str, kind: type | None = None):
    """The value of a text.

    Args:
        text: JSON; bytes are UTF-8 (or UTF-16, UTF-32 by their first bytes), with or without a mark.
        source: what it is, for messages.
        kind: dict or list where the value must be one.

    Raises:
        ValueError: no JSON, brackets nested beyond what Python's stack holds, or a value of another kind.
    """
    try:
        if isinstance(text, str):
            text = text.removeprefix("\ufeff")
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # bytes that are no Unicode among the first
        what = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{source}: not readable JSON ({what}); get or make it again") from None
    if kind is not None and not isinstance(found, kind):
        raise ValueError(f"{source}: expected {_KINDS[kind]}, found a {type(found).__name__}")
    return found


def read(path: epath.PathLike, kind: type | None = None):
    """The value of a file; see :func:`parse`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as :func:`parse`, or a folder in its place.
    """
    try:
        data = epath.Path(path).read_bytes()
    except (IsADirectoryError, PermissionError) as error:
        raise ValueError(f"{path}: not readable ({error})") from None
    return parse(data, str(path), kind)


def member(value: Mapping, name: str, kind: type | tuple[type, ...], source: str):
    """``value[name]``, which must be of a type; a truth value is no number here.

    Raises:
        ValueError: ``value`` is no object, lacks the name, or holds another type under it.
    """
    found = value.get(name) if isinstance(value, Mapping) else None
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
        named = " or ".join(k.__name__ for k in kinds)
        raise ValueError(
            f"{source}: {name!r}: expected {named}, found {str(found)[:60]!r}; get or make it again"
        )
    return found
