"""A run of main.py as one or several processes on this machine, which can be watched and harmed."""

import pathlib
import sys
import time
from typing import NamedTuple

from tests.train import processes

CONFIG = "tests/faults/config.py"
_POLL = 0.003
LIMIT = 300.0
"""Seconds without which nothing that is waited for happens, even on a busy machine."""


class Topology(NamedTuple):
    """How many processes, and how many devices each of them has."""

    processes: int
    devices: int

    def __str__(self):
        return f"{self.processes}x{self.devices}"


class Stuck(Exception):
    """Something did not happen in time."""


class Job:
    """All processes of one start of a run."""

    def __init__(self, workdir, topology: Topology, logs, *, cache, options=()):
        """Starts them; what process i says goes to ``logs``.i, anew."""
        self.topology = topology
        self.logs = [pathlib.Path(f"{logs}.{i}") for i in range(topology.processes)]
        self.began = time.monotonic()
        command = [sys.executable, "main.py", f"--config={CONFIG}", f"--workdir={workdir}"]
        command += [f"--config.train.compilation_cache={cache}", *options]
        if topology.processes > 1:
            command += [f"--coordinator_address={processes.free_address()}"]
            command += [f"--num_processes={topology.processes}"]
        self.processes = []
        for i, log in enumerate(self.logs):
            log.write_bytes(b"")
            own = [f"--process_id={i}"] if topology.processes > 1 else []
            self.processes.append(
                processes.start(
                    workdir,
                    *own,
                    command=command,
                    log=log,
                    JAX_NUM_CPU_DEVICES=str(topology.devices),
                )
            )

    def said(self, process: int = 0) -> str:
        """All that a process has said."""
        return self.logs[process].read_text(errors="replace")

    def running(self) -> bool:
        """True while no process has ended."""
        return all(p.poll() is None for p in self.processes)

    def wait_until(self, condition, what: str) -> bool:
        """Waits until it holds (True), or a process has ended (False).

        Raises:
            Stuck: neither.
        """
        deadline = time.monotonic() + LIMIT
        while not condition():
            if not self.running():
                return False
            if time.monotonic() > deadline:
                raise Stuck(f"no {what} after {LIMIT:.0f} s; {self.said()[-1500:]}")
            time.sleep(_POLL)
        return self.running()

    def sleep_until(self, moment: float) -> bool:
        """Waits for a time of the monotonic clock; False if a process ended before."""
        return self.wait_until(lambda: time.monotonic() >= moment, "moment")

    def signal(self, number: int, which) -> None:
        """Sends a signal to some of the processes."""
        for i in which:
            if self.processes[i].poll() is None:
                self.processes[i].send_signal(number)

    def end(self, grace: float = 10.0) -> list[int]:
        """Exit codes, as subprocess has them, of all processes.

        Args:
            grace: seconds that the others have once one has died (neither 0 nor 42); then they are
                killed, as launchers do.

        Raises:
            Stuck: nobody died, and they do not end.
        """
        deadline, died = time.monotonic() + LIMIT, False
        while any(p.poll() is None for p in self.processes):
            if not died and any(p.poll() not in (None, 0, 42) for p in self.processes):
                deadline, died = time.monotonic() + grace, True
            if time.monotonic() > deadline:
                self.kill()
                if not died:
                    raise Stuck(f"not done after {LIMIT:.0f} s; {self.said()[-1500:]}")
            time.sleep(0.02)
        return [p.returncode for p in self.processes]

    def kill(self) -> None:
        """Ends all of them at once."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
