"""A system's real training step, traced for devices that need not be there: shapes in, no array made."""

import contextlib
import math
import time
from typing import NamedTuple

import jax

from gsjax.systems import base
from gsjax.train import optim, sharding
from gsjax.train import state as state_lib
from gsjax.train import step as step_lib
from gsjax.train.scaling import targets


class Step(NamedTuple):
    """A traced step.

    traced: of ``jax.jit(...).trace``; ``traced.jaxpr`` for counting. lowered: what the compiler takes.
    parameters: how many. seconds: of tracing and lowering.
    """

    traced: jax.stages.Traced
    lowered: jax.stages.Lowered
    parameters: int
    seconds: float


def mesh_for(devices: int, fsdp: int = 1, target: str = "h100") -> jax.sharding.Mesh:
    """The run's mesh (``data``, ``fsdp``) of devices that need not exist.

    Raises:
        ValueError: ``fsdp`` does not divide ``devices``.
    """
    if fsdp < 1 or devices < 1 or devices % fsdp:
        raise ValueError(f"mesh.fsdp: {fsdp} does not divide {devices} devices; choose a divisor")
    return targets.mesh_of(target, (devices // fsdp, fsdp), sharding.BATCH_AXES)


def step_for(config, mesh: jax.sharding.Mesh, system: base.System | None = None) -> Step:
    """The step of ``config`` on a mesh, as ``train.loop`` compiles it: state donated, batch over all axes.

    No example is read: ``config.data.name='shapes'`` (or a set that is opened when first asked for) will do.

    Args:
        config: the whole tree; ``train.batch_size`` is the global batch.
        mesh: with the axes of ``train.sharding``; of real devices or of :func:`mesh_for`.
        system: None builds the one that ``config.system`` names.

    Raises:
        ValueError: the devices do not divide the batch, or what the system refuses.
    """
    sharding.check_batch(mesh, config.train.batch_size, config.train.accum_steps)
    start = time.monotonic()
    with _entered(mesh):
        system = base.build(config) if system is None else system
        shapes = jax.eval_shape(system.init, _key())
        optimizer = optim.build(
            config.optim, config.train.num_steps, shapes["params"], system.param_rules
        )
        state = jax.eval_shape(
            lambda v: state_lib.create(v, optimizer, ema=config.optim.ema > 0), shapes
        )
        shardings = sharding.of_state(mesh, state)
        rows, whole = sharding.batch(mesh), sharding.replicated(mesh)
        batch = {
            name: jax.ShapeDtypeStruct((config.train.batch_size, *x.shape), x.dtype, sharding=rows)
            for name, x in system.batch_spec.items()
        }
        key = jax.ShapeDtypeStruct((), _key().dtype, sharding=whole)
        step = step_lib.compile_step(
            system, optimizer, mesh, shardings, parts=config.train.accum_steps, ema=config.optim.ema
        )
        traced = step.trace(sharding.abstract(state, shardings), batch, key)
        lowered = traced.lower()
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["params"]))
    return Step(traced, lowered, count, time.monotonic() - start)


def _key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))


def _entered(mesh: jax.sharding.Mesh) -> contextlib.AbstractContextManager:
    """The mesh as the current one. Absent devices can only be entered in the abstract."""
    here = set(jax.devices())
    if all(device in here for device in mesh.devices.flat):
        return jax.set_mesh(mesh)
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
