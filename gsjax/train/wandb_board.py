"""Numbers of a run to Weights & Biases, where ``GSJAX_WANDB`` names a project. Optional: gsjax[wandb].

A variable of the environment and no setting: where numbers are shown does not change what a run is, and
hashes of configs stay what they are. A run keeps its name there when it goes on. What fails (no network, no
account) is said once and leaves the run alone; ``metrics.jsonl`` has the numbers.
"""

import hashlib
import json
import os
from collections.abc import Mapping

from absl import logging
from etils import epath

VARIABLE = "GSJAX_WANDB"  # a project, or entity/project


class Board:
    """An open run of wandb."""

    def __init__(self, run):
        self._run = run

    def add(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step as ``group/name``, with the step beside them.

        wandb's own counter only grows, and a run that goes on from a checkpoint repeats steps: hence the
        step is a number among the others, and the axis of all (``open_from_environment``).
        """
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **{f"{group}/{k}": float(v) for k, v in values.items()}})
        except Exception as error:  # whatever its client raises
            logging.warning("wandb: %s; nothing more is sent", error)
            self._run = None

    def close(self) -> None:
        """Waits until all is sent."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                logging.warning("wandb: %s", error)
            self._run = None


def open_from_environment(workdir) -> Board | None:
    """The board that ``GSJAX_WANDB`` asks for, or None.

    Args:
        workdir: run folder; its path makes the run's id, so that a run that goes on is the same one, and
            its ``config.json`` is sent along.

    Raises:
        ImportError: a project is named, and wandb is not installed.
    """
    named = os.environ.get(VARIABLE, "")
    if not named:
        return None
    try:
        import wandb
    except ImportError as error:
        raise ImportError(
            f"{VARIABLE} is {named!r}, and wandb is not installed: pip install 'gsjax[wandb]', or unset it"
        ) from error
    folder = epath.Path(workdir)
    entity, _, project = named.rpartition("/")
    config = folder / "config.json"
    try:
        run = wandb.init(
            project=project,
            entity=entity or None,
            name=folder.name,
            id=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
            resume="allow",
            config=json.loads(config.read_text()) if config.exists() else {},
        )
        for group in ("train", "eval"):
            run.define_metric(f"{group}/*", step_metric="step")
    except Exception as error:  # whatever its client raises
        logging.warning("wandb: %s; the run goes on without it", error)
        return None
    return Board(run)
