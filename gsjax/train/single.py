"""A fresh state and the compiled step on one device, for measurements that are no runs."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from gsjax.systems import base
from gsjax.train import optim, sharding
from gsjax.train import state as state_lib
from gsjax.train import step as step_lib


class Start(NamedTuple):
    """``step(state, batch, key) -> (state, metrics)`` takes the old state's place in memory.

    To be called under ``jax.set_mesh(mesh)``.
    """

    state: state_lib.TrainState
    step: Callable
    mesh: jax.sharding.Mesh


def start(system: base.System, config, num_steps: int) -> Start:
    """At random weights, with the optimiser of ``config`` stretched over ``num_steps``."""
    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(system.init, key)
    optimizer = optim.build(config.optim, num_steps, shapes["params"], system.param_rules)

    def create(key):
        return state_lib.create(system.init(key), optimizer, ema=config.optim.ema > 0)

    mesh = sharding.make_mesh(1)
    with jax.set_mesh(mesh):
        shardings = sharding.of_state(mesh, jax.eval_shape(create, key))
        state = state_lib.once(create, out_shardings=shardings)(key)
        step = step_lib.compile_step(system, optimizer, mesh, shardings)
    return Start(state, step, mesh)
