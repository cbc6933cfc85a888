"""The step: accumulation, guard, averaging, and independence of the device layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.train import optim, sharding
from gsjax.train import state as state_lib
from gsjax.train import step as step_lib
from tests.train import tiny

KEY = jax.random.key(5)


def batch_of(size, start=0):
    rows = [tiny.Points()[(start + i) % tiny.EXAMPLES] for i in range(size)]
    return {k: np.stack([r[k] for r in rows]) for k in rows[0]}


def train(steps, *, devices=(1, 1), parts=1, ema=0.0, size=16, system=None, **optim_changes):
    """(final state, losses) of a short run on a mesh of devices = (data, fsdp)."""
    system = system or tiny.build()
    config = tiny.config(**{f"optim__{k}": v for k, v in optim_changes.items()})
    mesh = sharding.make_mesh(*devices)
    with jax.set_mesh(mesh):
        variables = jax.eval_shape(system.init, KEY)
        tx = optim.build(config.optim, 20, variables["params"], system.param_rules)
        make = functools.partial(state_lib.create, optimizer=tx, ema=ema > 0)
        shardings = sharding.of_state(mesh, jax.eval_shape(make, variables))
        state = jax.jit(lambda k: make(system.init(k)), out_shardings=shardings)(KEY)
        step = step_lib.compile_step(system, tx, mesh, shardings, parts=parts, ema=ema)
        losses = []
        for i in range(steps):
            batch = jax.device_put(batch_of(size, i * size), sharding.batch(mesh))
            state, metrics = step(state, batch, KEY)
            losses.append(metrics["loss"])
        return jax.device_get(state), np.array(losses), jax.device_get(metrics)


def assert_close(a, b, rtol):
    """Relative Frobenius distance of every leaf."""
    for path, x in state_lib.flat(a).items():
        y = state_lib.flat(b)[path]
        distance = np.linalg.norm(np.asarray(x) - y) / max(np.linalg.norm(y), 1e-12)
        assert distance <= rtol, (path, distance)


@functools.cache
def reference_run(name):
    return train(20, name=name)


def test_the_loss_falls():
    _, losses, metrics = reference_run("adamw")
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()
    assert set(metrics) == {"accuracy", "loss", "grad_norm", "lr", "bad_run", "bad_total"}


@pytest.mark.parametrize("devices", [(8, 1), (4, 2), (1, 8)])
def test_twenty_adamw_losses_do_not_depend_on_the_mesh(devices):
    _, losses, _ = train(20, devices=devices, name="adamw")
    np.testing.assert_allclose(losses, reference_run("adamw")[1], rtol=1e-4)


@pytest.mark.parametrize("devices", [(8, 1), (2, 4)])
def test_parameters_after_twenty_sgd_steps_do_not_depend_on_the_mesh(devices):
    state, _, _ = train(20, devices=devices, name="sgd")
    assert_close(state.params, reference_run("sgd")[0].params, 1e-5)


def test_first_gradients_do_not_depend_on_the_mesh():
    system = tiny.build()
    variables = system.init(KEY)
    stats = {"stats": variables["stats"]}

    @jax.jit
    def grads(params, batch):
        return step_lib.gradients(system, params, stats, batch, KEY)[3]

    mesh = sharding.make_mesh(8, 1)
    one = grads(variables["params"], batch_of(16))
    spread = jax.device_put(batch_of(16), sharding.batch(mesh))
    many = grads(jax.device_put(variables["params"], sharding.replicated(mesh)), spread)
    assert_close(many, one, 1e-5)


def test_fsdp_splits_large_parameters_and_their_moments():
    mesh = sharding.make_mesh(4, 2)
    shapes = {"a": jnp.zeros((6, 8)), "b": jnp.zeros((3,)), "c": jnp.zeros(())}
    found = jax.tree.map(lambda s: tuple(s.spec), sharding.of_state(mesh, shapes))
    assert found == {"a": (None, "fsdp"), "b": (), "c": ()}


def test_accumulation_equals_the_large_batch():
    big, losses, _ = train(3, name="sgd", clip=0.0)
    parts, pieces, _ = train(3, name="sgd", clip=0.0, parts=4)
    np.testing.assert_allclose(pieces, losses, rtol=1e-5)
    assert_close(parts.params, big.params, 1e-5)


def test_accumulation_moves_no_example_between_devices():
    mesh = sharding.make_mesh(8, 1)
    split = jax.jit(
        lambda x: step_lib.split_batch({"x": x}, 4, mesh)["x"], in_shardings=sharding.batch(mesh)
    )
    text = split.lower(jnp.zeros((32, 3))).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "permute" not in text


def test_accumulation_on_eight_devices_equals_one():
    spread, losses, _ = train(3, name="sgd", devices=(8, 1), parts=2)
    one, expected, _ = train(3, name="sgd", parts=2)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_close(spread.params, one.params, 1e-5)


def test_a_non_finite_update_is_skipped_and_counted():
    # Example 20 is poisonous: with batches of 16, steps 2, 8, 14, ... hold it.
    system = tiny.build(poison=20, poisons=tiny.EXAMPLES)
    before, _, _ = train(1, system=system)
    after, losses, metrics = train(2, system=system)
    assert np.isnan(losses[1]) and metrics["bad_run"] == 1 and metrics["bad_total"] == 1
    assert after.step == 2
    for part in ("params", "opt_state", "collections"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(before, part))
    again, _, metrics = train(3, system=system)
    assert metrics["bad_run"] == 0 and metrics["bad_total"] == 1
    assert not np.array_equal(again.params["head"]["kernel"], after.params["head"]["kernel"])


def test_the_guard_stops_after_k_in_a_row():
    guard = step_lib.NonFiniteGuard(2)
    for step, run in enumerate([1, 0, 1], start=1):
        guard.push(step, {"bad_run": run, "loss": 1.0, "grad_norm": 1.0})
    guard.push(4, {"bad_run": 2, "loss": np.nan, "grad_norm": np.inf})
    guard.push(5, {"bad_run": 3, "loss": np.nan, "grad_norm": np.inf})
    with pytest.raises(FloatingPointError, match=r"step 4: 2 updates in a row.*max_bad_steps=2"):
        guard.flush()


def test_averaged_parameters_follow_the_parameters():
    state, _, _ = train(1, ema=0.75)
    start = tiny.build().init(KEY)["params"]["head"]["kernel"]
    expected = 0.1 * start + 0.9 * state.params["head"]["kernel"]  # the first step of the ramp
    np.testing.assert_allclose(state.ema["head"]["kernel"], expected, rtol=1e-5)
    assert state.variables()["params"] is state.ema


def test_averages_forget_the_first_parameters_and_reach_their_decay():
    decays = np.asarray([step_lib.ema_decay(0.999, t) for t in range(1500)])
    assert decays[0] == np.float32(0.1) and np.all(np.diff(decays) >= 0)
    assert np.prod(decays) < 1e-9 < 0.999**1500  # what is left of the first parameters
    assert step_lib.ema_decay(0.999, 10_000) == np.float32(0.999)


def test_project_params_holds_after_every_update():
    state, _, _ = train(3, lr=5.0)
    assert 0.5 <= state.params["scale"] <= 1.5


def test_uneven_batches_and_meshes_are_refused():
    mesh = sharding.make_mesh(4, 2)
    with pytest.raises(ValueError, match="train.batch_size: 12 is no multiple of 8"):
        sharding.check_batch(mesh, 12, 1)
    with pytest.raises(ValueError, match="mesh.fsdp: 8 devices"):
        sharding.make_mesh(-1, 3)
    with pytest.raises(ValueError, match="needs 16 devices; found 8"):
        sharding.make_mesh(8, 2)
