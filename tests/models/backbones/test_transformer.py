"""The plain transformer backbone: the common suite, its size, its patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import patch_embed
from gsjax.models.backbones import base
from tests.models.backbones import suite

TINY = dict(num_patches=8, patch_size=4, embed=(8, 16, 16, 16), width=16, depth=2, heads=2)


@pytest.fixture(scope="module")
def model():
    return base.build("transformer", "small", channels=1, **TINY)


@pytest.fixture(scope="module")
def points():
    return suite.cloud(0, 2, 40, 1)


@pytest.mark.slow
def test_masked_points_change_nothing(model, points):
    suite.check_padding(model, points)


def test_a_batch_is_its_clouds(model, points):
    suite.check_batch(model, points)


def test_gradients_are_finite(model, points):
    suite.check_gradients(model, points)


def test_fusion_comes_after_the_last_norm(model, points):
    suite.check_fuse("transformer", model, points)


def test_order_of_points_does_not_matter(model, points):
    variables = suite.init(model, points)
    order = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(39)])  # FPS starts at 0
    shuffled = jax.tree.map(lambda x: x[:, order], points)
    suite.assert_same(
        suite.apply(model, variables, points), suite.apply(model, variables, shuffled)
    )


def test_a_cloud_of_fewer_points_than_patches_has_masked_tokens(model):
    points = suite.cloud(1, 2, 5, 1)
    variables = suite.init(model, points)
    found = suite.apply(model, variables, points)
    assert np.asarray(found.mask).sum(1).tolist() == [5, 5]
    suite.check_padding(model, points, more=9)


@pytest.mark.parametrize("size, millions", [("paper", 21.97), ("paper16", 29.07)])
def test_parameters_as_in_the_released_layers(size, millions):
    count = suite.num_parameters(base.build("transformer", size), suite.cloud(0, 1, 256, 0))
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.slow
def test_full_size_forward():
    model, points = base.build("transformer", "paper"), suite.cloud(0, 1, 1024, 0)
    found = suite.apply(model, suite.init(model, points), points, full_size=True)
    assert found.feat.shape == (1, 128, 384) and found.pooled.shape == (1, 3 * 384)
    assert np.isfinite(found.feat).all()


@pytest.mark.slow
def test_stochastic_depth_drops_whole_branches_of_clouds():
    model = base.build("transformer", "small", **TINY, drop_path=0.5)
    points = suite.cloud(0, 6, 40, 0)
    variables = suite.init(model, points)
    keys = jax.vmap(jax.random.key)(jnp.arange(6))
    plain = model.apply(variables, points)
    dropped = model.apply(variables, points, keys=keys)
    same = np.abs(plain.feat - dropped.feat).max((1, 2)) < 1e-6
    assert not same.all()
    again = model.apply(variables, points, keys=keys)
    np.testing.assert_array_equal(dropped.feat, again.feat)


def test_patches_are_relative_and_nearest():
    points = suite.cloud(2, 1, 30, 2)
    found = patch_embed.patches(points, 3, 4)
    xyz = np.asarray(points.xyz[0])
    for centre, values in zip(found.centres[0], found.values[0], strict=True):
        gaps = np.linalg.norm(xyz - np.asarray(centre), axis=-1)
        np.testing.assert_allclose(
            np.linalg.norm(values[:, :3], axis=-1), np.sort(gaps)[:4], atol=1e-6
        )
        nearest = np.argsort(gaps, kind="stable")[:4]
        np.testing.assert_array_equal(values[:, 3:], points.feat[0][nearest])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"backbone: unknown 'transformr'; known: .*transformer"):
        base.build("transformr")
    with pytest.raises(ValueError, match="unknown size 'tiny'; known: paper, paper16, small"):
        base.build("transformer", "tiny")
    with pytest.raises(ValueError, match=r"unknown settings \['widht'\]"):
        base.build("transformer", "small", widht=3)
    with pytest.raises(ValueError, match="5 heads do not divide width 96"):
        base.build("transformer", "small", heads=5)


def test_features_of_another_width_are_refused(model):
    with pytest.raises(ValueError, match="made for 1 feature channels a point, found 0"):
        model.init(jax.random.key(0), suite.cloud(0, 1, 20, 0))
