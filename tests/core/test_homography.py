"""Pictures of a plane: against homographies point by point, and a texture that both cameras really see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import cameras, homography

HEIGHT, WIDTH = 40, 56
SOURCE_HEIGHT, SOURCE_WIDTH = 48, 64
K = np.array([[50.0, 1.5, 27.0], [0, 55.0, 21.0], [0, 0, 1]])
SOURCE_K = np.array([[60.0, 0, 33.0], [0, 58.0, 23.0], [0, 0, 1]])
NORMAL, OFFSET = np.array([0.2, -0.1, 1.1]), 3.3  # tilted, its normal not of unit length
PLANE = np.append(NORMAL, -OFFSET)

_warp = jax.jit(homography.warp, static_argnames=("height", "width"))
_places = jax.jit(homography.places, static_argnames=("height", "width"))


def _looking(eye):
    return np.asarray(
        cameras.look_at(np.array(eye), np.array([0.1, 0.0, 3.0]), np.array([0, -1.0, 0]))
    )


VIEW, SOURCE = _looking([0.5, -0.2, 0.1]), _looking([-0.3, 0.1, -0.2])


def _hit(viewmat, matrix, x, y):
    """The point of the plane that a pixel shows."""
    c2w = np.linalg.inv(viewmat.astype(np.float64))
    ray = c2w[:3, :3] @ np.linalg.inv(matrix) @ np.array([x, y, 1.0])
    along = (OFFSET - NORMAL @ c2w[:3, 3]) / (NORMAL @ ray)
    return c2w[:3, 3] + along * ray


def _texture(point):
    x, y = point[0], point[1]
    return 0.5 + 0.3 * np.array([np.sin(3 * x), np.cos(2 * y), np.sin(2 * x + y)])


def _seen(viewmat, matrix, height, width):
    return np.array(
        [
            [_texture(_hit(viewmat, matrix, x + 0.5, y + 0.5)) for x in range(width)]
            for y in range(height)
        ]
    )


def _args(source=SOURCE):
    floats = lambda *arrays: [jnp.asarray(a, jnp.float32) for a in arrays]  # noqa: E731
    return floats(PLANE, VIEW, K, source, SOURCE_K)


def test_places_are_those_of_the_homography_and_of_the_points_themselves():
    xy, ahead = _places(*_args(), height=HEIGHT, width=WIDTH)
    assert ahead.all()
    c2w = np.linalg.inv(VIEW.astype(np.float64))
    move = SOURCE @ c2w
    plane = PLANE @ c2w
    H = SOURCE_K @ (move[:3, :3] + np.outer(move[:3, 3], plane[:3]) / -plane[3]) @ np.linalg.inv(K)
    for row, column in [(0, 0), (39, 55), (17, 3), (30, 40)]:
        pixel = np.array([column + 0.5, row + 0.5, 1.0])
        mapped = H @ pixel
        point = _hit(VIEW, K, *pixel[:2])
        projected = SOURCE_K @ (SOURCE[:3, :3] @ point + SOURCE[:3, 3])
        np.testing.assert_allclose(xy[row, column], mapped[:2] / mapped[2], atol=1e-3)
        np.testing.assert_allclose(xy[row, column], projected[:2] / projected[2], atol=1e-3)


def test_a_textured_plane_looks_as_the_other_camera_sees_it():
    source = _seen(SOURCE, SOURCE_K, SOURCE_HEIGHT, SOURCE_WIDTH)
    found, inside = _warp(jnp.asarray(source, jnp.float32), *_args(), height=HEIGHT, width=WIDTH)
    expected = _seen(VIEW, K, HEIGHT, WIDTH)
    assert 0.5 < inside.mean() < 1.0
    # The outer half of border pixels repeats their centre.
    xy, _ = _places(*_args(), height=HEIGHT, width=WIDTH)
    within = ((xy >= 0.5) & (xy <= jnp.asarray([SOURCE_WIDTH, SOURCE_HEIGHT]) - 0.5)).all(-1)
    assert not np.any(within & ~inside)
    errors = np.abs(found - expected)[np.asarray(within)]
    assert errors.max() < 2e-3  # of bilinear lookup: second derivative times pixel^2 / 8, both axes
    # A plane a tenth farther is visibly wrong.
    wrong = _args()
    wrong[0] = wrong[0].at[3].multiply(1.1)
    other, _ = _warp(jnp.asarray(source, jnp.float32), *wrong, height=HEIGHT, width=WIDTH)
    assert np.abs(other - expected)[np.asarray(within)].mean() > 5 * errors.mean()


def test_samples_are_bilinear_and_repeat_the_border():
    picture = jnp.arange(6.0).reshape(2, 3, 1)
    xy = jnp.asarray([[[0.5, 0.5], [2.5, 1.5], [1.0, 1.0], [-4.0, 0.5], [2.5, 9.0], [3.0, 2.0]]])
    found, inside = homography.sample(picture, xy)
    np.testing.assert_allclose(found[0, :, 0], [0, 5, 2, 0, 5, 5])
    assert inside[0].tolist() == [True, True, True, False, False, True]


def test_the_view_itself_is_left_as_it_is_at_any_depth_and_over_a_batch():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(2, HEIGHT, WIDTH, 3)), jnp.float32)
    viewmats = jnp.asarray(np.stack([VIEW, SOURCE]), jnp.float32)
    Ks = jnp.asarray(np.stack([K, K]), jnp.float32)
    planes = homography.facing(viewmats, jnp.asarray([0.5, 20.0]))
    found, inside = _warp(
        images, planes, viewmats, Ks, viewmats, Ks, height=HEIGHT, width=WIDTH
    )  # fmt: skip
    np.testing.assert_allclose(found, images, atol=2e-4)
    assert inside[:, 1:-1, 1:-1].all()


def test_facing_planes_are_at_their_depth():
    plane = np.asarray(homography.facing(jnp.asarray(VIEW, jnp.float32), 2.5))
    c2w = np.linalg.inv(VIEW)
    for x, y in [(0, 0), (1.3, -0.4)]:
        assert plane @ c2w @ np.array([x, y, 2.5, 1]) == pytest.approx(0, abs=1e-5)


def test_a_plane_behind_a_camera_is_not_seen():
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 4, 3)), jnp.float32)
    turned = VIEW * np.array([-1, 1, -1, 1])[:, None]  # looks the other way from the same place
    found, inside = _warp(images, *_args(turned), height=6, width=5)
    assert not inside.any()
    np.testing.assert_allclose(found, jnp.broadcast_to(images.mean((0, 1)), (6, 5, 3)), atol=1e-6)
