"""What a run says: metrics.jsonl, TensorBoard events, log lines, a progress bar, eval.json, wandb.

Only process 0 writes. Every line reaches the file before the checkpoint of its step is begun, so a
resumed run drops what lies past its checkpoint and writes it again: no step is lost or doubled.
"""

import hashlib
import importlib.metadata
import json
import math
import platform
import sys
import time
from collections.abc import Sequence

import jax
from absl import logging as absl_logging
from etils import epath

from gsjax.train import compiling, wandb_board

PACKAGES = "gsjax jax jaxlib flax optax orbax-checkpoint grain numpy ml-collections".split()


def versions() -> dict:
    """Versions and devices that a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    if found["gsjax"] is None:  # run from a checkout that is not installed
        from gsjax.version import __version__

        found["gsjax"] = __version__
    return {
        "packages": found,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "devices": [str(d.device_kind) for d in jax.devices()],
        "processes": jax.process_count(),
    }


def config_hash(config) -> str:
    """Short hash of every setting."""
    return hashlib.sha256(config.to_json_best_effort(sort_keys=True).encode()).hexdigest()[:16]


def write_json(path, value) -> None:
    """Writes a file whole or not at all (a rename on local disks)."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.tmp"
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    temporary.replace(path)


class _Lines:
    """A text file that grows by lines. Object stores cannot append: there it is written whole."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._local = "://" not in str(path)
        self._text = "" if self._local or not path.exists() else path.read_text()

    def keep(self, wanted) -> None:
        """Drops the lines that ``wanted`` refuses, and a last one cut short."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if wanted(value):
                kept.append(line + "\n")
        self._text = "".join(kept)
        temporary = self._path.parent / f".{self._path.name}.tmp"
        temporary.write_text(self._text)
        temporary.replace(self._path)

    def add(self, value: dict) -> None:
        line = json.dumps(value) + "\n"
        if self._local:
            with self._path.open("a") as f:
                f.write(line)
        else:
            self._text += line
            self._path.write_text(self._text)


class RunLog:
    """All outputs of a training or evaluation run.

    Attributes:
        compiling: what was compiled since the last line.
    """

    def __init__(self, workdir, *, num_steps: int, batch_size: int, start: int | None = 0):
        """Opens the files, without anything past step ``start``.

        Args:
            workdir: run folder.
            num_steps: of the whole run, for the bar.
            batch_size: examples a step, for the rate.
            start: step that was restored; 0 for a fresh run; None leaves earlier lines alone.
        """
        self._folder = epath.Path(workdir)
        self._batch_size = batch_size
        self.compiling = compiling.Compiling()
        self._active = jax.process_index() == 0
        self._bar = None
        self._events = self._board = None
        self.history: list[dict] = self._read_history(start)
        self.restart_clock(start or 0, 0.0)
        if not self._active:
            return
        self._lines = _Lines(self._folder / "metrics.jsonl")
        if start is not None:
            self._lines.keep(lambda line: line["step"] <= start)
        self._events = self._open_events(start)
        self._board = wandb_board.open_from_environment(self._folder)
        if sys.stderr.isatty() and num_steps > (start or 0):
            import tqdm

            self._bar = tqdm.tqdm(
                total=num_steps, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr
            )

    def _read_history(self, start: int | None) -> list[dict]:
        """Earlier evaluations up to ``start``; the same on every process."""
        path = self._folder / "eval.json"
        if not path.exists():
            return []
        history = json.loads(path.read_text())["history"]
        return [e for e in history if start is None or e["step"] <= start]

    def _open_events(self, start: int | None):
        import tensorboardX

        try:
            purge = None if start is None else start + 1
            return tensorboardX.SummaryWriter(str(self._folder), purge_step=purge)
        except Exception as error:  # remote folders need packages of their own
            absl_logging.warning("no TensorBoard events in %s: %s", self._folder, error)
            return None

    def restart_clock(self, step: int, waited: float) -> None:
        """Rates are measured from here on (after compiling, evaluating)."""
        self._clock = (step, time.perf_counter(), waited)

    def say(self, text: str, *args) -> None:
        """A log line that does not tear the progress bar."""
        if self._bar is not None:
            self._bar.write(text % args, file=sys.stderr)
        elif self._active:
            absl_logging.info(text, *args)

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def train(self, step: int, metrics: dict, waited: float, show: Sequence[str] = ()) -> None:
        """Writes one step's metrics, and since the last call the rates and what was compiled.

        Args:
            step: number of the finished step.
            metrics: {name: scalar}; fetched here, so the call waits for the step.
            waited: seconds waited for data since the start.
            show: metrics that the line names beside the loss.
        """
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        since, start, waited_then = self._clock
        elapsed = max(time.perf_counter() - start, 1e-9)
        steps = step - since
        if steps > 0:
            values["step_seconds"] = elapsed / steps
            values["examples_per_second"] = steps * self._batch_size / elapsed
            values["data_wait"] = (waited - waited_then) / elapsed
        values |= self.compiling.take()
        self.restart_clock(step, waited)
        if not self._active:
            return
        self._lines.add({"step": step, **{k: _json(v) for k, v in values.items()}})
        self._scalars("train", step, values)
        rate = values.get("examples_per_second")
        self.say(
            "step %d loss %.5g lr %.3g%s%s",
            *(step, values["loss"], values["lr"]),
            "".join(f" {name} {values[name]:.5g}" for name in show),
            f" | {rate:.1f} examples/s, {values['step_seconds']:.3f} s/step, "
            f"{100 * values['data_wait']:.0f} % waiting for data"
            if rate
            else "",
        )
        if self._bar is not None:
            shown = {name: f"{values[name]:.4g}" for name in ("loss", *show)}
            self._bar.set_postfix(shown, refresh=False)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Writes the results of all evaluators at a step to eval.json and TensorBoard."""
        entry = {"step": step, "metrics": {k: _json(float(v)) for k, v in sorted(values.items())}}
        self.history = [e for e in self.history if e["step"] != step] + [entry]
        if not self._active:
            return
        write_json(self._folder / "eval.json", {**entry, "history": self.history})
        self._scalars("eval", step, values)
        for name, value in sorted(values.items()):
            self.say("eval step %d %s %.5g", step, name, value)

    def _scalars(self, group: str, step: int, values: dict) -> None:
        if self._board is not None:
            self._board.add(group, step, values)
        if self._events is not None:
            for name, value in values.items():
                # TensorBoard's names have no '@'.
                self._events.add_scalar(f"{group}/{name.replace('@', '_at_')}", value, step)
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes."""
        if self._bar is not None:
            self._bar.close()
        if self._events is not None:
            self._events.close()
        if self._board is not None:
            self._board.close()


def _json(value: float):
    return value if math.isfinite(value) else None
