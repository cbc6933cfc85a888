"""From another project's state dict to our parameters: a table of names and layouts.

A table is a plain list of `Entry`, made by a loop over layers in the module that owns the model; this
file applies it in either direction and reports everything that is wrong at once. Reading files is
``io.weights``.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array lies there and here: `forward` takes theirs to ours, `backward` ours to theirs."""

    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray], np.ndarray]


def _same(x):
    return x


def _transpose(x):
    return x.T


LAYOUTS = {
    "same": Layout(_same, _same),
    # torch Linear [out, in] -> Dense [in, out]
    "linear": Layout(_transpose, _transpose),
    # torch Conv1d of size 1 [out, in, 1] -> Dense [in, out]
    "conv1x1": Layout(lambda x: x[..., 0].T, lambda x: x.T[..., None]),
    # torch Conv1d [out, in, k] -> Conv [k, in, out]
    "conv1d": Layout(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0)),
    # torch Conv2d [out, in, kh, kw] -> Conv [kh, kw, in, out]
    "conv2d": Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    # torch ConvTranspose2d [in, out, kh, kw] -> [kh, kw, in, out]; nothing is turned round
    "conv2d_transpose": Layout(
        lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1)
    ),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter.

    Attributes:
        theirs: key of the state dict; several keys are joined along the first axis of their arrays.
        ours: path in our variables, 'a/b/kernel'.
        layout: of `LAYOUTS`.
    """

    theirs: str | tuple[str, ...]
    ours: str
    layout: str = "same"

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else tuple(self.theirs)


class View(Mapping):
    """A state dict under other names; nothing is read before it is asked for."""

    def __init__(self, inner: Mapping[str, np.ndarray], names: Mapping[str, str]):
        """``names``: new -> old."""
        self._inner, self._names = inner, dict(names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._inner[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name) -> bool:  # Mapping's own would read the array
        return name in self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, without data where the state dict can tell it."""
        old = self._names[name]
        tell = getattr(self._inner, "shape", lambda key: np.shape(self._inner[key]))
        return tuple(tell(old))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {name: self.shape(name) for name in self}


@dataclasses.dataclass(frozen=True)
class Converted:
    """Attributes:
    variables: nested dict of arrays, as a Flax module takes them.
    """

    variables: dict


def convert(
    state_dict: Mapping[str, np.ndarray],
    table: Sequence[Entry],
    shapes: Mapping[str, Sequence[int]],
    *,
    what: str,
    ignore: Iterable[str] = (),
    dtype=None,
) -> Converted:
    """Our variables from a state dict.

    Args:
        state_dict: name -> array.
        table: where each of our parameters comes from.
        shapes: path 'a/b/kernel' -> shape of every parameter that the model has (`flat_shapes`).
        what: the model, for messages ('ViT-B-32').
        ignore: regular expressions of keys that are known and not used; matched from the start.
        dtype: type of the results; None = each as it is. With it, results are contiguous arrays of
            their own and `state_dict` need not be held, nor read faster than array by array.

    Raises:
        ValueError: missing or unexpected keys, arrays of other shapes or that cannot be joined, or
            parameters of the model that the table leaves out; one message lists them all.
    """
    missing, wrong, flat = [], [], {}
    for entry in table:
        absent = [key for key in entry.keys if key not in state_dict]
        if absent:
            missing += absent
            continue
        if entry.ours not in shapes:
            raise ValueError(f"{what}: the table names {entry.ours!r}, which the model lacks")
        parts = [np.asarray(state_dict[key]) for key in entry.keys]
        try:
            value = parts[0] if len(parts) == 1 else np.concatenate(parts)
            value = LAYOUTS[entry.layout].forward(value)
        except (ValueError, IndexError, TypeError):
            found = ", ".join(f"{part.shape} {part.dtype}" for part in parts)
            joined = " joined" if len(parts) > 1 else ""
            wrong.append(f"{entry.theirs}: found {found}; not that of a {entry.layout}{joined}")
            continue
        wanted = tuple(shapes[entry.ours])
        if value.shape != wanted:
            wrong.append(f"{entry.theirs} -> {entry.ours}: found {value.shape}, expected {wanted}")
            continue
        flat[entry.ours] = value if dtype is None else np.array(value, dtype, order="C")
    known = {key for entry in table for key in entry.keys}
    ignored = [re.compile(pattern) for pattern in ignore]
    unexpected = sorted(
        key for key in state_dict if key not in known and not any(p.match(key) for p in ignored)
    )
    uncovered = sorted(set(shapes) - {entry.ours for entry in table})
    problems = [f"shape of {line}" for line in wrong]
    problems += [f"missing: {key}" for key in missing]
    problems += [f"unexpected: {key}" for key in unexpected]
    problems += [f"not in the checkpoint's format: {path}" for path in uncovered]
    if problems:
        raise ValueError(
            f"{what}: the checkpoint does not fit ({len(problems)} problems); is it of another model "
            "or size?\n" + "\n".join(_shortened(problems))
        )
    return Converted(nest(flat))


