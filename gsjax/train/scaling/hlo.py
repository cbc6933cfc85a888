"""Reads the text of an optimised HLO module (``compiled.as_text()``): instructions, loops, how often each runs.

Only what counting needs. XLA's own figures (``compiled.cost_analysis()``) count the body of a loop once; here
a body counts as often as it runs. What the counts mean is in ``traffic``.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

# Bits of an element, where the name does not say.
_BITS = {"pred": 8, "token": 0, "opaque": 0}
# An array: kind, axes, layout.
SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^\s*(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) (?:\(.*\) -> .*)?\{$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"\}')
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
        name: within its computation.
        shape: text of what it returns, a tuple in parentheses.
        opcode: such as 'all-reduce-start'.
        operands: names.
        inside: text between the parentheses, for constants and parameters.
        attributes: text behind the operands.
        root: whether the computation returns it.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    inside: str
    attributes: str
    root: bool

    @functools.cached_property
    def called(self) -> Mapping[str, str]:
        """{'body': name of the computation, ...}."""
        found = dict(_CALLED.findall(self.attributes))
        if branches := _BRANCHES.search(self.attributes):
            names = (name.strip().lstrip("%") for name in branches[1].split(","))
            found |= {f"branch {i}": name for i, name in enumerate(names)}
        return found


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in their order."""

    name: str
    instructions: Mapping[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """What it returns."""
        return next(i for i in self.instructions.values() if i.root)


@dataclasses.dataclass(frozen=True)
class Module:
    """Attributes:
    entry: name of the computation that runs.
    computations: by name.
    """

    entry: str
    computations: Mapping[str, Computation]


@dataclasses.dataclass(frozen=True)
class Run:
    """An instruction and how often it runs.

    Attributes:
        instruction: outside fusions.
        computation: that it stands in.
        times: product of the trip counts of the loops around it; an unknown one counts as 1.
        unknown: names of the loops around it whose trip count is unknown.
    """

    instruction: Instruction
    computation: Computation
    times: int
    unknown: tuple[str, ...]


def parse(text: str) -> Module:
    """The module of a text.

    Raises:
        ValueError: it has no entry computation.
    """
    entry, computations, name, lines = "", {}, "", {}
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name, lines = head["name"], {}
            entry = name if head["entry"] else entry
        elif line.startswith("}") and name:
            computations[name], name = Computation(name, lines), ""
        elif name and (found := _instruction(line)):
            lines[found.name] = found
    if not entry:
        raise ValueError("HLO text: no ENTRY computation found; pass compiled.as_text()")
    return Module(entry, computations)


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closed(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.find("(")
    if end < 0 or opening < 0:
        return None
    closing = _closed(rest, opening)
    inside = rest[opening + 1 : closing - 1]
    return Instruction(
        head["name"], shape, rest[:opening], tuple(_OPERAND.findall(inside)), inside,
        rest[closing:], bool(head["root"]),
    )  # fmt: skip


def _closed(text: str, start: int) -> int:
    """Place behind the parenthesis that closes the one at ``start``; -1 if none does."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return -1


def size(shape: str) -> int:
    """Bytes of a shape's text; of all parts together for a tuple. Layouts, tiles and padding do not count."""
    return sum(bytes_ for bytes_, _ in parts(shape))


def parts(shape: str) -> list[tuple[int, str]]:
    """[(bytes, text of the layout)] of the arrays of a shape's text."""
    found = []
    for kind, axes, layout in SHAPE.findall(shape):
        elements = math.prod(int(n.lstrip("<=")) for n in axes.split(",") if n)
        found.append((-(-elements * _bits(kind) // 8), layout))
    return found


def _bits(kind: str) -> int:
    if kind in _BITS:
        return _BITS[kind]
    found = re.match(r"[a-z]+(\d+)", kind)  # f32, bf16, s8, u4, c64, f8e4m3fn
    return int(found[1]) if found else 0


def operand_bytes(instruction: Instruction, computation: Computation) -> int:
    """Bytes of all operands."""
    return sum(size(computation.instructions[name].shape) for name in instruction.operands)


def runs(module: Module) -> Iterator[Run]:
    """Every instruction outside fusions, with how often it runs. Each branch of a conditional counts."""
    yield from _runs(module, module.entry, 1, ())


def _runs(module: Module, name: str, times: int, unknown: tuple[str, ...]) -> Iterator[Run]:
    computation = module.computations[name]
    for item in computation.instructions.values():
        yield Run(item, computation, times, unknown)
        called = item.called
        if item.opcode == "while":
            trips = trip_count(module, computation, item)
            inner = unknown if trips is not None else (*unknown, item.name)
            count = times * (1 if trips is None else trips)
            yield from _runs(module, called["body"], count, inner)
        elif item.opcode == "call" or item.opcode == "async-start":
            yield from _runs(module, called.get("to_apply") or called["calls"], times, unknown)
        elif item.opcode == "conditional":
            for branch in called.values():
                yield from _runs(module, branch, times, unknown)


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often the body of a ``while`` runs, or None where the text does not say.

    Either XLA wrote it down, or the condition compares a counter of the state with a constant; the counter then
    starts at a constant, and is taken to go up by one (as in loops of ``jax.lax.scan``).
    """
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    bound = _bound(module, module.computations[loop.called["condition"]])
    if bound is None:
        return None
    place, limit = bound
    start = _element(computation, loop.operands[0], place)
    return None if start is None else max(limit - start, 0)


def _bound(module: Module, condition: Computation) -> tuple[int, int] | None:
    """(place in the state, constant) of ``state[place] < constant``."""
    root, at_home = condition.root, {}
    if root.opcode == "fusion":  # the comparison lies inside, its operands outside
        outer, condition = condition, module.computations[root.called["calls"]]
        for item in condition.instructions.values():
            if item.opcode == "parameter":
                at_home[item.name] = outer.instructions[root.operands[int(item.inside)]]
        root = condition.root
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    left, right = (at_home.get(n, condition.instructions[n]) for n in root.operands)
    index = re.search(r"\bindex=(\d+)", left.attributes)
    if left.opcode != "get-tuple-element" or not index or right.opcode != "constant":
        return None
    return int(index[1]), int(right.inside)


def _element(computation: Computation, name: str, place: int) -> int | None:
    """The integer constant at a place of a tuple, or None."""
    item = computation.instructions[name]
    if item.opcode != "tuple":
        return None
    item = computation.instructions[item.operands[place]]
    while item.opcode in ("copy", "bitcast"):
        item = computation.instructions[item.operands[0]]
    return int(item.inside) if re.fullmatch(r"-?\d+", item.inside) else None
