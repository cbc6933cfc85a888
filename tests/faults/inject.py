"""Injects one fault into a run, starts the run again, and compares its end with an undisturbed run's."""

import contextlib
import dataclasses
import pathlib
import resource
import shutil
import signal
import time

from gsjax.train import checkpoint
from tests.faults import config as config_file
from tests.faults import damage, disk, evidence
from tests.faults.cases import Case
from tests.faults.job import Job, Stuck, Topology

_TRIES = 5
_IN_STARTUP = 0.15  # share of moments before the first step
_ARRAYS = 270_000  # bytes of the largest file of a checkpoint
RELATIVE = 1e-5


class _Missed(Exception):
    """The run was over before the fault came."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """An undisturbed run, all of its checkpoints kept."""

    workdir: pathlib.Path
    final: evidence.Final
    startup: float  # seconds to the first step
    training: float  # seconds from there to the end
    saving: float  # seconds that a save takes, about


class Bench:
    """Runs cases in a scratch folder; undisturbed runs are made when first needed."""

    def __init__(self, scratch, keep=None):
        """``keep``: folder for the logs of cases that went wrong."""
        self._scratch, self._keep = pathlib.Path(scratch), keep and pathlib.Path(keep)
        self._references: dict[Topology, Reference] = {}

    def reference(self, topology: Topology) -> Reference:
        """The undisturbed run on these processes and devices."""
        if topology not in self._references:
            self._references[topology] = self._undisturbed(topology)
        return self._references[topology]

    def _undisturbed(self, topology: Topology) -> Reference:
        workdir = self._scratch / f"reference-{topology}"
        job = self.start(workdir, topology, "--config.train.keep=9", logs=f"{workdir}.log")
        try:
            return self._watched(job, workdir)
        finally:
            job.kill()

    def _watched(self, job: Job, workdir: pathlib.Path) -> Reference:
        saves: dict[str, list[float]] = {}
        first = [0.0]

        def watched():
            now = time.monotonic()
            first[0] = first[0] or ("step 1 loss" in job.said() and now) or 0.0
            for name in evidence.unfinished(workdir):
                saves.setdefault(name, [now, now])[1] = now
            return False

        job.wait_until(watched, "end")
        ended = time.monotonic()
        if codes := [code for code in job.end() if code]:
            raise RuntimeError(f"the undisturbed run ended with {codes}: {job.said()[-3000:]}")
        spans = sorted(b - a for a, b in saves.values())
        return Reference(
            workdir,
            evidence.Final.of(workdir),
            startup=first[0] - job.began,
            training=ended - first[0],
            saving=spans[len(spans) // 2] if spans else 0.1,
        )

    def start(self, workdir, topology: Topology, *options, logs) -> Job:
        """Starts the run; programs are compiled once for each topology."""
        cache = self._scratch / f"cache-{topology}"
        return Job(workdir, topology, logs, cache=cache, options=options)

    def run(self, case: Case) -> dict:
        """The row of results of a case."""
        began, used = time.monotonic(), _cpu_seconds()
        for topology in {case.before, case.after, Topology(1, 1)}:
            self.reference(topology)
        made, made_used = time.monotonic() - began, _cpu_seconds() - used
        for attempt in range(_TRIES):
            home = self._scratch / f"{case.kind}-{case.number}-{attempt}"
            home.mkdir()
            try:
                with contextlib.ExitStack() as stack:
                    found = _Trial(self, case, home, attempt, stack).row()
                break
            except _Missed:
                found = {"wrong": [f"the run was over before the fault, {attempt + 1} times"]}
            except (Stuck, RuntimeError, ValueError) as error:
                found = {"wrong": [f"{type(error).__name__}: {error}"]}
                break
            finally:
                shutil.rmtree(home / "run", ignore_errors=True)
        if found["wrong"] and self._keep:
            shutil.copytree(home, self._keep / home.name, dirs_exist_ok=True)
        shutil.rmtree(home)
        return {
            **dict(kind=case.kind, number=case.number, seed=case.seed),
            **dict(before=str(case.before), after=str(case.after)),
            **found,
            **dict(outcome="wrong" if found["wrong"] else "recovered", attempts=attempt + 1),
            "seconds": round(time.monotonic() - began - made, 1),
            "cpu_seconds": round(_cpu_seconds() - used - made_used, 1),
            "command": case.command,
        }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Trial:
    """One try to inject the fault of a case."""

    def __init__(self, bench: Bench, case: Case, home: pathlib.Path, attempt: int, stack):
        self.bench, self.case, self.home, self.stack = bench, case, home, stack
        self.draw = case.draw()
        self.sooner = 0.6**attempt  # the run was over: nearer to its beginning
        self.workdir = home / "run"
        self.reference = bench.reference(case.before)
        self.facts: dict = {}
        self.wrong: list[str] = []
        self.repair = lambda: None

    def row(self) -> dict:
        inject = {
            **dict.fromkeys(("kill_worker", "kill_coordinator"), self._kill),
            "sigterm": self._sigterm,
            "kill_in_save": self._kill_in_save,
            **dict.fromkeys(("other_processes", "other_devices"), self._stop_all),
            **dict.fromkeys(("truncated", "bit_flipped", "file_missing"), self._damage),
            "disk_full": self._disk_full,
        }
        expected = inject[self.case.kind]()
        reached = max(evidence.lines(self.workdir), default=0)
        self._check_lines_so_far()
        self.facts |= {"reached": reached, "on_disk": evidence.committed(self.workdir)}
        self.repair()
        self._go_on(reached, expected)
        return {**self.facts, "wrong": self.wrong}

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)

    # What is done to the run --------------------------------------------------------------------

    def _begin(self) -> Job:
        job = self.bench.start(self.workdir, self.case.before, logs=self.home / "before")
        self.stack.callback(job.kill)
        return job

    def _random_moment(self, job: Job, *, early: str = "") -> None:
        """Waits for it: mostly after the first step, else once the log says ``early``."""
        share = self.draw.random() * self.sooner
        if self.draw.random() < _IN_STARTUP:
            there = job.wait_until(lambda: early in job.said(), early)
            begin = time.monotonic() if early else job.began
            there = there and job.sleep_until(begin + share * self.reference.startup)
        else:
            there = job.wait_until(lambda: " loss " in job.said(), "first step")
            there = there and job.sleep_until(time.monotonic() + share * self.reference.training)
        if not there:
            self._missed(job)

    def _moment_in_save(self, job: Job, share: float = 1.0) -> None:
        """Waits for a save, the chosen one or a later one that is slow enough."""
        job.wait_until(lambda: " loss " in job.said(), "first step")
        skip = self.draw.randrange(int(5 * self.sooner) + 1)
        seen: set[str] = set()

        def new() -> set[str]:
            return set(evidence.unfinished(self.workdir)) - seen

        while job.wait_until(new, "another save"):
            names = new()
            seen |= names
            if len(seen) <= skip:
                continue
            delay = self.draw.uniform(0, share) * self.reference.saving
            job.sleep_until(time.monotonic() + delay)
            if names & set(evidence.unfinished(self.workdir)):
                self.facts["into_save"] = round(delay, 3)
                return
        self._missed(job)

    def _missed(self, job: Job):
        """Raises: the run is over, or died of something that was not injected."""
        codes = job.end()
        if any(codes):
            raise RuntimeError(f"{self.case.command}: ended with {codes}: {job.said()[-3000:]}")
        raise _Missed

    def _strike(self, job: Job, number: int, which) -> list[int]:
        """Sends the signal; exit codes of all."""
        before = evidence.phase(job.said(), self.workdir)
        job.signal(number, which)
        if number == signal.SIGKILL:  # what it was doing stays as it was
            for i in which:
                job.processes[i].wait()
            before = evidence.phase(job.said(), self.workdir)
        grace = self.draw.uniform(1, 10)
        codes = job.end(grace)
        self.facts |= {"phase": before, "hit": list(which), "codes": codes}
        return codes

    def _after_kill(self, codes: list[int], which) -> int:
        """Checks the ends of the others; the step to go on from."""
        rest = [c for i, c in enumerate(codes) if i not in which]
        if not any(codes) or (0 in rest and self._newest() == config_file.STEPS):
            raise _Missed
        self._check(all(codes[i] == -signal.SIGKILL for i in which), "a process outlived SIGKILL")
        # 0 and 42 would say that all is well, 2 that starting again is no use.
        self._check(not {0, 2, 42} & set(rest), f"the others ended with {rest}")
        return self._newest()

    def _newest(self) -> int:
        return max(evidence.committed(self.workdir), default=0)

    def _kill(self) -> int:
        job = self._begin()
        count = self.case.before.processes
        worker = self.case.kind == "kill_worker"
        which = [self.draw.randrange(1, count) if worker else 0]
        self._random_moment(job)
        return self._after_kill(self._strike(job, signal.SIGKILL, which), which)

    def _kill_in_save(self) -> int:
        job = self._begin()
        which = [self.draw.randrange(self.case.before.processes)]
        self._moment_in_save(job)
        codes = self._strike(job, signal.SIGKILL, which)
        if self.facts["phase"] != "save":  # finished in the very last moment
            raise _Missed
        return self._after_kill(codes, which)

    def _sigterm(self) -> int:
        job = self._begin()
        which = [self.draw.randrange(self.case.before.processes)]
        self._random_moment(job, early="parameters on")
        return self._after_notice(self._strike(job, signal.SIGTERM, which))

    def _after_notice(self, codes: list[int]) -> int:
        if not any(codes):  # in the last moment, when nothing was left to stop
            raise _Missed
        self._check(set(codes) == {42}, f"exit codes {codes} instead of 42")
        reached = max(evidence.lines(self.workdir), default=0)
        self._check(self._newest() == reached, f"no checkpoint of step {reached}, where it stopped")
        return reached

    def _stop_all(self) -> int:
        """By SIGTERM to one or by SIGKILL to all, in the first half: 20 steps are to follow."""
        job = self._begin()
        which = list(range(self.case.before.processes))
        self.sooner *= 0.5
        if self.draw.random() < 0.5:
            self._random_moment(job, early="parameters on")
            chosen = [self.draw.choice(which)]
            return self._after_notice(self._strike(job, signal.SIGTERM, chosen))
        self._random_moment(job)
        return self._after_kill(self._strike(job, signal.SIGKILL, which), which)

    def _damage(self) -> int:
        every = config_file.SAVE_EVERY
        newest = self.draw.randrange(2 * every, config_file.STEPS + 1, every)
        damage.prepare(self.reference.workdir, self.workdir, newest)
        folder = self.workdir / checkpoint.FOLDER / str(newest)
        vital = self.case.number % 2 == 0
        self.facts |= damage.inflict(self.case.kind, folder, self.draw, vital=vital)
        self.facts |= {"phase": "at rest", "newest": newest, "vital": vital}
        return newest - every

    def _disk_full(self) -> int:
        small = None
        if self.case.number % 2 == 0:
            try:
                small = self.stack.enter_context(disk.SmallDisk.mounted(self.home / "disk"))
                self.workdir = small.folder / "run"
                self.repair = small.free
            except OSError as error:
                self.facts["refused"] = str(error)
        room = int(self.draw.uniform(0.55, 0.9) * _ARRAYS)
        job = self._begin()
        if self.case.number % 4 < 2:
            self._random_moment(job)
        else:
            self._moment_in_save(job, share=0.3)
        self.facts["phase"] = evidence.phase(job.said(), self.workdir)
        if small:
            small.fill(room)
        else:
            room //= self.case.before.processes  # each writes its share of the arrays
            disk.limit_files(job, room)
        codes = job.end()
        self.facts |= {"how": "tmpfs" if small else "file-size limit", "room": room, "codes": codes}
        if not any(codes):
            raise _Missed
        self._check(not {0, 2, 42} & set(codes), f"ended with {codes}")
        return self._newest()

    # What is left of it -------------------------------------------------------------------------

    def _check_lines_so_far(self) -> None:
        """What was trained before the fault is part of the undisturbed run."""
        expected = self.reference.final.lines
        found = evidence.lines(self.workdir)
        self._check(
            all(expected[s] == line for s, line in found.items()),
            "steps before the fault differ from those of the undisturbed run",
        )

    def _go_on(self, reached: int, expected: int) -> None:
        """Starts it again and compares."""
        case, bench = self.case, self.bench
        job = bench.start(self.workdir, case.after, logs=self.home / "after")
        self.stack.callback(job.kill)
        codes = job.end()
        self._check(not any(codes), f"the restart ended with {codes}")
        steps = {evidence.resumed(job.said(i)) for i in range(case.after.processes)}
        resumed = min(steps)
        self.facts |= {"resumed": resumed, "lost": reached - resumed}
        self._check(len(steps) == 1, f"processes went on from different steps {sorted(steps)}")
        if "file" in self.facts:
            expected = self._check_damage(job, expected)
        else:
            # A save that is under way when the next is due is waited for.
            bound = 2 * config_file.SAVE_EVERY
            self._check(reached - resumed <= bound, f"{reached - resumed} steps lost")
        self._check(resumed == expected, f"went on from step {resumed}, not {expected}")
        if not any(codes):
            self._compare(evidence.Final.of(self.workdir))

    def _check_damage(self, job: Job, expected: int) -> int:
        newest = self.facts["newest"]
        noticed = evidence.reported_damaged(job.said())
        self.facts["noticed"] = newest in noticed
        if not noticed and not self.facts["vital"] and self.facts["resumed"] == newest:
            return newest  # a file that nothing depends on: the numbers tell
        self._check(noticed == [newest], f"damaged: {newest}; reported: {noticed}")
        aside = self.workdir / f"{checkpoint.FOLDER}_damaged"
        there = [p.name for p in aside.glob("*")] if aside.exists() else []
        self._check(any(n.startswith(f"{newest}-") for n in there), f"set aside: {there}")
        return expected

    def _compare(self, final: evidence.Final) -> None:
        single = self.bench.reference(Topology(1, 1)).final
        order = evidence.same_order(final.lines, single.lines)
        relative = evidence.difference(final, single)
        self.facts |= {"same_order": order, "difference": relative}
        self._check(order, "another order of the examples")
        for what in ("losses", "params"):
            gap = relative[what]
            self._check(gap <= RELATIVE, f"{what} differ by {gap:.1e} from a single process's")
        if self.case.before == self.case.after:
            same = evidence.same_bits(final, self.reference.final)
            self.facts["same_bits"] = same
            self._check(same, "not bit for bit the undisturbed run")
