"""What a compiled program moves: between devices, by collective, and to and from a device's memory.

Bytes on the wire are those a device sends in the ring form of each collective, which is what NCCL takes for
large arrays (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", J. Parallel
Distrib. Comput. 2009): of n devices and S bytes

    all-reduce          2 (n - 1) / n S     S: of the array that is summed
    all-gather          (n - 1) / n S       S: of the result
    reduce-scatter      (n - 1) / n S       S: of the operand
    all-to-all          (n - 1) / n S       S: of the operand
    collective-permute  S

Latencies do not appear.
"""

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np

from gsjax.train.scaling import hlo

_LISTED = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[(?P<mesh>[^\]]*)\](?:, device_ids=\((?P<ids>[^{]*)\))? \{(?P<axes>[^}]*)\}"
)
_IDS = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_AXIS = re.compile(
    r"'([^']*)'(?:=(\d+)|:\((\d+)\)(\d+))?"
)  # 'name'=size, 'name' or 'name':(before)size
_PAIRS = re.compile(r"source_target_pairs=\{([\d,{} ]*)\}")


def _whole(n, operands):
    return operands


# Bytes that a device sends, of n devices and the bytes of its operands.
_WIRE: dict[str, Callable[[int, int], float]] = {
    "all-reduce": lambda n, operands: 2 * (n - 1) / n * operands,
    "all-gather": lambda n, operands: (n - 1) * operands,  # the result is n operands
    "reduce-scatter": lambda n, operands: (n - 1) / n * operands,
    "all-to-all": lambda n, operands: (n - 1) / n * operands,
    "ragged-all-to-all": lambda n, operands: (n - 1) / n * operands,
    "collective-permute": _whole,
    "collective-broadcast": _whole,
}
COLLECTIVES = tuple(_WIRE)

_Size = Callable[[str], int]  # bytes of a shape's text

