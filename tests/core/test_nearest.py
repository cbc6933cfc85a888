"""The nearest point by both searches against scipy's KD-tree and against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from gsjax.core import nearest, points

METHODS = ("blocked", "boxes")
_nearest = jax.jit(nearest.nearest, static_argnames=("method", "block"))


def _views(num, seed=0, noise=0.01):
    """[num, 3]: pixels of a view unprojected to depths 1 to 100, dense near the camera."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(num**0.5))
    u, v = np.meshgrid(*[(np.arange(side) + 0.5) / side - 0.5] * 2)
    depth = np.exp(np.log(100.0) * (0.5 + 0.5 * np.sin(7 * u) * np.cos(5 * v)))
    depth *= 1 + noise * rng.normal(size=depth.shape)
    return np.stack([u * depth, v * depth, depth], -1).reshape(-1, 3)[:num].astype(np.float32)


def _check_exact(found, queries, cloud, mask=None):
    """The points found are as near as the KD-tree's, to 1e-6 of the distance."""
    rows = np.arange(len(cloud)) if mask is None else np.flatnonzero(mask)
    distances, where = cKDTree(cloud[rows].astype(np.float64)).query(queries.astype(np.float64))
    own = np.linalg.norm(queries.astype(np.float64) - cloud.astype(np.float64)[found], axis=-1)
    np.testing.assert_array_less(own, distances * (1 + 1e-6) + 1e-30)
    assert (rows[where] == found).mean() > 0.99  # the rest are ties in float32


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(1100, 777), (70, 1), (1, 129)])
def test_equals_the_kd_tree_at_sizes_that_do_not_divide_blocks(method, sizes):
    queries, cloud = _views(sizes[0], 1), _views(sizes[1], 2)
    found = np.asarray(_nearest(queries, cloud, method=method))
    assert found.shape == sizes[:1] and found.dtype == np.int32
    _check_exact(found, queries, cloud)


def test_steps_of_several_sub_blocks_as_accelerators_take_them(monkeypatch):
    monkeypatch.setattr(nearest, "_CPU_BLOCK", (500, 3))  # 4 sub-blocks in steps of 3
    queries, cloud = _views(1100, 1), _views(777, 2)
    cloud[700] = cloud[10]
    queries[:2] = cloud[10]
    found = np.asarray(
        jax.jit(functools.partial(nearest.nearest, method="blocked"))(queries, cloud)
    )
    _check_exact(found, queries, cloud)
    np.testing.assert_array_equal(found[:2], 10)


@pytest.mark.parametrize("method", METHODS)
def test_masked_and_nonfinite_points_are_never_found(method):
    queries, cloud = _views(400, 1), _views(900, 2)
    mask = np.random.default_rng(3).random(900) < 0.5
    cloud[5:400:7] = np.nan
    cloud[6, 1] = np.inf
    found = np.asarray(_nearest(queries, cloud, mask=mask, method=method))
    _check_exact(found, queries, cloud, mask & np.isfinite(cloud).all(-1))


@pytest.mark.parametrize("method", METHODS)
def test_ties_go_to_the_lowest_index(method):
    # A lattice, every point of it twice, asked at its points and at centres of its edges.
    axis = np.arange(8, dtype=np.float32)
    lattice = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    rng = np.random.default_rng(0)
    cloud = rng.permutation(np.concatenate([lattice, lattice]))
    queries = np.concatenate([lattice, lattice[:100] + [0.5, 0.0, 0.0]]).astype(np.float32)
    squared = np.square(queries[:, None] - cloud[None]).sum(-1)  # exact in float32
    found = _nearest(queries, cloud, method=method)
    np.testing.assert_array_equal(found, squared.argmin(-1))


