"""Injects faults into runs of main.py and counts what is lost: the matrix of faults.

    python -m tests.faults.run --out results/faults.jsonl
    python -m tests.faults.run --only kill_in_save,sigterm:3 --seed 1
    python -m tests.faults.run --out results/faults.jsonl --report

A fault is told by its kind, number and seed; its moment is drawn from them. Each has a line in --out, and one
that is there is passed over: a run that was stopped, or whose --budget was spent, goes on where it was. The
runs are those of tests/faults/config.py, as 1, 2 and 4 processes. Exits with 1 where a run did not recover.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.faults import cases, report  # noqa: E402  (the platform is settled first)

_PACKAGES = ("jax", "orbax-checkpoint", "grain")


def rows_of(path) -> list[dict]:
    """Lines of a file of results; one cut short is left out."""
    rows = []
    for line in Path(path).read_text().splitlines() if path and Path(path).exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", default="", help="file that gets one JSON line a fault")
    parser.add_argument("--only", default="", help="KIND or KIND:NUMBER, with commas; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--budget", type=float, default=120.0, help="minutes; none begins after them"
    )
    parser.add_argument(
        "--keep", default="runs/faults", help="folder of logs where a run went wrong"
    )
    parser.add_argument("--report", action="store_true", help="print the table of --out and end")
    args = parser.parse_args(argv)
    if args.report:
        print(report.table(rows_of(args.out)))
        return 0
    try:
        wanted = cases.plan(args.seed, args.only)
    except ValueError as error:
        parser.error(str(error))
    done = {(row["kind"], row["number"], row["seed"]) for row in rows_of(args.out)}
    left = [case for case in wanted if case.key not in done]
    # Leaves by way of all clean-up: no process goes on, no disk stays mounted.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        rows = list(_run(left, args))
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{len(rows)} faults, {len(left) - len(rows)} left")
    return int(any(row["wrong"] for row in rows))


def _run(left, args):
    from tests.faults import inject  # JAX starts here

    end = time.monotonic() + 60 * args.budget
    versions = {name: metadata.version(name) for name in _PACKAGES}
    with tempfile.TemporaryDirectory(prefix="gsjax-faults-") as scratch:
        bench = inject.Bench(scratch, args.keep)
        for case in left:
            if time.monotonic() > end:
                return
            row = {**bench.run(case), "versions": versions}
            print(report.line(row), flush=True)
            if args.out:
                with open(args.out, "a") as file:
                    file.write(json.dumps(row) + "\n")
            yield row


if __name__ == "__main__":
    sys.exit(main())
