"""The step that is counted is the one that runs; what a mesh changes in it."""

import jax
import jax.numpy as jnp
import pytest

from configs import clip_gs, common, cross_modal, pm_loss, unipre3d_object, unipre3d_scene
from gsjax.systems import base
from gsjax.train import sharding, single
from gsjax.train.scaling import flops, rows, steps
from tests.train import tiny

WIDTH = 512


@pytest.fixture(scope="module")
def found():
    """{(data, fsdp): row of the tiny system with 16 examples a device}."""
    return {shape: _row(*shape) for shape in ((1, 1), (8, 1), (2, 4))}


def _row(data, fsdp):
    config = common.base("tiny")
    config.train.batch_size = 16 * data * fsdp
    mesh = sharding.make_mesh(data, fsdp)
    step = steps.step_for(config, mesh, tiny.build(width=WIDTH))
    return rows.counted(step) | rows.compiled(step, data * fsdp)


def test_operations_grow_with_the_devices(found):
    alone, eight = found[1, 1], found[8, 1]
    assert eight["flops"]["tf32"] == 8 * alone["flops"]["tf32"]
    # forward, by weights and by the hidden layer (the input needs no gradient)
    forward = 16 * 2 * (3 * WIDTH + WIDTH * 8)
    assert alone["flops"]["tf32"] == 2 * forward + 16 * 2 * WIDTH * 8
    assert alone["parameters"] == 3 * WIDTH + WIDTH + WIDTH * 8 + 1 + 8


def test_gradients_are_summed_once_over_all_devices(found):
    assert found[1, 1]["collectives"] == {}
    sums = found[8, 1]["collectives"]["all-reduce"]
    # Every parameter's gradient; beside it what picks the labels' logits, loss, metrics and the mean.
    gradients = 4 * found[8, 1]["parameters"]
    assert gradients <= sums["bytes"] <= 1.05 * gradients
    assert sums["wire"] == 2 * 7 / 8 * sums["bytes"]
    assert sums["unknown"] == sums["wire_between_hosts"] == 0


def test_fsdp_cuts_the_memory_of_the_state(found):
    whole, shared = (found[shape]["memory"]["argument"] for shape in ((8, 1), (2, 4)))
    split = 4 * 3 * (3 * WIDTH + WIDTH + WIDTH * 8)  # parameters and two moments, float32
    assert whole - shared == pytest.approx(split * 3 / 4, rel=0.01)
    assert "all-gather" in found[2, 4]["collectives"]


def test_the_step_is_that_of_a_run():
    config = common.base("tiny")
    config.train.batch_size = 16
    start = single.start(tiny.build(), config, config.train.num_steps)
    batch = {
        name: jnp.zeros((16, *x.shape), x.dtype, device=sharding.batch(start.mesh))
        for name, x in tiny.SPEC.items()
    }
    with jax.set_mesh(start.mesh):
        expected = start.step.trace(start.state, batch, jax.random.key(1))
    found = steps.step_for(config, start.mesh, tiny.build())
    assert flops.count(found.traced.jaxpr) == flops.count(expected.jaxpr)
    inputs = ([(x.shape, x.dtype) for x in t.jaxpr.in_avals] for t in (found.traced, expected))
    assert next(inputs) == next(inputs)
    assert found.lowered.as_text().count("tf.aliasing_output") > 8  # the state is donated


SHAPES = {
    "clip_gs": (clip_gs, {"data.name": "shapes", "model.embed_dim": 32}),
    "unipre3d object": (unipre3d_object, {"data.name": "shapes"}),
    "unipre3d scene": (unipre3d_scene, {"data.name": "shapes"}),
    "cross_modal": (cross_modal, {"data.name": "shapes"}),
    "pm_loss": (pm_loss, {}),  # opens its rooms when first asked for an example
}


@pytest.mark.parametrize("name", SHAPES)
def test_systems_are_built_without_data(name, monkeypatch):
    monkeypatch.setenv("GSJAX_DATA", "/nonexistent")
    file, changes = SHAPES[name]
    config = file.get_config("quick")
    config.update_from_flattened_dict(changes)
    system = base.build(config)
    assert {"index", "valid"} <= set(system.batch_spec)
    if changes:
        with pytest.raises(ValueError, match="only their shapes"):
            system.train_data()


def test_a_width_is_asked_for_where_no_embeddings_tell():
    config = clip_gs.get_config("quick")
    config.data.name = "shapes"
    with pytest.raises(ValueError, match="model.embed_dim"):
        base.build(config)


def test_devices_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="choose a divisor"):
        steps.mesh_for(8, fsdp=3)
    with pytest.raises(ValueError, match="multiple"):
        steps.mesh_for(12)
    with pytest.raises(ValueError, match="no slice of v5e; choose one of 1, 4, 8"):
        steps.mesh_for(12, target="v5e")
    with pytest.raises(ValueError, match="target: unknown 'h200'"):
        steps.mesh_for(8, target="h200")
    config = common.base("tiny")
    config.train.batch_size = 4
    with pytest.raises(ValueError, match="train.batch_size"):
        steps.step_for(config, sharding.make_mesh(8), tiny.build())
