"""CLIP-GS, quick size, on eight virtual devices against one: gradients, losses, parameters.

The biases in front of the point branch's BatchNorms have no gradient in exact arithmetic (the
normalisation subtracts them): what is found there, 1e-8 of the whole, is rounding. Arrays that small
are measured against the whole gradient instead of against themselves.
"""

import functools

import jax
import numpy as np
import pytest

from configs import clip_gs
from gsjax.data import loader
from gsjax.systems import base
from gsjax.train import optim, sharding
from gsjax.train import state as state_lib
from gsjax.train import step as step_lib

pytestmark = pytest.mark.slow
KEY = jax.random.key(5)
SMALL = 1e-6


@pytest.fixture(scope="module")
def config():
    config = clip_gs.get_config("quick")
    config.data.name = "synthetic"
    config.data.num_objects = 32
    config.optim.schedule = "constant"
    return config


@pytest.fixture(scope="module")
def system(config):
    return base.build(config)


@pytest.fixture(scope="module")
def batches(system):
    feed = loader.train_iterator(system.train_data(), seed=0, global_batch=16, num_threads=0)
    return [next(feed) for _ in range(20)]


def distances(found, expected):
    """{path: relative Frobenius distance}, of tiny arrays relative to all of them together."""
    found, expected = state_lib.flat(found), state_lib.flat(expected)
    whole = np.sqrt(sum(np.sum(np.square(x)) for x in expected.values()))
    result = {}
    for path, x in expected.items():
        size = np.linalg.norm(x)
        scale = size if size > SMALL * whole else whole
        result[path] = np.linalg.norm(x - found[path]) / scale
    return result


def first_gradients(system, batch, devices):
    mesh = sharding.make_mesh(*devices)
    with jax.set_mesh(mesh):
        variables = system.init(KEY)
        variables = jax.device_put(variables, sharding.of_state(mesh, variables))
        rest = {k: v for k, v in variables.items() if k != "params"}
        gradients = jax.jit(lambda p, b: step_lib.gradients(system, p, rest, b, KEY)[3])
        spread = jax.device_put(batch, sharding.batch(mesh))
        return jax.device_get(gradients(variables["params"], spread))


def train(system, config, batches, devices):
    """(parameters, losses) after the batches."""
    mesh = sharding.make_mesh(*devices)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(system.init, KEY)
        tx = optim.build(config, len(batches), shapes["params"], system.param_rules)
        make = functools.partial(state_lib.create, optimizer=tx, ema=False)
        shardings = sharding.of_state(mesh, jax.eval_shape(make, shapes))
        state = jax.jit(lambda k: make(system.init(k)), out_shardings=shardings)(KEY)
        step = step_lib.compile_step(system, tx, mesh, shardings)
        losses = []
        for batch in batches:
            state, metrics = step(state, jax.device_put(batch, sharding.batch(mesh)), KEY)
            losses.append(float(metrics["loss"]))
    return jax.device_get(state.params), np.array(losses)


def test_first_gradients(system, batches):
    one, many = (first_gradients(system, batches[0], d) for d in ((1, 1), (8, 1)))
    assert max(distances(many, one).values()) < 1e-5


def test_losses_of_twenty_adamw_steps(system, config, batches):
    (_, one), (_, many) = (train(system, config.optim, batches, d) for d in ((1, 1), (4, 2)))
    np.testing.assert_allclose(many, one, rtol=1e-4)


def test_parameters_after_twenty_sgd_steps(system, config, batches):
    sgd = config.optim.copy_and_resolve_references()
    sgd.name, sgd.lr = "sgd", 0.01
    (one, _), (many, _) = (train(system, sgd, batches, d) for d in ((1, 1), (8, 1)))
    assert max(distances(many, one).values()) < 1e-5
