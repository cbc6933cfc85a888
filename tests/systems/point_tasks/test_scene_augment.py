"""Random changes of scenes: what they keep, and that each can be switched off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.systems.point_tasks import scene_augment

OFF = dict(turn=0.0, flip=0.0, scale=(1.0, 1.0), jitter=0.0, shift_colour=0.0, jitter_colour=0.0)

_augment = jax.jit(scene_augment.augment, static_argnums=4)


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(6, 40, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    arrays = rng.normal(size=(6, 40, 3)), rng.uniform(0.3, 0.7, (6, 40, 3)), normal
    return jax.random.split(jax.random.key(1), 6), *(jnp.asarray(x, jnp.float32) for x in arrays)


def _run(clouds, **changes):
    options = scene_augment.Options(**{**OFF, **changes}).check()
    return [np.asarray(x) for x in _augment(*clouds, options)]


def test_with_everything_off_nothing_changes(clouds):
    for made, given in zip(_run(clouds), clouds[1:], strict=True):
        np.testing.assert_allclose(made, given, atol=1e-6)


def test_turns_are_about_z_and_take_the_normals_along(clouds):
    _, xyz, rgb, normal = (np.asarray(x) if i else x for i, x in enumerate(clouds))
    turned, colours, turned_normal = _run(clouds, turn=1.0)
    np.testing.assert_allclose(turned[..., 2], xyz[..., 2], atol=1e-6)
    for one, two, given, given_normal in zip(turned, turned_normal, xyz, normal, strict=True):
        matrix = np.linalg.lstsq(given, one, rcond=None)[0]
        assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(given_normal @ matrix, two, atol=1e-4)
    angles = np.arctan2(turned[:, 0, 1], turned[:, 0, 0]) - np.arctan2(xyz[:, 0, 1], xyz[:, 0, 0])
    assert np.ptp(np.mod(angles, 2 * np.pi)) > 1  # every cloud its own
    np.testing.assert_allclose(colours, rgb, atol=1e-6)


def test_mirrors_take_the_normals_along_and_leave_z(clouds):
    _, xyz, _, normal = clouds
    made, _, mirrored = _run(clouds, flip=1.0)
    sign = np.asarray([-1, -1, 1])
    np.testing.assert_allclose(made, xyz * sign, atol=1e-6)
    np.testing.assert_allclose(mirrored, normal * sign, atol=1e-6)
    some = np.sign(_run(clouds, flip=0.5)[0] / np.asarray(xyz))[:, 0, :2]
    assert {1.0, -1.0} == set(some.reshape(-1))


def test_scales_stay_in_their_range_and_leave_normals(clouds):
    _, xyz, _, normal = clouds
    made, _, kept = _run(clouds, scale=(0.9, 1.1))
    factors = (made / np.asarray(xyz)).reshape(6, -1)
    assert np.ptp(factors, axis=-1).max() < 1e-4 and np.ptp(factors[:, 0]) > 0.01
    assert 0.9 <= factors.min() and factors.max() <= 1.1
    np.testing.assert_allclose(kept, normal, atol=1e-6)


def test_colours_shift_by_cloud_and_jitter_by_point_within_bounds(clouds):
    _, xyz, rgb, _ = clouds
    shift = _run(clouds, shift_colour=0.2)[1] - np.asarray(rgb)
    assert np.ptp(shift, axis=1).max() < 1e-6 and 0.02 < np.abs(shift).max() <= 0.2
    made = _run(clouds, jitter_colour=0.3)
    assert np.ptp(made[1] - np.asarray(rgb), axis=1).min() > 0.1
    assert made[1].min() >= 0 and made[1].max() <= 1
    np.testing.assert_allclose(made[0], xyz, atol=1e-6)


def test_offsets_of_points_are_cut_off(clouds):
    moved = _run(clouds, jitter=0.01)[0] - np.asarray(clouds[1])
    assert 0.015 < np.abs(moved).max() <= 0.0401
    assert np.std(moved) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(scale=(1.2, 0.8)), "augment.scale: expected 0 < least <= greatest"),
        (dict(flip=1.5), "augment.flip: expected a probability, found 1.5"),
        (dict(jitter=-1.0), "augment.jitter: expected 0 or more"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        scene_augment.Options(**{**OFF, **changes}).check()
