"""Point fusion: where pixels go, which voxels are one, what is counted when capacities are too small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import cameras, voxels
from gsjax.models.backbones import base
from gsjax.systems.unipre3d import fusion, point_fusion

SIZE = 0.25
WIDTH, HEIGHT = 8, 6
K = jnp.asarray([[9.0, 0.0, 3.1], [0.0, 7.0, 3.6], [0.0, 0.0, 1.0]])


def _sites(xyz):
    """Voxels of points [N, 3], features their coordinates."""
    xyz = jnp.asarray(xyz, jnp.float32)
    origin = voxels.corner(xyz, SIZE)
    keys, _ = voxels.keys_of(xyz, origin, SIZE)
    found = voxels.voxelize(keys, 32)
    mean = voxels.mean(xyz, found.ids, 32)
    sites = base.Sites(
        mean, mean, voxels.is_voxel(found.keys), found.keys, origin, jnp.zeros((), jnp.int32)
    )
    return jax.tree.map(lambda x: x[None], sites)


def _views(depth, viewmat=None, usable=True):
    viewmat = jnp.eye(4) if viewmat is None else viewmat
    return fusion.Views(
        jnp.ones((1, 1, HEIGHT, WIDTH, 5)),
        viewmat[None, None],
        K[None, None],
        (WIDTH, HEIGHT),
        jnp.full((1, 1, HEIGHT, WIDTH), depth),
        jnp.full((1, 1, HEIGHT, WIDTH), usable),
    )


def test_back_projected_pixels_project_onto_themselves():
    viewmat = cameras.look_at(
        jnp.asarray([1.0, 0.5, -2.0]), jnp.zeros(3), jnp.asarray([0.0, 1.0, 0.0])
    )
    depth = jnp.asarray(np.random.default_rng(0).uniform(1, 3, (HEIGHT, WIDTH)), jnp.float32)
    points = point_fusion.back_project(depth, viewmat, K)
    pixels, z = fusion.project(points.reshape(-1, 3), viewmat, K)
    row, column = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    np.testing.assert_allclose(pixels, np.stack([column, row], -1).reshape(-1, 2), atol=1e-4)
    np.testing.assert_allclose(z, depth.ravel(), rtol=1e-5)


def _fused(sites, views, pixels=64, union=64):
    layer = point_fusion.PointFusion(SIZE, pixels, union)
    variables = layer.init(jax.random.key(0), sites, _views(1.0), False)
    return variables, layer.apply(variables, sites, views, False)


# A wall of points at z = 1 before the camera, and one voxel behind it at z = 2.
WALL = np.stack([*np.meshgrid(np.linspace(-0.3, 0.5, 5), np.linspace(-0.4, 0.4, 5))], -1)
POINTS = np.concatenate([np.c_[WALL.reshape(-1, 2), np.ones(25)], [[0.0, 0.0, 2.0]]])


def test_voxels_of_both_sources_are_one_voxel():
    sites = _sites(POINTS)
    _, (fused, share) = _fused(sites, _views(1.0))
    keys = np.asarray(fused.voxels[0])
    real = keys[keys != voxels.SENTINEL]
    assert (np.diff(real) > 0).all()  # every voxel once
    own = np.asarray(sites.voxels[0][sites.mask[0]])
    assert set(own) <= set(real)
    # All pixels lie on the wall's plane and within the cloud's box: most of its voxels get some.
    assert 0.3 < float(share) < 1.0
    # Where the cloud has a voxel, the site stays at the mean of its points.
    rows = np.searchsorted(real, own)
    np.testing.assert_allclose(
        np.asarray(fused.xyz[0])[rows],
        np.asarray(sites.xyz[0])[np.asarray(sites.mask[0])],
        atol=1e-6,
    )


def test_pixels_outside_the_cloud_without_depth_or_masked_are_left_out():
    sites = _sites(POINTS)
    own = int(sites.mask.sum())
    for views in (_views(9.0), _views(0.0), _views(1.0, usable=False), None):
        _, (fused, share) = _fused(sites, views)
        assert int(fused.mask.sum()) == own and float(share) == 0.0
        assert np.isfinite(fused.feat).all() and int(fused.dropped[0]) == 0


def test_what_finds_no_place_is_counted():
    sites = _sites(POINTS)
    _, (whole, _) = _fused(sites, _views(1.0))
    total = int(whole.mask.sum())
    _, (small, _) = _fused(sites, _views(1.0), union=total - 3)
    assert int(small.dropped[0]) == 3 and int(small.mask.sum()) == total - 3
    _, (few, _) = _fused(sites, _views(1.0), pixels=1)
    assert int(few.dropped[0]) > 0


def test_pixels_just_below_the_grid_are_outside_the_box_and_no_loss():
    """Within half a voxel of the lowest points, but under the grid's corner."""
    cloud = np.asarray([[0.01, 0.01, 0.01], [0.6, 0.6, 0.01]])  # the corner is at 0
    sites = _sites(cloud)
    behind = jnp.eye(4).at[2, 3].set(1.0)  # the camera at z = -1: a depth of 0.95 is z = -0.05
    _, (fused, share) = _fused(sites, _views(0.95, behind))
    assert int(fused.dropped[0]) == 0 and float(share) == 0.0
    assert int(fused.mask.sum()) == int(sites.mask.sum())
    _, (above, _) = _fused(sites, _views(1.05, behind))
    assert int(above.dropped[0]) == 0 and int(above.mask.sum()) > int(sites.mask.sum())


def test_adapter_gets_a_gradient():
    sites = _sites(POINTS)
    layer = point_fusion.PointFusion(SIZE, 64, 64)
    variables = layer.init(jax.random.key(0), sites, _views(1.0), False)

    def loss(params):
        fused, _ = layer.apply({**variables, "params": params}, sites, _views(1.0), False)
        return jnp.sum(jnp.sin(fused.feat))

    grads = jax.grad(loss)(variables["params"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert float(jnp.abs(grads["adapter"]["proj"]["bias"]).max()) > 0
    assert float(jnp.abs(grads["sources"]).max()) > 0


def test_a_backbone_without_voxels_is_refused():
    sites = _sites(POINTS)._replace(voxels=None)
    with pytest.raises(ValueError, match="point fusion merges voxels, and this backbone has none"):
        _fused(sites, None)