# Their results name source and destination.
_BOTH_ENDS = ("copy-start", "collective-permute-start", "all-gather-start")
# Neither read nor write: names for what is there, or the sum of what they call.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all while conditional call partition-id "
    "replica-id async-start async-update async-done opt-barrier add-dependency".split()
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of the program.

    Attributes:
        kind: one of ``COLLECTIVES``.
        groups: ids of the devices that talk to one another; of a permute, its (source, target) pairs.
        operands: bytes of a device's operands, once.
        times: how often it runs in a step.
        unknown: True in a loop whose trip count is unknown (which counts as one).
    """

    kind: str
    groups: tuple[tuple[int, ...], ...]
    operands: int
    times: int
    unknown: bool

    @property
    def wire(self) -> float:
        """Bytes that a device sends in a step."""
        if self.kind == "collective-permute":
            return float(self.operands * self.times) if any(a != b for a, b in self.groups) else 0.0
        n = max(map(len, self.groups), default=1)
        return _WIRE[self.kind](n, self.operands) * self.times

    def crosses(self, devices_a_host: int) -> bool:
        """Whether devices of several hosts take part; ids count host by host."""
        return any(len({i // devices_a_host for i in group}) > 1 for group in self.groups)


def collectives(module: hlo.Module, devices: int) -> list[Collective]:
    """All collectives of a program, the started ones of asynchronous pairs among them.

    Args:
        module: optimised for one of the devices that share the work.
        devices: how many there are.
    """
    found = []
    for run in hlo.runs(module):
        kind = run.instruction.opcode.removesuffix("-start")
        if kind not in _WIRE:
            continue
        groups = groups_of(run.instruction.attributes, kind, devices)
        size = hlo.operand_bytes(run.instruction, run.computation)
        found.append(Collective(kind, groups, size, run.times, bool(run.unknown)))
    return found


def groups_of(attributes: str, kind: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """Groups of device ids from an instruction's attributes.

    Raises:
        ValueError: a notation that is not known here.
    """
    if kind == "collective-permute":
        pairs = _PAIRS.search(attributes)
        if pairs is None:
            raise ValueError(f"HLO text: no source_target_pairs in {attributes[:200]!r}")
        return _listed(pairs[1])
    if iota := _IOTA.search(attributes):
        groups = int(iota[1].split(",")[0])
        return _rows(_counted(iota[2], iota[3]).reshape(groups, -1))
    if mesh := _MESH.search(attributes):
        return _of_mesh(mesh["mesh"], mesh["ids"], mesh["axes"])
    if listed := _LISTED.search(attributes):
        return _listed(listed[1])
    if "replica_groups={}" in attributes or "replica_groups" not in attributes:
        return (tuple(range(devices)),)
    raise ValueError(f"HLO text: replica groups of an unknown form in {attributes[:200]!r}")


def _counted(shape: str, order: str | None) -> np.ndarray:
    """0, 1, ... in a shape, its axes transposed: '[2,4]T(1,0)'."""
    sizes = tuple(map(int, shape.split(",")))
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(tuple(map(int, order.split(",")))) if order else ids


def _rows(ids: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, ids.tolist()))


def _of_mesh(mesh: str, ids: str | None, axes: str) -> tuple[tuple[int, ...], ...]:
    """Groups along some axes of a mesh, of which a part of one may be taken (of ``before`` x size x rest)."""
    sizes = {name: int(size) for name, size, _, _ in _AXIS.findall(mesh)}
    chosen = [
        (name, int(before or 1), int(size or 0)) for name, _, before, size in _AXIS.findall(axes)
    ]
    shape, names = [], []
    for name, full in sizes.items():
        parts = [(b, s or full) for n, b, s in chosen if n == name]
        at = 1
        for before, size in sorted(parts):
            shape += [before // at, size]
            names += [None, (name, before)]
            at = before * size
        shape.append(full // at)
        names.append(None)
    order = _IDS.fullmatch(ids) if ids else None
    if order:
        devices = _counted(order[1], order[2])
    else:
        devices = np.array(list(map(int, ids.split(",")))) if ids else np.arange(math.prod(shape))
    last = [names.index((name, before)) for name, before, _ in chosen]
    first = [i for i in range(len(shape)) if i not in last]
    count = math.prod(shape[i] for i in last)
    return _rows(devices.reshape(shape).transpose(first + last).reshape(-1, count))


def _listed(text: str) -> tuple[tuple[int, ...], ...]:
    """'{0,1},{2,3}' as tuples."""
    return tuple(
        tuple(int(n) for n in part.split(",") if n.strip())
        for part in re.findall(r"\{([\d, ]*)\}", text)
    )


def by_kind(found: list[Collective], devices_a_host: int) -> dict[str, dict[str, float]]:
    """{kind: count, bytes, wire, wire_between_hosts, unknown} summed over a step.

    count: executions. bytes: of operands a device. wire: sent by a device, all links; wire_between_hosts: the part
    whose groups span hosts. unknown: collectives in loops of unknown length, counted once.
    """
    table: dict[str, dict[str, float]] = {}
    for item in found:
        row = table.setdefault(
            item.kind, dict(count=0, bytes=0, wire=0.0, wire_between_hosts=0.0, unknown=0)
        )
        row["count"] += item.times
        row["bytes"] += item.operands * item.times
        row["wire"] += item.wire
        row["wire_between_hosts"] += item.wire if item.crosses(devices_a_host) else 0.0
        row["unknown"] += item.unknown
    return table


# Memory ---------------------------------------------------------------------------------------------


def memory_bytes(module: hlo.Module, on_chip: bool = False) -> tuple[int, int]:
    """Bytes that a device's kernels read and write in a step, and how many loops have unknown lengths.

    Every kernel (a fusion, a library call) reads its operands and writes its result, as if no cache kept anything
    from one to the next; slices and updates in place count what they touch. Loops of unknown length count
    once, so that with any of them the figure is a lower bound.

    Args:
        module: optimised.
        on_chip: the compiler keeps arrays of memory space 1 on the chip, as that of TPUs does (VMEM): they are free.
    """
    total, unknown = 0, set()
    size = _off_chip if on_chip else hlo.size
    for run in hlo.runs(module):
        unknown |= set(run.unknown)
        if run.instruction.opcode in _FREE or run.instruction.opcode.endswith("-done"):
            continue
        total += _touched(module, run.instruction, run.computation, size) * run.times
    return total, len(unknown)


def _off_chip(shape: str) -> int:
    return sum(bytes_ for bytes_, layout in hlo.parts(shape) if "S(1)" not in layout)


def _touched(module, item: hlo.Instruction, computation: hlo.Computation, size: _Size) -> int:
    shapes = [computation.instructions[name].shape for name in item.operands]
    sizes = list(map(size, shapes))
    if item.opcode in (
        "dynamic-slice",
        "slice",
        "gather",
    ):  # what is taken, where either end counts
        return hlo.size(item.shape) * (bool(sizes[0]) + bool(size(item.shape)))
    if item.opcode == "dynamic-update-slice":
        return hlo.size(shapes[1]) * (bool(sizes[0]) + bool(sizes[1]))
    if item.opcode in _BOTH_ENDS:
        return size(item.shape)
    if item.opcode == "custom-call" and item.shape.startswith("("):
        # A library's scratch space is a result, too, of bytes; 32 MiB of cuBLAS, of which little is touched.
        return sum(sizes) + size(re.sub(r"\b[su]8\[\d+\]", "", item.shape))
    if item.opcode != "fusion":
        return sum(sizes) + size(item.shape)
    inner = module.computations[item.called["calls"]]
    return sum(_read(inner, place, bytes_) for place, bytes_ in enumerate(sizes)) + _written(
        inner, item.shape, size
    )


def _read(inner: hlo.Computation, place: int, size: int) -> int:
    """Bytes of a fusion's operand that are read: of slices if nothing but slices is taken of it."""
    items = inner.instructions.values()
    name = next((i.name for i in items if i.opcode == "parameter" and i.inside == str(place)), None)
    users = [i for i in items if name in i.operands]
    slices = ("dynamic-slice", "slice", "gather")
    if users and all(i.opcode in slices and i.operands[0] == name for i in users):
        return min(size, sum(hlo.size(i.shape) for i in users))
    if users and all(i.opcode == "dynamic-update-slice" and i.operands[0] == name for i in users):
        return 0  # updated in place
    return size


def _written(inner: hlo.Computation, shape: str, size: _Size) -> int:
    """Bytes of a fusion's results, of which some are updates in place."""
    root = inner.root
    if root.opcode != "tuple":
        return _written_of(inner, root, shape, size)
    results = [inner.instructions[name] for name in root.operands]
    texts = [found[0] for found in hlo.SHAPE.finditer(shape)]
    if len(texts) != len(results):  # tuples in tuples
        texts = [result.shape for result in results]
    return sum(_written_of(inner, *pair, size) for pair in zip(results, texts))


def _written_of(inner: hlo.Computation, result: hlo.Instruction, shape: str, size: _Size) -> int:
    if result.opcode == "dynamic-update-slice" and size(shape):
        return hlo.size(inner.instructions[result.operands[1]].shape)
    return size(shape)
