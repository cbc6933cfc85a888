"""Small motions of cameras, affine colours, first Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import rotations
from gsjax.systems.scene_fit import adjust, start
from tests.systems.scene_fit import scenes


def test_no_offset_changes_nothing():
    views = scenes.views(0)
    zeros = adjust.zeros(6)
    np.testing.assert_allclose(
        adjust.moved(views.viewmats, zeros["pose"]), views.viewmats, atol=1e-6
    )
    image = jax.random.uniform(jax.random.key(0), (6, 4, 4, 3))
    np.testing.assert_allclose(adjust.exposed(image, zeros["exposure"]), image, atol=1e-7)


def test_a_camera_moves_in_its_own_axes():
    viewmat = np.array(scenes.views(0).viewmats[1])
    turn = np.asarray(
        rotations.quat_to_rotmat(rotations.rotvec_to_quat(jnp.array([0.1, -0.2, 0.3])))
    )
    pose = np.concatenate([[0.5, -0.4, 0.3], turn[:, 0] - [1, 0, 0], turn[:, 1] - [0, 1, 0]])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = turn, pose[:3]
    expected = np.linalg.inv(np.linalg.inv(viewmat) @ motion)
    np.testing.assert_allclose(adjust.moved(viewmat, jnp.asarray(pose)), expected, atol=2e-6)


def test_exposure_is_affine_in_colour():
    offset = jnp.zeros((1, 3, 4)).at[0, 0, 1].set(0.5).at[0, 2, 3].set(-0.1)
    image = jnp.array([[[[0.2, 0.4, 0.6]]]])
    np.testing.assert_allclose(adjust.exposed(image, offset)[0, 0, 0], [0.4, 0.4, 0.5], atol=1e-6)


def test_distance_to_neighbors_by_hand():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    found = start.neighbor_distance(points)
    assert found[0] == pytest.approx(np.sqrt((1 + 4 + 9) / 3))


@pytest.mark.parametrize("count", [5, 40])
def test_points_become_the_number_of_gaussians_asked_for(count):
    points, rgb = scenes.ball(0, count)
    params, alive = start.from_points(points, rgb, 32, sh_degree=2, opacity=0.1, scale=1.0, used=20)
    assert alive.sum() == 20 and params["shN"].shape == (32, 8, 3)
    near = np.linalg.norm(params["means"][:20, None] - points, axis=-1).min(1)
    assert near.max() < (1e-6 if count > 20 else 2.0)
    assert len(np.unique(params["means"][:20], axis=0)) == 20


def test_points_that_are_not_finite_are_refused():
    points, rgb = scenes.ball(0)
    points[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        start.from_points(points, rgb, 32, sh_degree=0, opacity=0.1, scale=1.0)


def test_frustum_points_lie_behind_the_pixel_of_their_colour():
    views = scenes.views(0, alpha=False)
    points, rgb = start.frustum_points(views.viewmats, views.Ks, views.images, 200)
    hits = np.zeros(200, bool)
    for viewmat, K, image in zip(views.viewmats, views.Ks, views.images, strict=True):
        camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
        pixel = camera @ K.T
        place = np.floor(pixel[:, :2] / pixel[:, 2:] + 1e-4).astype(int)
        inside = (camera[:, 2] > 0) & (place >= 0).all(1) & (place < scenes.SIZE).all(1)
        shown = image[place[inside, 1], place[inside, 0]] / 255
        hits[inside] |= np.abs(shown - rgb[inside]).max(-1) < 1e-6
    assert hits.all()
