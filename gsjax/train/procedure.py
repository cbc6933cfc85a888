"""Runs a ``base.Procedure``: chunks of steps with checkpoints, metrics, evaluation and a time limit.

What ``loop`` is for systems that train on batches. The run folder is the same; results are what the
procedure writes at the end.
"""

import time

import jax
import numpy as np
from absl import logging

from gsjax.systems import base
from gsjax.train import checkpoint, identity, preemption
from gsjax.train import logging as logs


def run(config, workdir, procedure: base.Procedure, stop) -> dict[str, float]:
    """Advances to the last step, going on where an earlier run stopped, and finishes.

    Args:
        config: ``train`` block of ``configs/common.py`` with ``time_limit`` (seconds, 0 = none).
        workdir: run folder.
        procedure: what to run.
        stop: ``preemption.Preemption`` that was entered.

    Returns:
        Results of the last evaluation.

    Raises:
        ValueError: several processes, or mode 'eval' without a checkpoint.
        FloatingPointError: a loss is not finite.
        preemption.Preempted: SIGTERM arrived or the time is up; a checkpoint is written.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"{procedure.name}: found {jax.process_count()} processes; it runs in one. Give each "
            "process a scene of its own"
        )
    checkpoints = checkpoint.Checkpoints(workdir, keep=config.train.keep)
    log = None
    try:
        restored = checkpoints.restore(procedure.abstract)
        if config.mode == "eval" and restored is None:
            raise ValueError(
                f"config.mode is 'eval', and {workdir} holds no checkpoint; train first"
            )
        state = procedure.begin() if restored is None else restored.state
        start = procedure.step(state)
        if restored is not None:
            logging.info("going on from the checkpoint of step %d", start)
        log = logs.RunLog(workdir, num_steps=procedure.num_steps, batch_size=1, start=start)
        if config.mode == "train":
            state = _steps(config, procedure, state, checkpoints, log, stop)
        results = dict(procedure.evaluate(state))
        log.evaluation(procedure.step(state), results)
        procedure.finish(state, workdir)
        return results
    finally:
        for part in (log, checkpoints):
            if part is not None:
                part.close()


def _steps(config, procedure, state, checkpoints, log, stop):
    train, begin = config.train, time.monotonic()
    step = procedure.step(state)
    first = True
    while step < procedure.num_steps:
        before, began = step, time.perf_counter()
        state, metrics = procedure.advance(state)
        step = procedure.step(state)
        _check_finite(step, metrics)
        if first:
            log.say("first chunk, with compiling: %.1f s", time.perf_counter() - began)
            log.restart_clock(step, 0.0)
        if not first and _passed(before, step, train.log_every):
            log.train(step, metrics, 0.0, procedure.show)
        first = False
        log.advance(step)
        last = step >= procedure.num_steps
        if not last and _passed(before, step, train.eval_every):
            log.evaluation(step, dict(procedure.evaluate(state)))
            log.restart_clock(step, 0.0)
        limit = train.time_limit and time.monotonic() - begin > train.time_limit
        leave = stop.reached() or limit
        if last or leave or _passed(before, step, train.save_every):
            checkpoints.save(step, state, {}, identity.info(config), wait=last or leave)
        if leave and not last:
            raise preemption.Preempted(step)
    checkpoints.wait()
    return state


def _passed(before: int, step: int, every: int) -> bool:
    return every > 0 and step // every > before // every


def _check_finite(step, metrics):
    loss = float(np.asarray(metrics["loss"]))
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at step {step}; look for photographs or cameras that do not belong "
            "to the scene, or lower the learning rates (in another folder)"
        )
