"""Teachers by their settings; PM-Loss of a batch, example by example and on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.data import pointmaps
from gsjax.systems.pm_loss import losses, teacher
from gsjax.train import sharding
from tests.systems.pm_loss import tiny

OPTIONS = losses.Options(min_points=8)


def _batch(count=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 2, 3, 4, 3)) + [0, 0, 3]
    points = 0.4 * centres[..., [2, 0, 1]] + 0.05 * rng.normal(size=centres.shape) + 1
    conf = rng.uniform(1, 2, centres.shape[:-1])
    conf[1, 0, 0, :2] = 0
    points[1, 0, 0, :2] = 0
    conf[2] = 0
    points[2] = 0
    batch = dict(
        pointmaps=points, pointmap_conf=conf, valid=np.arange(count) != 3,
        index=np.arange(count),
    )  # fmt: skip
    return jnp.asarray(centres, jnp.float32), jax.tree.map(jnp.asarray, batch)


def test_the_term_is_the_loss_of_each_example_without_its_unknown_points():
    centres, batch = _batch()
    found, metrics = jax.jit(lambda c, b: teacher.term(OPTIONS, c, b))(centres, batch)
    expected = []
    for i in range(2):
        flat = (x[i].reshape(1, -1, 3) for x in (centres, batch["pointmaps"]))
        mean, point = (np.array(x) for x in flat)
        point[0, np.asarray(batch["pointmap_conf"][i]).ravel() == 0] = np.nan
        expected.append(float(losses.pm_loss(jnp.asarray(mean), jnp.asarray(point), OPTIONS)[0][0]))
    np.testing.assert_allclose(found[:2], expected, rtol=1e-5)
    assert min(expected) > 1e-4
    np.testing.assert_array_equal(found[2:], 0.0)  # nothing known; padding
    np.testing.assert_allclose(metrics["pm_raw"], np.mean(expected), rtol=1e-5)
    assert float(metrics["pm_dropped"]) == 1  # padding is not counted
    np.testing.assert_allclose(metrics["pm_scale"], 1 / 0.4, rtol=0.1)


@pytest.mark.slow
def test_on_two_devices_it_is_the_same():
    centres, batch = _batch()

    def value(centres, batch):
        loss, metrics = teacher.term(OPTIONS, centres, batch)
        return jnp.sum(loss), metrics

    function = jax.value_and_grad(value, has_aux=True)
    (expected, metrics), slope = jax.jit(function)(centres, batch)
    mesh = sharding.make_mesh(2)
    with jax.set_mesh(mesh):
        spread = jax.device_put((centres, batch), sharding.batch(mesh))
        (found, same), grads = jax.jit(function)(*spread)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(grads, slope, atol=1e-7)
    for name in metrics:
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-6)


def test_teachers_by_name():
    def build(**settings):
        named = {f"data__teacher__{name}": value for name, value in settings.items()}
        return teacher.build(tiny.config(**named).data)

    assert build(kind="none") is None
    assert type(build(kind="depth")) is pointmaps.DepthTeacher
    assert type(build(kind="flawed", white=0.1)) is pointmaps.FlawedTeacher
    with pytest.raises(ValueError, match="data.teacher.kind: unknown 'vggt'; known: none, depth"):
        build(kind="vggt")
    with pytest.raises(ValueError, match="data.teacher.cache"):
        build(kind="cache")
    with pytest.raises(ValueError, match="Flaws.white"):
        build(kind="flawed", white=-1.0)
