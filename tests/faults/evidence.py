"""What a run folder and its logs say: the last step, what was saved, which examples, which numbers."""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import numpy as np

from gsjax.train import checkpoint, sharding
from tests.faults import config as config_file
from tests.faults import system
from tests.train import processes, tiny

_STEP = re.compile(r"step (\d+) loss")
_RESUMED = re.compile(r"going on from the checkpoint of step (\d+)")
_DAMAGED = re.compile(r"checkpoint (\d+) is damaged and passed over")


@dataclasses.dataclass(frozen=True)
class Line:
    """A step of metrics.jsonl."""

    loss: float
    ids: tuple[int, ...]  # of the examples, in the order of the global batch


def lines(workdir) -> dict[int, Line]:
    """{step: line}; a last line cut short is left out.

    Raises:
        ValueError: a step is there twice.
    """
    path = pathlib.Path(workdir) / "metrics.jsonl"
    found = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(text)
        except ValueError:
            continue
        if row["step"] in found:
            raise ValueError(f"step {row['step']} is logged twice")
        ids = tuple(int(row[f"id/{i:02d}"]) for i in range(config_file.BATCH))
        found[row["step"]] = Line(row["loss"], ids)
    return found


def committed(workdir) -> list[int]:
    """Steps of the checkpoints that are there under their final names."""
    folder = pathlib.Path(workdir) / checkpoint.FOLDER
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def unfinished(workdir) -> list[str]:
    """Names of checkpoints that are being written, or were when the run ended."""
    folder = pathlib.Path(workdir) / checkpoint.FOLDER
    return sorted(p.name for p in folder.glob("*") if p.name.endswith("-tmp"))


def resumed(said: str) -> int:
    """Step that a start went on from; 0 = from the beginning."""
    found = _RESUMED.findall(said)
    return int(found[-1]) if found else 0


def reported_damaged(said: str) -> list[int]:
    """Steps of the checkpoints that a start found damaged."""
    return sorted({int(step) for step in _DAMAGED.findall(said)})


def phase(said: str, workdir) -> str:
    """What a run does that has said this."""
    if unfinished(workdir):
        return "save"
    if said.rfind(system.EVAL_BEGINS) > said.rfind(system.EVAL_ENDS):
        return "evaluation"
    steps = _STEP.findall(said)
    if steps:
        return "end" if int(steps[-1]) == config_file.STEPS else "step"
    return "compiling" if "parameters on" in said else "start-up"


@functools.cache
def _abstract():
    shapes = jax.eval_shape(
        tiny.build(width=config_file.get_config().faults.width).init, jax.random.key(0)
    )
    return sharding.abstract(shapes, sharding.of_state(sharding.make_mesh(1, 1), shapes))


@dataclasses.dataclass(frozen=True)
class Final:
    """What a finished run left."""

    lines: dict[int, Line]
    digests: dict[str, str]  # of all arrays of the state: parameters, moments, statistics
    params: dict[str, np.ndarray]
    evaluations: list

    @classmethod
    def of(cls, workdir) -> "Final":
        """Reads it.

        Raises:
            ValueError: the last checkpoint is not there, or is damaged.
        """
        folder = pathlib.Path(workdir)
        last = folder / checkpoint.FOLDER / str(config_file.STEPS)
        arrays = checkpoint.load_variables(last, _abstract()).arrays
        return cls(
            lines(folder),
            processes.digests(folder, config_file.STEPS),
            {name: np.asarray(x) for name, x in arrays.items()},
            json.loads((folder / "eval.json").read_text())["history"],
        )


def same_order(found: dict[int, Line], expected: dict[int, Line]) -> bool:
    """True if both hold the same steps and each the same examples in the same order."""
    return found.keys() == expected.keys() and all(
        found[s].ids == expected[s].ids for s in expected
    )


def same_bits(found: Final, expected: Final) -> bool:
    """True if every array, loss and evaluation is the same number."""
    return (
        found.digests == expected.digests
        and found.lines == expected.lines
        and found.evaluations == expected.evaluations
    )


def difference(found: Final, expected: Final) -> dict[str, float]:
    """Largest relative differences.

    Returns:
        ``losses``: of any step's loss. ``params``: of any parameter array, 2-norm of the difference over
        2-norm. ``element``: of any element of a parameter, the root mean square of its array standing for
        what is smaller. The last is no claim: Adam divides each gradient by its own size, so an element whose
        gradient is mere rounding moves by the whole learning rate, one way or the other.
    """
    worst = {"losses": 0.0, "params": 0.0, "element": 0.0}
    for step, line in expected.lines.items():
        worst["losses"] = max(worst["losses"], abs(found.lines[step].loss / line.loss - 1))
    for name, b in expected.params.items():
        gap = np.abs(found.params[name].astype(np.float64) - b)
        size = max(float(np.sqrt(np.mean(b.astype(np.float64) ** 2))), 1e-30)
        worst["params"] = max(worst["params"], float(np.sqrt(np.mean(gap**2))) / size)
        element = np.max(gap / np.maximum(np.abs(b), size))
        worst["element"] = max(worst["element"], float(element))
    return {name: float(f"{value:.1e}") for name, value in worst.items()}