@pytest.mark.parametrize("method", METHODS)
def test_tight_clusters_far_from_the_origin_and_far_outliers(method):
    rng = np.random.default_rng(0)
    # Spacing 2^-10 around 100: |a|^2 + |b|^2 - 2ab in float32 is off by about 2^-9 here.
    cloud = (100 + rng.permutation(512)[:, None] * [1, 0.5, 0.25] / 1024).astype(np.float32)
    cloud[:3] = [[1e6, 0, 0], [0, -1e7, 3], [5, 5, 1e8]]
    queries = cloud + np.float32(1 / 4096)
    found = np.asarray(_nearest(queries, cloud, method=method))
    _check_exact(found, queries, cloud)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_find_and_queries_that_are_not_finite_give_index_0(method):
    queries, cloud, mask = _views(40, 1), _views(50, 2), np.ones(50, bool)
    none = _nearest(queries, cloud, mask=~mask, method=method)
    np.testing.assert_array_equal(none, 0)
    same = np.zeros_like(cloud)  # no extent at all
    np.testing.assert_array_equal(_nearest(queries, same, mask=mask, method=method), 0)
    queries[7], queries[9, 2] = np.nan, -np.inf
    found = np.asarray(_nearest(queries, cloud, mask=mask, method=method))
    assert found[7] == found[9] == 0
    others = np.isfinite(queries).all(-1)
    _check_exact(found[others], queries[others], cloud)


@pytest.mark.parametrize("method", METHODS)
def test_the_searches_are_that_of_knn_over_broadcast_scenes(method):
    queries = np.stack([_views(90, seed) for seed in range(3)])[:, None]
    cloud = np.stack([_views(150, seed) for seed in (7, 8)])
    mask = np.random.default_rng(0).random((2, 150)) < 0.8
    expected = jax.jit(points.knn, static_argnums=2)(queries, cloud, 1, mask=mask)[0][..., 0]
    assert expected.shape == (3, 2, 90)
    found = _nearest(queries, cloud, mask=mask, method=method, block=32)
    np.testing.assert_array_equal(found, expected)


def test_boxes_under_vmap():
    queries = np.stack([_views(40, seed) for seed in (1, 2)])
    cloud = np.stack([_views(150, seed) for seed in (3, 4)])
    found = jax.jit(jax.vmap(functools.partial(nearest.nearest, method="boxes")))(queries, cloud)
    for scene in range(2):
        _check_exact(np.asarray(found[scene]), queries[scene], cloud[scene])


def test_many_pairs_are_searched_by_boxes_on_cpu_and_by_blocks_elsewhere():
    few, many = (jnp.zeros((n, 3)) for n in (64, 4096))
    trace = jax.jit(nearest.nearest).trace(many, many)
    text = {p: trace.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    assert [".sort" in text[p] for p in ("cpu", "cuda", "tpu")] == [True, False, False]
    assert ".sort" not in jax.jit(nearest.nearest).lower(few, few).as_text()


def test_no_array_of_all_pairs_is_kept():
    num = 50_000  # 10^10 bytes of pairs
    cloud = jax.ShapeDtypeStruct((num, 3), jnp.float32)
    for method in METHODS:
        compiled = _nearest.lower(cloud, cloud, method=method).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 64 << 20


def test_no_gradient():
    cloud = jnp.asarray(_views(60))

    def total(queries, cloud):
        gaps = queries - cloud[nearest.nearest(queries, cloud)]
        return jnp.sum(gaps * gaps)

    queries = cloud[:9] + 0.01
    found = jax.jit(jax.grad(total))(queries, cloud)
    np.testing.assert_allclose(found, 2 * (queries - cloud[_nearest(queries, cloud)]), rtol=1e-5)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"queries: expected shape \[\.\.\., N, 3\]"):
        nearest.nearest(jnp.zeros((4, 2)), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="at least one point"):
        nearest.nearest(jnp.zeros((4, 3)), jnp.zeros((0, 3)))
    with pytest.raises(ValueError, match="unknown 'tree'; known: auto, blocked, boxes"):
        nearest.nearest(jnp.zeros((4, 3)), jnp.zeros((4, 3)), method="tree")
    with pytest.raises(ValueError, match="block: expected at least 1"):
        nearest.nearest(jnp.zeros((4, 3)), jnp.zeros((4, 3)), block=0)
    with pytest.raises(ValueError, match=r"mask: expected shape \[\.\.\., 4\], found \[3\]"):
        nearest.nearest(jnp.zeros((4, 3)), jnp.zeros((4, 3)), mask=jnp.ones(3, bool))
