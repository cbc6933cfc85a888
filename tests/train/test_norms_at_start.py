"""``config.reestimate_norms``: a run that keeps its norms starts with those of its own data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.train import checkpoint, loop, sharding
from gsjax.train import state as state_lib
from tests.evals import test_batch_statistics as normed
from tests.train import tiny


@pytest.fixture(scope="module")
def system():
    built = normed.make_system(normed._examples())

    def loss(variables, batch, rng, train):
        embedding = built.predict_fns["embed"](variables, batch)["gaussian"]
        return jnp.mean(jnp.square(embedding)), {}, {}

    return dataclasses.replace(built, loss=loss)


def statistics(workdir, system, batches):
    """{'net/first/mean': array, ...} after one step."""
    config = tiny.config(train__num_steps=1)
    config.eval.show = False
    config.reestimate_norms = batches
    loop.run(config, workdir, system=system)
    return checkpoint.load_variables(workdir, abstract(system)).arrays


def abstract(system):
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    return sharding.abstract(shapes, sharding.of_state(sharding.make_mesh(1, 1), shapes))


def test_a_run_starts_with_the_statistics_of_its_data(tmp_path, system):
    plain = statistics(tmp_path / "plain", system, 0)
    np.testing.assert_array_equal(plain["batch_stats/net/first/mean"], np.zeros(normed.DIM))
    found = statistics(tmp_path / "measured", system, 4)
    x = np.stack([e["x"] for e in normed._examples()])
    np.testing.assert_allclose(found["batch_stats/net/first/mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["batch_stats/net/first/var"], x.var(0), rtol=1e-4)
    np.testing.assert_array_equal(found["batch_stats/head/norm/mean"], np.ones(2))
    assert set(found) == set(plain) == set(state_lib.flat(abstract(system)))


def test_a_system_without_such_a_pass_is_refused(tmp_path, system):
    with pytest.raises(ValueError, match="names no pass"):
        statistics(tmp_path, dataclasses.replace(system, norm_pass=None), 4)
