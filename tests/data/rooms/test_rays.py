"""Ray formulas against the solids' own signed functions and hand-computed hits."""

import numpy as np
import pytest

from gsjax.data.rooms import rays
from gsjax.data.shapes import csg, primitives

SOLIDS = {
    "box": primitives.Box((0.5, 0.3, 0.8)),
    "ellipsoid": primitives.Ellipsoid((0.6, 0.2, 0.9)),
    "capsule": primitives.Capsule(0.5, 0.3),
    "cylinder": primitives.cylinder(0.4, 0.9),
    "cone": primitives.cylinder(0.5, 0.8, 0),
    "frustum": primitives.cylinder(0.2, 0.6, 0.5),
    # A vessel: not convex, walls inside and outside.
    "bowl": primitives.Revolve(((0, 0), (0.5, 0), (0.7, 0.6), (0.6, 0.6), (0.42, 0.1), (0, 0.1))),
    # Given clockwise: its normals point outward all the same.
    "turned": primitives.Revolve(((0, 0), (0, 0.5), (0.3, 0.5), (0.6, 0))),
}


def _rays(rng, n):
    """From outside a ball of radius 1.3 through points near the solid."""
    start = rng.normal(size=(n, 3))
    start *= 2.5 / np.linalg.norm(start, axis=-1, keepdims=True)
    aim = rng.uniform(-0.9, 0.9, (n, 3))
    return start, (aim - start) * rng.uniform(0.2, 3.0, (n, 1))


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("placed", [False, True])
def test_hits_are_the_first_points_on_the_surface(name, placed):
    rng = np.random.default_rng(0)
    solid = SOLIDS[name]
    if placed:
        solid = primitives.Placed(
            solid, np.array([0.1, -0.2, 0.15]), csg.rotation(x=35, y=70, z=10)
        )
    origins, directions = _rays(rng, 400)
    t = rays.first_hits(solid, origins, directions)
    hit = np.isfinite(t)
    assert 40 < hit.sum() < 400
    points = origins[hit] + t[hit, None] * directions[hit]
    assert np.abs(solid.value(points)).max() < 1e-9
    # Nothing of the solid lies before the hit, or anywhere along a ray that misses.
    share = (np.arange(200) + 0.5) / 200
    reach = np.where(hit, t * (1 - 1e-6), 10 / np.linalg.norm(directions, axis=-1))
    along = origins[:, None] + (share * reach[:, None])[..., None] * directions[:, None]
    assert solid.value(along.reshape(-1, 3)).min() > -1e-9


@pytest.mark.parametrize("name", SOLIDS)
def test_normals_are_the_gradient_of_the_signed_function(name):
    rng = np.random.default_rng(1)
    solid = primitives.Placed(SOLIDS[name], np.array([0.3, 0, 0.1]), csg.rotation(x=20, z=130))
    points, expected = solid.sample(rng, 300)
    found = rays.normals(solid, points)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-9)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    step = 1e-6
    gradient = np.stack(
        [
            (solid.value(points + step * axis) - solid.value(points - step * axis)) / (2 * step)
            for axis in np.eye(3)
        ],
        axis=-1,
    )
    smooth = np.abs(np.linalg.norm(gradient, axis=-1) - 1) < 1e-3  # not at an edge
    assert smooth.mean() > 0.9
    np.testing.assert_allclose(found[smooth], gradient[smooth], atol=2e-3)


@pytest.mark.parametrize("name", SOLIDS)
def test_bounds_hold_the_surface_and_are_no_larger_than_needed(name):
    rng = np.random.default_rng(2)
    low, high = rays.bounds(SOLIDS[name])
    points, _ = SOLIDS[name].sample(rng, 4000)
    assert (points >= low - 1e-9).all() and (points <= high + 1e-9).all()
    np.testing.assert_allclose(points.min(0), low, atol=0.06)
    np.testing.assert_allclose(points.max(0), high, atol=0.06)
    turned = primitives.Placed(SOLIDS[name], np.array([1.0, 2, 3]), csg.rotation(x=30, y=50))
    low, high = rays.bounds(turned)
    points, _ = turned.sample(rng, 1000)
    assert (points >= low - 1e-9).all() and (points <= high + 1e-9).all()


def test_hand_computed_hits():
    x = np.array([[1.0, 0, 0]])
    box = primitives.Box((1.0, 2.0, 3.0))
    assert rays.first_hits(box, np.array([[-5.0, 0, 0]]), x) == 4
    assert rays.first_hits(box, np.array([[-5.0, 0, 0]]), 2 * x) == 2  # t counts directions
    assert rays.first_hits(box, np.array([[0.0, 0, 0]]), x) == 1  # from inside: where it leaves
    assert np.isinf(rays.first_hits(box, np.array([[-5.0, 2.1, 0]]), x))  # parallel, beside it
    assert np.isinf(rays.first_hits(box, np.array([[5.0, 0, 0]]), x))  # behind the start
    ball = primitives.Ellipsoid((2.0, 2.0, 2.0))
    np.testing.assert_allclose(rays.first_hits(ball, np.array([[-5.0, 0, 0]]), x), 3)
    # Cone of radius 1 and height 2: at height 1 its radius is 1/2.
    cone = primitives.cylinder(1.0, 2.0, 0)
    np.testing.assert_allclose(rays.first_hits(cone, np.array([[-5.0, 1, 0]]), x), 4.5)
    down = np.array([[0.0, -1, 0]])
    np.testing.assert_allclose(rays.first_hits(cone, np.array([[0.0, 5, 0]]), down), 3, atol=1e-6)
    assert np.isinf(rays.first_hits(cone, np.array([[-5.0, 2.5, 0]]), x))  # the mirror cone is not
    pill = primitives.Capsule(1.0, 0.5)
    np.testing.assert_allclose(rays.first_hits(pill, np.array([[0.0, 5, 0]]), down), 3.5)
    np.testing.assert_allclose(rays.first_hits(pill, np.array([[-5.0, 0.5, 0]]), x), 4.5)


def test_one_origin_serves_all_rays():
    rng = np.random.default_rng(3)
    origin = np.array([[0.0, 0.2, -3.0]])
    directions = rng.normal(size=(100, 3)) * 0.3 + (0, 0, 1)
    for solid in SOLIDS.values():
        many = rays.first_hits(solid, np.repeat(origin, 100, 0), directions)
        np.testing.assert_array_equal(rays.first_hits(solid, origin, directions), many)


def test_a_box_is_left_through_the_right_face():
    low, high = np.array([-1.0, -2, 0]), np.array([1.0, 2, 3])
    directions = np.array([[-1.0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 2]])
    t, face = rays.box_exit(low, high, np.array([[0.0, 0, 1]]), directions)
    np.testing.assert_array_equal(face, range(6))
    np.testing.assert_allclose(t, [1, 1, 2, 2, 1, 1])
    t, face = rays.box_exit(low, high, np.array([[0.5, 1.0, 1]]), np.array([[1.0, 1.5, 0.1]]))
    assert (t, face) == (0.5, 1)


def test_unknown_solids_are_refused():
    torus = primitives.Torus(1.0, 0.2)
    for call in (
        lambda: rays.first_hits(torus, np.zeros((1, 3)), np.ones((1, 3))),
        lambda: rays.normals(torus, np.zeros((1, 3))),
        lambda: rays.bounds(torus),
    ):
        with pytest.raises(ValueError, match="Torus.*known: Box"):
            call()
