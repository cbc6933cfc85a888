"""Training and evaluation of any system, from its config.

``run(config, workdir)`` is all of main.py that is not flags. The run folder holds config.json,
versions.json, metrics.jsonl, TensorBoard events, checkpoints/, eval.json and pictures/.
"""

import dataclasses
import importlib
import json
import time

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from gsjax.data import loader
from gsjax.evals import batch_statistics
from gsjax.systems import base
from gsjax.train import (
    checkpoint,
    distributed,
    identity,
    optim,
    preemption,
    prefetch,
    procedure,
    sharding,
    transfer,
    warm_start,
)
from gsjax.train import logging as logs
from gsjax.train import state as state_lib
from gsjax.train import step as step_lib


def run(config, workdir, *, system: base.System | None = None) -> dict[str, float]:
    """Trains or evaluates as ``config.mode`` says; goes on where an earlier run stopped.

    Args:
        config: tree of ``configs/common.py``.
        workdir: run folder; local, gs:// or s3://.
        system: None builds the one that ``config.system`` names.

    Returns:
        Results of the last evaluation.

    Raises:
        ValueError: a setting cannot work, or the folder is another run's; the message says what to
            change.
        FloatingPointError: too many non-finite updates in a row.
        checkpoint.NotWritten: there is no room for a checkpoint; those before it are whole.
        preemption.Preempted: SIGTERM arrived; a checkpoint is written.
    """
    modes = {"train": _train, "eval": _evaluate}
    if config.mode not in modes:
        raise ValueError(f"config.mode: unknown mode {config.mode!r}; known: {sorted(modes)}")
    workdir = checkpoint.absolute(workdir)
    with preemption.Preemption() as stop:
        distributed.use_compilation_cache(config.train.compilation_cache, workdir)
        if config.mode == "train":  # before config.json of the run that is there is lost
            identity.check(workdir, config)
        _write_facts(config, workdir)
        system = base.build(config) if system is None else system
        if isinstance(system, base.Procedure):
            return procedure.run(config, workdir, system, stop)
        if system.info.get("towers") and jax.process_index() == 0:
            logs.write_json(workdir / "towers.json", system.info["towers"])
        setup = _set_up(config, workdir, system, stop)
        return modes[config.mode](setup)


@dataclasses.dataclass(frozen=True)
class _Setup:
    """What both modes need."""

    config: object
    workdir: epath.Path
    system: base.System
    stop: preemption.Preemption
    mesh: jax.sharding.Mesh
    optimizer: optim.Optimizer
    abstract: state_lib.TrainState  # shapes, types and shardings
    shardings: state_lib.TrainState


def _set_up(config, workdir, system, stop) -> _Setup:
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    if config.mode == "train":
        sharding.check_batch(mesh, config.train.batch_size, config.train.accum_steps)
    variables = jax.eval_shape(system.init, jax.random.key(config.seed))
    optimizer = optim.build(
        config.optim, config.train.num_steps, variables["params"], system.param_rules
    )
    shapes = jax.eval_shape(
        lambda v: state_lib.create(v, optimizer, ema=config.optim.ema > 0), variables
    )
    shardings = sharding.of_state(mesh, shapes)
    abstract = sharding.abstract(shapes, shardings)
    count = sum(x.size for x in jax.tree.leaves(shapes.params))
    logging.info("%s: %d parameters on %s", system.name, count, dict(mesh.shape))
    return _Setup(config, workdir, system, stop, mesh, optimizer, abstract, shardings)


def _write_facts(config, workdir) -> None:
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        name = "config.json" if config.mode == "train" else f"config_{config.mode}.json"
        logs.write_json(workdir / name, json.loads(config.to_json_best_effort()))
        logs.write_json(workdir / "versions.json", logs.versions())


# Training ---------------------------------------------------------------------------------------


def _train(setup: _Setup) -> dict[str, float]:
    config = setup.config.train
    checkpoints = checkpoint.Checkpoints(setup.workdir, keep=config.keep)
    source = train_source(setup.config, setup.system, jax.process_index(), jax.process_count())
    feed = log = None
    try:
        with jax.set_mesh(setup.mesh):
            state, data_state = _start(setup, checkpoints)
            if data_state is not None:
                source.set_state(data_state)
            feed = prefetch.Prefetch(source, sharding.batch(setup.mesh), config.prefetch)
            start = int(state.step)
            log = logs.RunLog(
                setup.workdir,
                num_steps=config.num_steps,
                batch_size=config.batch_size,
                start=start,
            )
            state = _steps(setup, state, start, feed, checkpoints, log)
            results = _evaluation(setup, state, log, checkpoints, feed, final=True)
        checkpoints.wait()
        _show(setup, state)
        return results
    finally:
        for part in (feed or source, log, checkpoints):
            if part is not None:
                part.close()


