"""Objects that move: against one transform an object, and derivatives by poses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import gaussians, objects, rotations

NUM, OBJECTS = 12, 3

_move = jax.jit(objects.move_objects)
_transform = jax.jit(lambda g, pose: gaussians.transform(g, 1.0, pose[:3, :3], pose[:3, 3]))


def _scene(dtype=np.float32, leading=()):
    rng = np.random.default_rng(1)
    raw = gaussians.RawGaussians(
        means=rng.normal(size=(*leading, NUM, 3)),
        quats=rng.normal(size=(*leading, NUM, 4)),
        log_scales=rng.normal(size=(*leading, NUM, 3)),
        logit_opacities=rng.normal(size=(*leading, NUM)),
        sh=rng.normal(size=(*leading, NUM, 9, 3)),
    )
    ids = rng.permuted(np.broadcast_to(np.arange(NUM) % 5 - 1, (*leading, NUM)), axis=-1)
    turns, shifts = rng.normal(size=(2, *leading, OBJECTS, 3))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), raw), ids, turns, shifts


@jax.jit
def _poses(turns, shifts):
    rotmats = rotations.quat_to_rotmat(rotations.rotvec_to_quat(jnp.asarray(turns)))
    top = jnp.concatenate([rotmats, jnp.asarray(shifts)[..., None]], -1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0, 0, 1]), (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, bottom], -2)


def test_each_object_moves_as_a_scene_of_its_own():
    raw, ids, turns, shifts = _scene()
    poses = _poses(turns, shifts)
    for g in (raw, raw.activate()):
        found = _move(g, ids, poses)
        for index in range(-1, OBJECTS + 1):
            part = jax.tree.map(lambda x: np.asarray(x)[ids == index], g)  # noqa: B023
            if 0 <= index < OBJECTS:
                part = _transform(part, poses[index])
            for field in dataclasses.fields(part):
                moved, expected = (getattr(x, field.name) for x in (found, part))
                moved = np.asarray(moved)[ids == index]
                if field.name == "quats":
                    expected = rotations.quat_normalize(expected)
                np.testing.assert_allclose(moved, expected, atol=2e-6, err_msg=field.name)


def test_scenes_have_objects_of_their_own():
    raw, ids, turns, shifts = _scene(leading=(2,))
    poses = _poses(turns, shifts)
    found = _move(raw, ids, poses)
    for i in range(2):
        one = jax.tree.map(lambda x: x[i], raw)  # noqa: B023
        expected = _move(one, ids[i], poses[i])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[i], b, atol=1e-6),  # noqa: B023
            found,
            expected,
        )


def test_gradients_by_poses_equal_finite_differences():
    with jax.enable_x64(True):
        raw, ids, turns, shifts = _scene(np.float64)
        rng = np.random.default_rng(1)
        weights = jax.tree.map(lambda x: rng.normal(size=x.shape), raw)

        @jax.jit
        def loss(turns, shifts, raw):
            moved = objects.move_objects(raw, ids, _poses(turns, shifts))
            return sum(jax.tree.leaves(jax.tree.map(lambda a, w: jnp.sum(a * w), moved, weights)))

        args = (turns, shifts, raw)
        grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)
        for i, grad in enumerate(grads):
            step = jax.tree.map(lambda x: 1e-6 * rng.normal(size=x.shape), args[i])
            ends = []
            for sign in (1, -1):
                moved = jax.tree.map(lambda x, s: x + sign * s, args[i], step)  # noqa: B023
                ends.append(float(loss(*args[:i], moved, *args[i + 1 :])))
            slope = sum(np.sum(g * s) for g, s in zip(*map(jax.tree.leaves, (grad, step))))
            np.testing.assert_allclose((ends[0] - ends[1]) / 2, slope, rtol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(ids=np.zeros(NUM)), "object_ids: found float.*integers"),
        (dict(ids=np.zeros(NUM - 1, int)), r"object_ids: .*\[11\].*\[12\]"),
        (dict(poses=np.eye(4)), "object_poses: .*O, 4, 4"),
        (dict(poses=np.zeros((OBJECTS, 3, 4))), "object_poses: .*whole matrices"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    raw, ids, turns, shifts = _scene()
    args = dict(ids=ids, poses=_poses(turns, shifts)) | change
    with pytest.raises(ValueError, match=message):
        objects.move_objects(raw, args["ids"], args["poses"])
