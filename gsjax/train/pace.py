"""How many steps of one run take as long as a step of another, measured side by side.

Seconds in the logs of two runs compare only where the machine was equally busy for both. Here steps of
both alternate, each with the making of its batch, so that other work slows them alike.
"""

import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from gsjax.systems import base
from gsjax.train import single

WARM_UP = 2  # steps, of which the first compiles


def ratio(first, second, rounds: int = 20) -> dict[str, float]:
    """Seconds of a step of the config ``first`` in steps of ``second``, medians of alternated steps.

    Returns:
        ``first_seconds`` and ``second_seconds`` of a step, and their ``ratio``, the median of the rounds'.
    """
    steps = [_stepper(config) for config in (first, second)]
    for number in range(WARM_UP):
        for step in steps:
            step(number)
    times = np.asarray([[step(WARM_UP + i) for step in steps] for i in range(rounds)])
    return dict(
        first_seconds=statistics.median(times[:, 0]),
        second_seconds=statistics.median(times[:, 1]),
        ratio=statistics.median(times[:, 0] / times[:, 1]),
    )


def _stepper(config) -> Callable[[int], float]:
    """``step(number) -> seconds`` of making that batch and training on it."""
    system, size = base.build(config), config.train.batch_size
    source = system.train_data()
    key = jax.random.key(config.seed)
    state, compiled, mesh = single.start(system, config, config.train.num_steps)

    def step(number: int) -> float:
        nonlocal state
        began = time.perf_counter()
        items = [source[(number * size + i) % len(source)] for i in range(size)]
        batch = {name: np.stack([item[name] for item in items]) for name in system.batch_spec}
        with jax.set_mesh(mesh):
            state, metrics = compiled(state, batch, key)
        jax.block_until_ready(metrics)
        return time.perf_counter() - began

    return step