def train_source(config, system: base.System, process_index: int = 0, process_count: int = 1):
    """The batches that one process reads, as numpy arrays: a ``loader.TrainIterator``.

    Args:
        config: the whole tree.
        system: whose data.
        process_index, process_count: which process of how many.
    """
    return loader.train_iterator(
        system.train_data(),
        seed=config.seed,
        global_batch=config.train.batch_size,
        process_index=process_index,
        process_count=process_count,
        num_threads=config.data.get("num_threads", 4),
        prefetch=config.data.get("prefetch", 32),
    )


def _start(setup: _Setup, checkpoints):
    """The newest checkpoint, or a fresh state, warm-started if asked for."""
    restored = checkpoints.restore(setup.abstract)
    if restored is not None:
        logging.info("going on from the checkpoint of step %d", restored.step)
        return restored.state, restored.data
    loaded = {}
    if setup.config.init_from:
        source = warm_start.load_variables(setup.config.init_from, _abstract_variables(setup))
        loaded = source.arrays
        logging.info("%d arrays from %s", len(loaded), setup.config.init_from)
        if source.missing:
            logging.warning("initialised instead of loaded: %s", ", ".join(source.missing))

    if backbone := setup.config.get("init_backbone", ""):
        abstract = _abstract_variables(setup)
        loaded |= transfer.backbone_arrays(abstract, backbone, setup.config.model)
        logging.info("backbone from %s", backbone)

    def init(key, loaded):
        fresh = setup.system.init(key)
        merged = state_lib.refill(fresh, {**state_lib.flat(fresh), **loaded})
        return state_lib.create(merged, setup.optimizer, ema=setup.config.optim.ema > 0)

    key = jax.random.key(setup.config.seed)
    state = state_lib.once(init, out_shardings=setup.shardings)(key, loaded)
    return _with_statistics(setup, state), None


def _with_statistics(setup: _Setup, state):
    """Norms measured on the data at hand where ``config.reestimate_norms`` (batches) asks for it.

    For backbones that stay frozen: what was pre-trained on other inputs brings statistics of those.
    """
    batches = setup.config.get("reestimate_norms", 0)
    if not batches:
        return state
    variables = batch_statistics.reestimate(
        setup.system,
        {"params": state.params, **state.collections},
        lambda batch: prefetch.to_devices(batch, sharding.batch(setup.mesh)),
        batches=batches,
        batch_size=setup.config.train.batch_size,
        seed=setup.config.seed,
    )
    logging.info("running statistics measured on %d batches", batches)
    collections = {name: variables[name] for name in state.collections}
    return dataclasses.replace(state, collections=collections)


def _steps(setup: _Setup, state, start: int, feed, checkpoints, log):
    """The loop itself."""
    config = setup.config.train
    train_step = step_lib.compile_step(
        setup.system,
        setup.optimizer,
        setup.mesh,
        setup.shardings,
        parts=config.accum_steps,
        ema=setup.config.optim.ema,
    )
    key = jax.device_put(jax.random.key(setup.config.seed + 1), sharding.replicated(setup.mesh))
    guard = step_lib.NonFiniteGuard(config.max_bad_steps)
    profile = distributed.ProfileWindow(config.profile, setup.workdir)
    if start and _due(start, config.eval_every) and start < config.num_steps:
        _evaluation(setup, state, log, checkpoints, feed)
    for step in range(start + 1, config.num_steps + 1):
        with profile.before(step - 1):
            began = time.perf_counter()
            state, metrics = train_step(state, next(feed), key)
        profile.after(step - 1, metrics)
        guard.push(step, metrics)
        if step == start + 1:
            jax.block_until_ready(metrics)
            log.say(
                "first step, with compiling: %.1f s (%s)",
                time.perf_counter() - began,
                log.compiling.describe(),
            )
            log.restart_clock(step, feed.waited)
        last = step == config.num_steps
        if last or _due(step, config.log_every):
            log.train(step, metrics, feed.waited)
            guard.flush()
        log.advance(step)
        if last or _due(step, config.save_every):
            guard.flush()
            _save(setup, state, step, feed, checkpoints, wait=last)
        if not last and _due(step, config.eval_every):
            _evaluation(setup, state, log, checkpoints, feed)
            log.restart_clock(step, feed.waited)
        if setup.stop.reached():
            _leave(setup, state, step, feed, checkpoints)
    profile.close()
    return state


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _save(setup: _Setup, state, step: int, feed, checkpoints, *, wait: bool) -> None:
    checkpoints.save(step, state, feed.state, identity.info(setup.config), wait=wait)


