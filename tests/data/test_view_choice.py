"""Choosing views and depths: by hand on small sets of cameras."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gsjax.data import view_choice
from gsjax.io.posed import PosedImages


def _images(centers, degrees=None, points=None, focal=100.0):
    """Photographs of 100 x 80 pixels; ``degrees`` turn them to the right from looking along +z."""
    centers = np.asarray(centers, float)
    degrees = np.zeros(len(centers)) if degrees is None else np.asarray(degrees, float)
    viewmats = np.tile(np.eye(4), (len(centers), 1, 1))
    for viewmat, center, angle in zip(viewmats, centers, np.deg2rad(degrees)):
        c, s = np.cos(angle), np.sin(angle)
        viewmat[:3, :3] = [[c, 0, -s], [0, 1, 0], [s, 0, c]]
        viewmat[:3, 3] = -viewmat[:3, :3] @ center
    names = tuple(f"{i:02d}.png" for i in range(len(centers)))
    K = np.array([[focal, 0, 50], [0, focal, 40], [0, 0, 1.0]])
    return PosedImages(
        names, tuple(Path("/scene/images") / n for n in names), viewmats,
        np.tile(K, (len(centers), 1, 1)), np.full(len(centers), 100), np.full(len(centers), 80),
        points=points,
    )  # fmt: skip


def _wall(depth, half=30.0):
    """Points on a plane z = depth, closer than any photograph's pixels."""
    u, v = np.meshgrid(np.linspace(-half, half, 61), np.linspace(-2, 2, 9))
    return np.stack((u.ravel(), v.ravel(), np.full(u.size, depth)), -1)


def test_views_lie_as_far_apart_as_they_may():
    # At depth 10 a picture shows 10 units of the wall: 60 % in common is a shift of 4.
    images = _images([[i, 0, 0] for i in range(12)], points=_wall(10.0))
    first, second = view_choice.choose(images, 2)
    assert second - first == 4
    chosen = view_choice.choose(images, 3)
    assert len(chosen) == 3 and np.diff(chosen).min() >= 3 and np.diff(chosen).max() <= 4
    shares = view_choice.in_common(images, 1.0).shares
    assert shares[0, 5] == pytest.approx(0.5, abs=0.06) and (np.diag(shares) == 1).all()


def test_probes_stand_in_for_points():
    images = _images([[i, 0, 0] for i in range(12)])
    # Parallel views meet nowhere: ten times the spacing.
    assert view_choice.probe_depth(images) == pytest.approx(10.0)
    first, second = view_choice.choose(images, 2)
    assert 3 <= second - first <= 4
    # Bounds that are given: near 2 and far 6 stand around 3.
    assert view_choice.probe_depth(images, 2.0, 6.0) == pytest.approx(3.0)
    first, second = view_choice.choose(images, 2, near=2.0, far=6.0)
    assert second - first == 1


def test_opposite_views_of_one_thing_have_nothing_in_common():
    angles = np.arange(0, 360, 20.0)
    centers = -5 * np.stack(
        (np.sin(np.deg2rad(angles)), 0 * angles, np.cos(np.deg2rad(angles))), -1
    )
    points = np.random.default_rng(0).uniform(-1, 1, (200, 3))
    images = _images(centers, angles, points)
    first, second = view_choice.choose(images, 2)
    turn = abs(angles[first] - angles[second])
    assert min(turn, 360 - turn) == 40
    # Their lines of view meet, five units away.
    assert view_choice.probe_depth(_images(centers, angles)) == pytest.approx(5.0)


def test_bounds_from_points():
    rng = np.random.default_rng(1)
    depths = rng.uniform(4, 8, 2000)
    points = np.stack(
        (depths * rng.uniform(-0.3, 0.3, 2000), depths * rng.uniform(-0.3, 0.3, 2000), depths), -1
    )
    outliers = np.array([[0, 0, -5.0], [0, 0, 1e-3], [1e5, 0, 5.0]])
    images = _images([[0, 0, 0], [0.5, 0, 0]], points=np.concatenate((points, outliers)))
    near, far, how = view_choice.bounds(images)
    assert near == pytest.approx(0.8 * 4.04, rel=0.02) and far == pytest.approx(
        1.25 * 7.96, rel=0.02
    )
    assert "sparse points" in how


def test_bounds_from_the_baseline():
    # A point at the nearest depth moves by half of the picture's 100 pixels; f = 1.25 heights.
    images = _images([[0, 0, 0], [0.5, 0, 0], [2.0, 0, 0]])
    near, far, how = view_choice.bounds(images)
    assert near == pytest.approx(1.25 * 0.5 / 0.5) and far == pytest.approx(100 * near)
    assert "0.5" in how
    # Too few points are none.
    few = dataclasses.replace(images, points=np.array([[0, 0, 3.0]]))
    assert view_choice.bounds(few) == (near, far, how)
    # Views that meet 5 away: that place lies well within.
    images = _images([[-2.0, 0, -5], [2.0, 0, -5]], np.rad2deg([np.arctan(0.4), -np.arctan(0.4)]))
    near, far, how = view_choice.bounds(images)
    assert near <= 5.4 / 3 and far >= 15 and "meet" in how


def test_bounds_that_are_given_win():
    estimate = view_choice.Bounds(1.0, 10.0, "from somewhere")
    assert view_choice.given(estimate, 2.0, None)[:2] == (2.0, 10.0)
    assert view_choice.given(None, 2.0, 3.0) == (2.0, 3.0, "given")
    with pytest.raises(ValueError, match="0 < near < far.* 20 and 10 .*from somewhere.*give both"):
        view_choice.given(estimate, 20.0, None)


def test_views_that_cannot_be_matched_are_refused():
    with pytest.raises(ValueError, match="2 views are wanted, found 1.*at least two"):
        view_choice.choose(_images([[0, 0, 0]]), 2)
    with pytest.raises(ValueError, match="at least 2 posed views, found 1"):
        view_choice.check(_images([[0, 0, 0]]))
    still = _images([[1, 2, 3]] * 4, [0, 5, 10, 15], _wall(10.0))
    with pytest.raises(ValueError, match="zero baseline"):
        view_choice.choose(still, 2)
    with pytest.raises(ValueError, match="'00.png' and '0.*zero baseline"):
        view_choice.check(still)
    with pytest.raises(ValueError, match="zero baseline"):
        view_choice.bounds(dataclasses.replace(still, points=None))
    away = _images([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [0, 120, 240])
    with pytest.raises(ValueError, match="no overlap"):
        view_choice.choose(away, 2)
    with pytest.raises(ValueError, match="'00.png', '01.png', '02.png'.*no overlap"):
        view_choice.check(away)
    # Two and two that see one another only within the pairs: no third one fits.
    pairs = _images([[0, 0, 0], [1, 0, 0], [90, 0, 0], [91, 0, 0]], points=None)
    with pytest.raises(ValueError, match="only 2 of 4 see the same"):
        view_choice.choose(pairs, 3)


def test_photographs_by_name():
    images = _images([[i, 0, 0] for i in range(3)])
    assert view_choice.indices_of(images, ["02.png", "images/00.png"]) == [2, 0]
    assert view_choice.indices_of(images, ["/scene/images/01.png"]) == [1]
    for wanted, said in (("0.png", "names 0 of the 3"), ("3.png", "expected one")):
        with pytest.raises(ValueError, match=said):
            view_choice.indices_of(images, [wanted])
    with pytest.raises(ValueError, match="twice"):
        view_choice.indices_of(images, ["01.png", "images/01.png"])
