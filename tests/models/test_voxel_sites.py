"""Clouds as voxels, by hand; what a fusion may return."""

import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import voxels
from gsjax.models import voxel_sites
from gsjax.models.backbones import base

XYZ = jnp.asarray([[[0.1, 0.1, 0.1], [2.5, 0.2, 0.2], [0.3, 0.3, 0.5], [0, 0, 0], [0.0, 1.1, 0.0]]])
FEAT = jnp.asarray([[[1.0], [5.0], [3.0], [jnp.nan], [7.0]]])
MASK = jnp.asarray([[True, True, True, False, True]])
POINTS = base.PointBatch(XYZ, FEAT, MASK)


def make(capacity=4, **options):
    return voxel_sites.from_points(POINTS, 1, 1.0, capacity, "network", **options)


def test_features_and_positions_are_means_of_a_voxels_points():
    sites = make()
    assert sites.mask.tolist() == [[True, True, True, False]]
    assert voxels.decode(sites.voxels[0, :3]).tolist() == [[0, 0, 0], [0, 1, 0], [2, 0, 0]]
    assert sites.feat[0, :, 0].tolist() == [2.0, 7.0, 5.0, 0.0]
    np.testing.assert_allclose(sites.xyz[0, 0], [0.2, 0.2, 0.3], rtol=1e-6)
    assert sites.origin.tolist() == [[0.0, 0.0, 0.0]] and sites.dropped.tolist() == [0]


def test_what_finds_no_place_is_counted():
    assert make(capacity=2).dropped.tolist() == [1]
    outside = make(cells=2)
    assert outside.dropped.tolist() == [1] and outside.mask.sum() == 2


def test_fused_sites_may_have_another_capacity_and_hold_junk_where_masked():
    def fuse(sites):
        wide = jnp.pad(sites.voxels, ((0, 0), (0, 2)), constant_values=voxels.SENTINEL)
        feat = jnp.pad(sites.feat + 1, ((0, 0), (0, 2), (0, 0)), constant_values=jnp.nan)
        return base.Sites(
            jnp.pad(sites.xyz, ((0, 0), (0, 2), (0, 0))), feat, voxels.is_voxel(wide), wide
        )

    found = voxel_sites.fused(make(), fuse)
    assert found.feat[0, :, 0].tolist() == [3.0, 8.0, 6.0, 0.0, 0.0, 0.0]
    assert found.dropped.tolist() == [0]  # kept, where fusion says nothing


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="network: made for 2 feature channels a point, found 1"):
        voxel_sites.from_points(POINTS, 2, 1.0, 4, "network")
    sites = make()
    refused = [
        (sites._replace(voxels=None), r"voxels \[1, 4\], found None"),
        (sites._replace(voxels=sites.voxels[:, 1:]), r"voxels \[1, 4\], found \[1, 3\]"),
        (sites._replace(feat=sites.feat[:, 1:]), r"feat \[1, 3, 1\] do not fit mask \[1, 4\]"),
        (sites._replace(feat=FEAT[:, :4].repeat(2, -1)), "expected 1 channels .*, found 2"),
    ]
    for result, message in refused:
        with pytest.raises(ValueError, match=message):
            voxel_sites.fused(sites, lambda _, result=result: result)