def _leave(setup: _Setup, state, step: int, feed, checkpoints):
    _save(setup, state, step, feed, checkpoints, wait=True)
    raise preemption.Preempted(step)


# Evaluation -------------------------------------------------------------------------------------


class _StopEvaluation(Exception):
    """SIGTERM arrived between two evaluation batches."""


def _evaluation(setup: _Setup, state, log, checkpoints, feed, *, final: bool = False) -> dict:
    """Runs the evaluators unless this step has been evaluated; SIGTERM leaves in between."""
    step = int(state.step)
    done = [entry["metrics"] for entry in log.history if entry["step"] == step]
    if done:
        return done[-1]
    try:
        results = evaluate(setup.config, setup.system, state.variables(), setup.mesh, setup.stop)
    except _StopEvaluation:
        _leave(setup, state, step, feed, checkpoints)
    if results or final:
        log.evaluation(step, results)
    return results


def evaluate(
    config, system: base.System, variables, mesh, stop=None, *, details: dict | None = None
) -> dict[str, float]:
    """All evaluators of ``config.eval.evaluators``: {'<evaluator>/<metric>': value}.

    Args:
        config: the whole tree; names are modules of ``gsjax.evals``, each exporting ``Evaluator``. What
            follows a slash tells several of one module apart: 'posed_views/extrapolation'. An option
            ``module`` is the dotted name of a module outside gsjax that takes the place of the name's.
        system: what is evaluated.
        variables: on the mesh.
        mesh: from :func:`gsjax.train.sharding.make_mesh`.
        stop: polled at every batch.
        details: if given, receives {'<evaluator>': its outcomes for each object}.

    Raises:
        ValueError: no such evaluator.
    """

    def put_batch(batch):
        if stop is not None and stop.reached():
            raise _StopEvaluation
        return prefetch.to_devices(batch, sharding.batch(mesh))

    results = {}
    for name, options in config.eval.evaluators.items():
        module = options.get("module", "")
        if module:
            options = {k: v for k, v in options.items() if k != "module"}
        evaluator = _evaluator(module or name)(system, options)
        for metric, value in evaluator.run(variables, put_batch).items():
            results[f"{name}/{metric}"] = float(value)
        if details is not None:
            details[name] = evaluator.details
    return results


def load_for_inference(config, source, system: base.System) -> base.Variables:
    """Variables of a finished run, on the config's mesh.

    Args:
        config: the whole tree.
        source: run folder or checkpoint.
        system: the model they belong to.

    Raises:
        ValueError: no checkpoint, a damaged one, or one that lacks arrays of this model.
    """
    with preemption.Preemption() as stop:
        setup = _set_up(config, epath.Path(source), system, stop)
    return _load_all(source, _abstract_variables(setup))[1]


def _load_all(source, abstract):
    """(step, variables); every array must be there."""
    loaded = warm_start.load_variables(source, abstract)
    if loaded.missing:
        names = ", ".join(loaded.missing)
        raise ValueError(f"{source}: arrays of this model are missing: {names}")
    return loaded.step, state_lib.refill(abstract, loaded.arrays)


def _evaluator(name: str):
    """The class of a module of ``gsjax.evals``, or of one's own by its dotted name."""
    module = name.partition("/")[0]
    if "." not in module:
        module = f"gsjax.evals.{module}"
    try:
        return importlib.import_module(module).Evaluator
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"eval.evaluators: there is no module {module}") from error


def _evaluate(setup: _Setup) -> dict[str, float]:
    """Mode eval: the newest checkpoint of ``init_from`` or of the run folder."""
    source = setup.config.init_from or setup.workdir
    abstract = _abstract_variables(setup)
    with jax.set_mesh(setup.mesh):
        step, variables = _load_all(source, abstract)
        log = logs.RunLog(setup.workdir, num_steps=0, batch_size=0, start=None)
        try:
            results = evaluate(setup.config, setup.system, variables, setup.mesh, setup.stop)
            log.evaluation(step, results)
        except _StopEvaluation:
            raise preemption.Preempted(step) from None
        finally:
            log.close()
    _show(setup, variables)
    return results


def _abstract_variables(setup: _Setup) -> dict:
    return {"params": setup.abstract.params, **setup.abstract.collections}


def _show(setup: _Setup, state) -> None:
    """Pictures, drawn by process 0 alone from host copies."""
    if setup.system.show is None or not setup.config.eval.show:
        return
    variables = state.variables() if isinstance(state, state_lib.TrainState) else state
    if jax.process_count() > 1:
        variables = multihost_utils.process_allgather(variables, tiled=True)
    variables = jax.tree.map(np.asarray, variables)
    if jax.process_index() == 0:
        folder = setup.workdir / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        setup.system.show(variables, folder)
