"""What a trace of training steps says, as text: time of a step, share of waiting for data, dearest operations.

    python -m gsjax.train.trace_table WORKDIR

Traces are those of ``train.profile`` (``distributed.ProfileWindow``). For anything more, open the folder
``WORKDIR/profile`` in xprof, or its ``.trace.json.gz`` in Perfetto.
"""

import argparse
import collections
import dataclasses
import pathlib
from collections.abc import Sequence

import jax

from gsjax.train import distributed, prefetch

# Beside operations, XLA's threads report their own scheduling.
_NO_OPERATION = ("end: ", "Threadpool", "ThunkExecutor", "Wait", "$")


@dataclasses.dataclass(frozen=True)
class Summary:
    """Of one trace.

    Attributes:
        steps: in the window.
        seconds: from the first step's start to the end of the last one's work.
        waited: seconds in which the loop waited for data.
        operations: {name: (seconds over all threads or streams, calls)}, dearest first; those inside
            a loop's count for the loop, too.
    """

    steps: int
    seconds: float
    waited: float
    operations: dict[str, tuple[float, int]]

    @property
    def wait_share(self) -> float:
        """Of the time."""
        return self.waited / self.seconds


def summary(workdir) -> Summary:
    """Reads the newest trace of a run folder.

    Raises:
        ValueError: there is none, or one without a training step.
    """
    paths = sorted((pathlib.Path(workdir) / "profile").rglob("*.xplane.pb"))
    if not paths:
        raise ValueError(
            f"workdir: no trace below {workdir}/profile; train with --config.train.profile.start_step=20 "
            "--config.train.profile.num_steps=5"
        )
    data = jax.profiler.ProfileData.from_file(str(paths[-1]))
    steps, waits, ends = [], [], []
    operations: dict[str, list] = collections.defaultdict(lambda: [0.0, 0])
    for plane in data.planes:
        for line in plane.lines:
            runs_operations = _runs_operations(plane.name, line.name)
            for event in line.events:
                if event.name == distributed.STEP:
                    steps.append(event)
                elif event.name == prefetch.WAIT:
                    waits.append(event.duration_ns)
                elif runs_operations and not event.name.startswith(_NO_OPERATION):
                    ends.append(event.start_ns + event.duration_ns)
                    operations[event.name][0] += event.duration_ns / 1e9
                    operations[event.name][1] += 1
    if not steps:
        raise ValueError(
            f"workdir: the trace {paths[-1]} has no training step; was it interrupted? Trace again"
        )
    start = min(event.start_ns for event in steps)
    end = max([event.start_ns + event.duration_ns for event in steps] + ends)
    dearest = sorted(operations.items(), key=lambda item: -item[1][0])
    return Summary(
        steps=len(steps),
        seconds=(end - start) / 1e9,
        waited=sum(waits) / 1e9,
        operations={name: tuple(value) for name, value in dearest},
    )


def _runs_operations(plane: str, line: str) -> bool:
    """Streams of GPUs, cores of TPUs, and the threads that XLA computes on a CPU with."""
    if plane.startswith("/device:"):
        return line.startswith(("Stream", "XLA Ops"))
    return line.startswith(("tf_XLAEigen", "tf_XLAPjRt"))


def table(found: Summary, top: int = 15) -> str:
    """The summary as text, with the ``top`` dearest operations."""
    lines = [
        f"{found.steps} steps in {found.seconds:.3f} s, {found.seconds / found.steps:.4f} s each; "
        f"{100 * found.wait_share:.2f} % of it waiting for data",
        "",
        "| operation | ms a step | calls a step |",
        "| --- | --- | --- |",
    ]
    for name, (seconds, calls) in list(found.operations.items())[:top]:
        lines.append(f"| {name} | {1e3 * seconds / found.steps:.3f} | {calls / found.steps:g} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table of a run folder's trace."""
    parser = argparse.ArgumentParser("python -m gsjax.train.trace_table", description=main.__doc__)
    parser.add_argument("workdir", help="run folder")
    parser.add_argument("--top", type=int, default=15, help="operations (15)")
    args = parser.parse_args(argv)
    print(table(summary(args.workdir), args.top))


if __name__ == "__main__":
    main()
