"""SIGTERM means: write a checkpoint and go, exit code 42, to be started again.

A process that runs alone catches the signal itself. With several, JAX's coordination service passes
the notice on, and all of them stop at the same poll, whichever one was told.
"""

import signal
import threading

import jax
from absl import logging
from jax.experimental import multihost_utils

EXIT_CODE = 42  # "preempted, checkpoint written, start me again"


class Preempted(Exception):
    """The run stopped at a step it can go on from."""

    def __init__(self, step: int):
        super().__init__(f"preempted at step {step}; checkpoint written, start again to go on")
        self.step = step


class Preemption:
    """Asks, as often as it likes, whether to stop; all processes ask equally often."""

    def __init__(self):
        self._noticed = threading.Event()
        self._polls = 0
        self._previous = None
        self._shared = jax.distributed.is_initialized()

    def __enter__(self):
        # With jax.distributed the service has its own handler, which a Python one would replace.
        if not self._shared and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *unused):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _notice(self, signum, frame):
        del signum, frame
        self._noticed.set()

    def reached(self) -> bool:
        """True from the poll on at which all processes are to stop."""
        self._polls += 1
        if self._shared and not self._noticed.is_set():
            if multihost_utils.reached_preemption_sync_point(self._polls):
                self._noticed.set()
        if self._noticed.is_set():
            logging.warning("SIGTERM: stopping at the next checkpoint")
        return self._noticed.is_set()
