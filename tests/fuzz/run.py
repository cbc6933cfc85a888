"""Gives readers damaged files and counts what comes out but documented errors.

    python -m tests.fuzz.run --target ply --inputs 100000 --seed 0 --limit_seconds 5 --limit_gb 2
    python -m tests.fuzz.run --target all --inputs 1000000

Inputs of a target depend on the seed and their number alone. A run that is stopped goes on where it was;
a target that is done has a line in --out and is passed over. Kept below --keep, by target: ``findings``
(inputs whose outcome is undocumented, too slow, or the end of the process) and ``corpus`` (the first input
of each place in the code that refused one). Exits with 1 where there are findings.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from tests.fuzz import targets, worker

# Targets that take long for every input: this share of the inputs of others.
_SHARES = {"checkpoint_meta": 0.01, "run_folder": 0.01, "recorded_room": 0.3, "colmap_text": 0.5}
_MOST_CRASHES = 50
_START_SECONDS = 180  # imports of JAX and orbax on a busy machine
_PACKAGES = ("gsjax", "numpy", "pillow", "pycolmap", "trimesh", "safetensors", "h5py", "zstandard")


def plan(names: list[str], total: int) -> dict[str, int]:
    """Inputs of each target; they add up to ``total``."""
    shares = {name: _SHARES.get(name, 1.0) for name in names}
    counts = {name: int(total * share / sum(shares.values())) for name, share in shares.items()}
    counts[max(names, key=shares.__getitem__)] += total - sum(counts.values())
    return counts


class _Run:
    """All inputs of one target, in as many processes as it takes."""

    def __init__(self, name: str, inputs: int, args):
        self.name, self.inputs, self.args = name, inputs, args
        self.keep = Path(args.keep) / name
        self.state_file = self.keep / f"state-{args.seed}-{inputs}.json"
        self.state = dict(
            next=0, read=0, refused=0, outcomes=0, peak_kb=0, seconds=0.0, findings=[]
        )
        if self.state_file.exists():
            self.state = json.loads(self.state_file.read_text())

    def finish(self) -> dict:
        """Runs what is left; the row of results."""
        while self.state["next"] < self.inputs and self._crashes() < _MOST_CRASHES:
            self._one_worker()
        kinds = [finding["kind"] for finding in self.state["findings"]]
        count = {kind: kinds.count(kind) for kind in ("error", "slow", "crash", "hang")}
        names = ("read", "refused", "outcomes")
        return dict(
            target=self.name, inputs=self.state["next"], seed=self.args.seed,
            **{name: self.state[name] for name in names}, **count,
            seconds=round(self.state["seconds"], 1), peak_mb=self.state["peak_kb"] // 1024,
            limit_seconds=self.args.limit_seconds, limit_gb=self.args.limit_gb,
            python=platform.python_version(), versions=_versions(),
        )  # fmt: skip

    def _crashes(self) -> int:
        return sum(finding["kind"] in ("crash", "hang") for finding in self.state["findings"])

    def _one_worker(self) -> None:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        with tempfile.TemporaryDirectory(prefix="gsjax-fuzz-", dir=memory) as scratch:
            home = Path(scratch)
            progress = worker.Progress(home / "progress")
            progress.put(-1, *(self.state[name] for name in ("read", "refused")), 0, 0)
            command = [sys.executable, "-m", "tests.fuzz.worker", self.name, str(self.args.seed)]
            command += [str(self.state["next"]), str(self.inputs), str(self.args.limit_seconds)]
            command += [str(self.args.limit_gb), str(home)]
            began = time.monotonic()
            with open(home / "out", "w") as out, open(home / "err", "w") as err:
                process = subprocess.Popen(command, stdout=out, stderr=err)
                try:
                    hung = self._watch(process, progress)
                finally:
                    process.kill()
                    process.wait()
                    self._take(progress.get(), home, time.monotonic() - began)
            if process.returncode != 0:
                self._crash(progress.get()["index"], "hang" if hung else "crash", process, home)
            self._save()

    def _watch(self, process, progress) -> bool:
        """Waits for the end; True if an input did not end in time and took no signal."""
        last, since = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            index = progress.get()["index"]
            if index != last:
                last, since = index, time.monotonic()
            limit = _START_SECONDS if index < 0 else 3 * self.args.limit_seconds + 10
            if time.monotonic() - since > limit:
                return True
        return False

    def _take(self, found: dict, home: Path, seconds: float) -> None:
        """Counts what a worker did, and keeps what it found."""
        state = self.state
        state["next"] = max(state["next"], found["index"])
        state["read"], state["refused"] = found["read"], found["refused"]
        state["outcomes"] = max(state["outcomes"], found["outcomes"])
        state["peak_kb"] = max(state["peak_kb"], found["peak_kb"])
        state["seconds"] += seconds
        lines = (home / "out").read_text().splitlines()
        state["findings"] += [json.loads(line) for line in lines if line.startswith("{")]
        for kind in ("findings", "corpus"):
            if (home / kind).is_dir():
                shutil.copytree(home / kind, self.keep / kind, dirs_exist_ok=True)
        self._save()

    def _crash(self, index: int, kind: str, process, home: Path) -> None:
        said = (home / "err").read_text(errors="replace")[-3000:]
        if index < 0:
            raise RuntimeError(f"{self.name}: the worker did not start:\n{said}")
        parts = [(home / "input" / file).read_bytes() for file in targets.find(self.name).files]
        (self.keep / "findings").mkdir(parents=True, exist_ok=True)
        (self.keep / "findings" / f"{self.args.seed}-{index}").write_bytes(targets.join(parts))
        what = f"exit status {process.returncode}: {said}"
        self.state["findings"].append(dict(index=index, kind=kind, what=what))
        self.state["next"] = index + 1

    def _save(self) -> None:
        self.keep.mkdir(parents=True, exist_ok=True)
        scratch = self.state_file.with_suffix(".tmp")
        scratch.write_text(json.dumps(self.state))
        scratch.replace(self.state_file)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _done(out: Path, seed: int) -> dict[str, int]:
    """Target -> inputs of the rows that are there."""
    lines = out.read_text().splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines if line.strip()]
    return {row["target"]: row["inputs"] for row in rows if row["seed"] == seed}


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--target", default="all", help="names with commas, or 'all'")
    parser.add_argument("--inputs", type=int, default=10_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit_seconds", type=float, default=5.0)
    parser.add_argument("--limit_gb", type=float, default=2.0)
    parser.add_argument("--keep", default="runs/fuzz", help="folder of findings and of the state")
    parser.add_argument("--out", default="", help="file that gets one JSON line a target")
    args = parser.parse_args(argv)
    names = sorted(targets.TARGETS) if args.target == "all" else args.target.split(",")
    if unknown := set(names) - set(targets.TARGETS) - {targets.SELF_TEST.name}:
        parser.error(
            f"unknown targets {sorted(unknown)}; known: {', '.join(sorted(targets.TARGETS))}"
        )
    done = _done(Path(args.out), args.seed) if args.out else {}
    failed = False
    for name, inputs in plan(names, args.inputs).items():
        if done.get(name, -1) >= inputs:
            continue
        run = _Run(name, inputs, args)
        row = run.finish()
        failed |= bool(run.state["findings"])
        print({key: row[key] for key in row if key not in ("versions", "python")}, flush=True)
        for finding in _by_kind(run.state["findings"]):
            print("   ", finding, flush=True)
        if args.out:
            with open(args.out, "a") as file:
                file.write(json.dumps(row) + "\n")
    return int(failed)


def _by_kind(findings: list[dict]) -> list[str]:
    """One line a kind of finding: how often, and the first."""
    kinds: dict[str, list[dict]] = {}
    for finding in findings:
        kinds.setdefault(finding["what"].partition(": ")[0], []).append(finding)
    return [
        f"{len(f)} x, first input {f[0]['index']}: {f[0]['what'][:600]}" for f in kinds.values()
    ]


if __name__ == "__main__":
    sys.exit(main())
