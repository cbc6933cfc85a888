"""Which faults are injected: their kinds, on which processes and devices, and what is drawn for each."""

import dataclasses
import random

from tests.faults.job import Topology

_ONE, _TWO, _FOUR = Topology(1, 1), Topology(2, 1), Topology(4, 1)
_COUNTS = [(1, 2), (2, 1), (2, 4), (4, 2), (1, 4), (4, 1)]
_DEVICES = [
    (_ONE, Topology(1, 2)), (Topology(1, 2), Topology(1, 4)), (Topology(1, 4), _ONE),
    (_ONE, Topology(1, 8)), (_TWO, Topology(2, 2)),
]  # fmt: skip


def _same(*topologies):
    return [(t, t) for t in topologies]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        text: what is done.
        count: how often in the whole matrix.
        topologies: (of the run that is harmed, of its restart), taken in turn.
    """

    text: str
    count: int
    topologies: list[tuple[Topology, Topology]]


KINDS = {
    "kill_worker": Kind("SIGKILL of a process other than 0", 14, _same(_TWO, _FOUR)),
    "kill_coordinator": Kind("SIGKILL of process 0", 14, _same(_TWO, _FOUR, _ONE)),
    "sigterm": Kind("SIGTERM to one process", 14, _same(_TWO, _ONE, _FOUR)),
    "kill_in_save": Kind("SIGKILL of a process inside a save", 14, _same(_ONE, _TWO, _FOUR)),
    "other_processes": Kind(
        "stopped, restarted as another number of processes",
        12,
        [(Topology(a, 1), Topology(b, 1)) for a, b in _COUNTS],
    ),
    "other_devices": Kind("stopped, restarted on another number of devices", 10, _DEVICES),
    "truncated": Kind("a file of the newest checkpoint cut short", 10, _same(_ONE, _TWO, _FOUR)),
    "bit_flipped": Kind("a bit of the newest checkpoint flipped", 12, _same(_ONE, _TWO, _FOUR)),
    "file_missing": Kind("a file of the newest checkpoint removed", 10, _same(_ONE, _TWO, _FOUR)),
    "disk_full": Kind("no room on the disk for a checkpoint", 10, _same(_ONE, _TWO)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault. ``draw`` gives the same numbers for the same seed, kind and number."""

    kind: str
    number: int
    seed: int
    before: Topology
    after: Topology

    @property
    def key(self) -> tuple[str, int, int]:
        return self.kind, self.number, self.seed

    @property
    def command(self) -> str:
        return f"python -m tests.faults.run --only {self.kind}:{self.number} --seed {self.seed}"

    def draw(self) -> random.Random:
        return random.Random(f"{self.seed}/{self.kind}/{self.number}")


def case(kind: str, number: int, seed: int) -> Case:
    """The fault of that number."""
    pairs = KINDS[kind].topologies
    return Case(kind, number, seed, *pairs[number % len(pairs)])


def plan(seed: int, only: str = "") -> list[Case]:
    """All faults, kinds in turn, or those that ``only`` names: 'KIND,KIND:NUMBER,...'.

    Raises:
        ValueError: no such kind.
    """
    chosen = []
    for item in filter(None, only.split(",")):
        kind, _, number = item.partition(":")
        if kind not in KINDS:
            raise ValueError(f"--only: unknown kind {kind!r}; known: {', '.join(KINDS)}")
        numbers = [int(number)] if number else range(KINDS[kind].count)
        chosen += [case(kind, n, seed) for n in numbers]
    if chosen:
        return chosen
    longest = max(kind.count for kind in KINDS.values())
    return [
        case(name, n, seed)
        for n in range(longest)
        for name, kind in KINDS.items()
        if n < kind.count
    ]
