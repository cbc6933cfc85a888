"""Weights that other runs of a study start from: one file beside the rows."""

import logging
import pathlib
from collections.abc import Callable


def of_role(needs, role: str, write: Callable) -> pathlib.Path | None:
    """File of the run among ``needs`` whose ``study.role`` it is, or None.

    It is written from the run's folder once; where that is gone too, the run is made again or finished.

    Args:
        needs: of ``study.Needed``.
        role: such as 'weights'.
        write: (run folder, file), makes the file.
    """
    from gsjax.train import loop

    for need in needs:
        if need.config.study.get("role", "") == role:
            if not need.weights.exists():
                last = need.folder / "checkpoints" / str(need.config.train.num_steps)
                if not last.exists():
                    logging.warning("%s is gone: its run is made again, or finished", last)
                    loop.run(need.config, need.folder)
                write(need.folder, need.weights)
            return need.weights
    return None