def invert(variables: Mapping, table: Sequence[Entry]) -> dict[str, np.ndarray]:
    """The state dict that `convert` would read; for export, and for tests of tables.

    Where an entry joins several of their arrays, they are taken to be equally long.

    Raises:
        ValueError: an array that cannot be taken apart so.
    """
    flat, result = flatten(variables), {}
    for entry in table:
        value = LAYOUTS[entry.layout].backward(np.asarray(flat[entry.ours]))
        if len(entry.keys) > 1:
            if not value.ndim or len(value) % len(entry.keys):
                raise ValueError(
                    f"{entry.ours}: shape {value.shape} cannot be taken apart into {entry.keys}"
                )
            result |= dict(zip(entry.keys, np.split(value, len(entry.keys)), strict=True))
        else:
            result[entry.keys[0]] = value
    return result


def prefixed(table: Sequence[Entry], theirs: str = "", ours: str = "") -> list[Entry]:
    """A table with prefixes before the names on either side, separators at their end."""
    result = []
    for entry in table:
        keys = tuple(f"{theirs}{key}" for key in entry.keys)
        key = keys[0] if isinstance(entry.theirs, str) else keys
        result.append(Entry(key, f"{ours}{entry.ours}", entry.layout))
    return result


def check_ranks(shapes: Mapping[str, Sequence[int]], ranks: Mapping[str, int], what: str):
    """Refuses arrays whose shape tells no sizes; for whoever reads sizes off a state dict.

    Args:
        shapes: key -> shape of a state dict.
        ranks: key -> number of axes that its array must have; keys that ``shapes`` lacks are left out.
        what: the file, for messages.

    Raises:
        ValueError: another number of axes, or an axis of length zero; one message lists them all.
    """
    found = {key: tuple(shapes[key]) for key in ranks if key in shapes}
    odd = [
        f"{key}: found shape {shape}, expected {ranks[key]} axes, none of length 0"
        for key, shape in found.items()
        if len(shape) != ranks[key] or 0 in shape
    ]
    if odd:
        raise ValueError(f"{what}: arrays of other shapes than this model's:\n" + "\n".join(odd))


def flatten(tree: Mapping, prefix: str = "") -> dict:
    """{'a': {'b': x}} -> {'a/b': x}."""
    result = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        result |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return result


def nest(flat: Mapping) -> dict:
    """{'a/b': x} -> {'a': {'b': x}}."""
    result: dict = {}
    for path, value in flat.items():
        *folders, leaf = path.split("/")
        node = result
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = value
    return result


def flat_shapes(variables: Mapping) -> dict[str, tuple[int, ...]]:
    """Path -> shape; of arrays or of ``jax.eval_shape``'s result."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(variables).items()}


def _shortened(lines: list[str], most: int = 40) -> list[str]:
    rest = len(lines) - most
    return lines if rest <= 0 else [*lines[:most], f"... and {rest} more"]
