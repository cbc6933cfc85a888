"""Parametric objects: exact geometry, labels, captions, determinism."""

import numpy as np
import pytest

from gsjax.data import procedural, transforms
from gsjax.data.shapes import csg, primitives

SOLIDS = {
    "box": primitives.Box((0.3, 0.5, 0.2)),
    "ellipsoid": primitives.Ellipsoid((0.6, 0.3, 0.4)),
    "cylinder": primitives.cylinder(0.4, 1.0),
    "cone": primitives.cylinder(0.5, 0.8, top=0),
    "frustum": primitives.cylinder(0.5, 0.8, top=0.2),
    "ring": primitives.Revolve(((0.4, 0), (0.7, 0.1), (0.5, 0.4))),
    "star": primitives.Extrude(((0, 0.2), (0.8, 0), (0, -0.2), (-0.5, -0.4), (-0.4, 0.5)), 0.15),
    "torus": primitives.Torus(0.6, 0.2),
    "arc": primitives.Torus(0.6, 0.2, 2.0),
    "capsule": primitives.Capsule(0.5, 0.2),
}


def _gradient(value, points, step=1e-5):
    return np.stack(
        [(value(points + step * e) - value(points - step * e)) / (2 * step) for e in np.eye(3)], -1
    )


@pytest.mark.parametrize("name", SOLIDS)
def test_samples_lie_on_the_surface_with_exact_normals(name):
    solid = SOLIDS[name]
    points, normals = solid.sample(np.random.default_rng(0), 2000)
    np.testing.assert_allclose(solid.value(points), 0, atol=1e-9)
    gradient = _gradient(solid.value, points)
    unit = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)
    # Samples within a step of a sharp edge are excused; there are hardly any.
    assert np.mean(np.sum(unit * normals, -1) > 0.9999) > 0.995
    assert np.all(solid.value(points + 1e-3 * normals) > 0)
    assert np.mean(solid.value(points - 1e-3 * normals) < 0) > 0.99


@pytest.mark.parametrize("name", SOLIDS)
def test_area_and_volume_agree_with_samples(name):
    """Divergence theorem on the samples against counting inside: area and uniformity are right."""
    solid, rng = SOLIDS[name], np.random.default_rng(1)
    points, normals = solid.sample(rng, 40000)
    by_surface = solid.area * np.mean(np.sum(points * normals, -1)) / 3
    low, high = points.min(0), points.max(0)
    inside = solid.value(rng.uniform(low, high, size=(80000, 3))) < 0
    assert by_surface == pytest.approx(np.mean(inside) * np.prod(high - low), rel=0.03)


def test_cut_walls_face_into_the_hole_and_later_pieces_fill_it():
    paint = csg.Paint("red", (1, 0, 0))
    a = csg.Assembly()
    a.add(primitives.Box((0.5, 0.5, 0.5)), "body", paint)
    a.cut(primitives.cylinder(0.3, 2.0), "hole", paint, (0, -1, 0))
    surface = csg.sample_surface(a.pieces, 4000, np.random.default_rng(0))
    hole = surface.parts == "hole"
    radial = surface.points[hole] * (1, 0, 1)
    assert np.all(np.sum(radial * surface.normals[hole], -1) < 0)
    np.testing.assert_allclose(np.linalg.norm(radial, axis=1), 0.3, atol=1e-6)
    exact = 6 - 2 * np.pi * 0.09 + 2 * np.pi * 0.3
    assert surface.area == pytest.approx(exact, rel=0.03)
    a.add(primitives.Ellipsoid((0.1, 0.1, 0.1)), "ball", paint)
    assert "ball" in csg.sample_surface(a.pieces, 2000, np.random.default_rng(0)).parts
    assert csg.value(a.pieces, np.zeros((1, 3)))[0] < 0


@pytest.mark.parametrize("index", range(len(procedural.CATEGORIES)))
def test_every_category_has_discs_on_its_surface_with_outward_normals(index):
    made = procedural.generate(index, seed=3, num_gaussians=400)
    g = made.gaussians
    assert made.category == index
    assert {len(v) for v in g.values()} == {400}
    assert np.abs(g["means"]).max() <= 0.5 + 1e-6
    points = g["means"].astype(np.float64)
    assert np.abs(made.value(points)).max() < 2e-4
    gradient = _gradient(made.value, points)
    unit = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)
    cosine = np.sum(unit * transforms.disc_normals(g["quats"]), -1)
    assert np.mean(cosine > 0.999) > 0.97
    assert np.all(g["log_scales"][:, 2] < g["log_scales"][:, 0])
    assert g["parts"].min() >= 1 and g["parts"].max() < len(procedural.PARTS)
    assert len(set(g["parts"])) >= 1


def test_objects_depend_on_seed_split_and_index_alone():
    one = procedural.generate(5, seed=0, num_gaussians=64)
    two = procedural.generate(5, seed=0, num_gaussians=64)
    assert one.captions == two.captions and one.uid == two.uid
    for name in one.gaussians:
        np.testing.assert_array_equal(one.gaussians[name], two.gaussians[name])
    others = [
        procedural.generate(5, seed=1, num_gaussians=64),
        procedural.generate(5, seed=0, split="test", num_gaussians=64),
        procedural.generate(5 + len(procedural.CATEGORIES), seed=0, num_gaussians=64),
    ]
    for other in others:
        assert other.uid != one.uid
        assert not np.array_equal(other.gaussians["means"], one.gaussians["means"])


def test_captions_name_colour_and_noun_and_vary():
    made = [procedural.generate(i, seed=0, num_gaussians=16) for i in range(104)]
    for thing in made:
        assert len(thing.captions) == procedural.NUM_CAPTIONS
        assert len(set(thing.captions)) >= 3
        for word in thing.name.split():
            assert word in thing.captions[0]
    # Retrieval is only a task if captions tell objects apart.
    assert len({thing.captions[0] for thing in made}) >= 100
    first = [c.split()[0] for thing in made for c in thing.captions[:1]]
    assert set(first) <= {"a", "an"}


def test_shapes_of_one_category_differ():
    step = len(procedural.CATEGORIES)
    chairs = [procedural.generate(6 + k * step, seed=0, num_gaussians=64) for k in range(8)]
    extents = np.array([np.ptp(c.gaussians["means"], axis=0) for c in chairs])
    assert np.all(extents.std(0).max() > 0.05)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="index"):
        procedural.generate(-1, seed=0)
    with pytest.raises(ValueError, match="num_gaussians"):
        procedural.generate(0, seed=0, num_gaussians=0)
