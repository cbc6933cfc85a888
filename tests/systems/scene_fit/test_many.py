"""Many scenes at once give what each gives alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.systems.scene_fit import many
from tests.systems.scene_fit import scenes
from tests.systems.scene_fit.test_steps import RECIPE, advance


def _stacked(trees):
    return jax.tree.map(lambda *x: np.stack(x), *trees)


def _scenes(count):
    views = [scenes.views(seed) for seed in range(count)]
    keys = many.keys(0, np.arange(count))
    states = [scenes.first(RECIPE, seed, v)._replace(key=np.asarray(jax.random.key_data(keys[seed])))
              for seed, v in enumerate(views)]  # fmt: skip
    return views, states


@functools.cache
def _alone(chunks=5):
    results = []
    for views, state in zip(*_scenes(4), strict=True):
        for _ in range(chunks):
            state, _ = advance()(RECIPE, views, state, 40)
        results.append(jax.device_get(state))
    return _stacked(results)


@pytest.mark.slow
@pytest.mark.parametrize("mode, devices", [("map", 1), ("vmap", 2)])
def test_a_wave_equals_single_fits(mode, devices):
    if len(jax.devices()) < devices:
        pytest.skip(f"needs {devices} devices")
    views, states = _scenes(4)
    mesh = many.make_mesh(jax.devices()[:devices])
    state, _ = many.fit(RECIPE, _stacked(views), _stacked(jax.device_get(states)), mesh, mode)
    state, alone = jax.device_get(state), _alone()
    assert state.ok.all()
    for name, value in alone.params.items():
        found = state.params[name]
        if mode == "map":
            np.testing.assert_array_equal(found, value)
        else:  # sums in another order, and Adam divides small gradients by their own size
            assert value.size == 0 or np.median(np.abs(found - value)) < 1e-4


@pytest.mark.slow
def test_two_devices_stay_within_roundings_of_single_fits(record_property):
    """Another program, hence other last bits, which optimisation amplifies: held after 80 steps."""
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    views, states = _scenes(4)
    mesh, chunks = many.make_mesh(jax.devices()[:2]), 2
    views, state = (many.place(_stacked(jax.device_get(x)), mesh) for x in (views, states))
    for _ in range(chunks):
        state = many.place(many.advance(RECIPE, views, state, 40, mesh, "map")[0], mesh)
    for name, value in _alone(chunks).params.items():
        record_property(name, float(np.max(np.abs(state.params[name] - value), initial=0.0)))
        np.testing.assert_allclose(state.params[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_broken_scene_does_not_touch_the_others():
    views, states = _scenes(4)
    sh0 = states[1].params["sh0"].at[0].set(jnp.nan)
    states[1] = states[1]._replace(params=states[1].params | {"sh0": sh0})
    mesh = many.make_mesh(jax.devices()[:1])
    state, _ = many.fit(RECIPE, _stacked(views), _stacked(jax.device_get(states)), mesh, "map")
    state, alone = jax.device_get(state), _alone()
    assert list(state.ok) == [True, False, True, True]
    for place in (0, 2, 3):
        np.testing.assert_array_equal(state.params["means"][place], alone.params["means"][place])


def test_a_number_of_scenes_that_devices_do_not_divide_is_refused():
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    views, states = _scenes(3)
    mesh = many.make_mesh(jax.devices()[:2])
    with pytest.raises(ValueError, match="multiple of the 2 devices"):
        many.advance(RECIPE, _stacked(views), _stacked(jax.device_get(states)), 40, mesh, "map")
