"""Epipolar lines run through what the other camera sees, whatever its depth."""

import dataclasses

import numpy as np
import pytest

from gsjax.data import epipolar
from tests.data import scene_cases


def _pair():
    scene = scene_cases.WallScene(height=40, width=60)
    scene.K = np.array([[50.0, 0.5, 29.2], [0, 45.0, 21.3], [0, 0, 1]])
    one, two = scene.view(3), scene.view(15)
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(0.1), 0, np.sin(0.1)], [0, 1, 0], [-np.sin(0.1), 0, np.cos(0.1)]]
    turn[:3, 3] = [0.1, 0.05, -0.2]
    return one, dataclasses.replace(two, viewmat=turn @ two.viewmat)


def _pixel(view, point):
    pixel = view.K @ (view.viewmat @ [*point, 1])[:3]
    return pixel / pixel[2]


@pytest.mark.parametrize("depth", [1.0, 4.0, 30.0])
def test_points_lie_on_their_lines(depth):
    one, two = _pair()
    matrix = epipolar.fundamental(one, two)
    point = np.array([0.2 * depth, depth, -0.1 * depth])
    line = matrix @ _pixel(one, point)
    assert abs(line @ _pixel(two, point)) / np.linalg.norm(line[:2]) < 1e-9
    # Poses taken for their inverses do not fit, which is what the picture is for.
    wrong = [dataclasses.replace(v, viewmat=np.linalg.inv(v.viewmat)) for v in (one, two)]
    line = epipolar.fundamental(*wrong) @ _pixel(one, point)
    assert abs(line @ _pixel(two, point)) / np.linalg.norm(line[:2]) > 0.5


def test_pictures_show_dots_and_lines():
    one, two = (dataclasses.replace(v, image=np.zeros_like(v.image)) for v in _pair())
    point = np.array([-0.5, 4.0, 0.2])
    sheet = epipolar.draw(one, two, pixels=_pixel(one, point)[None, :2])
    assert sheet.shape == (40, 120, 3)
    u, v = _pixel(two, point)[:2].astype(int)
    assert sheet[v - 1 : v + 2, 60 + u - 1 : 60 + u + 2, 0].max() == 255
    assert sheet[:, :60, 0].max() == 255 and (sheet[..., 1:] == 0).all()
    assert epipolar.draw(*_pair(), count=9).shape == (40, 120, 3)


def test_cameras_in_one_place_have_no_lines():
    one, _ = _pair()
    with pytest.raises(ValueError, match="both cameras are in one place"):
        epipolar.draw(one, one)


def test_lines_are_cut_to_the_picture():
    np.testing.assert_allclose(epipolar.line_ends([0, 1, -5], 10, 20), [[0, 5], [20, 5]])
    np.testing.assert_allclose(epipolar.line_ends([1, 0, -5], 10, 20), [[5, 0], [5, 10]])
    assert epipolar.line_ends([0, 1, -11], 10, 20) is None


def test_dots_sit_on_corners():
    image = np.zeros((40, 40, 3), np.uint8)
    image[12:, 17:] = 200
    (found,) = epipolar.textured_pixels(image, 1)
    assert np.abs(found - [17, 12]).max() <= 3
    assert len(epipolar.textured_pixels(image, 9)) == 9
