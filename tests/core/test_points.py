"""Point-set queries against brute force in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import points

_knn = jax.jit(points.knn, static_argnums=2, static_argnames=("k", "block", "method"))
_ball_query = jax.jit(points.ball_query, static_argnums=3, static_argnames=("k", "block"))


def _cloud(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


def _slow_fps(cloud, k, allowed):
    """Greedy sampling from the definition: largest distance to the chosen, no repetition."""
    chosen = [int(np.flatnonzero(allowed)[0])]
    while len(chosen) < k:
        best, best_gap = None, -1.0
        for i in np.flatnonzero(allowed):
            gap = min(np.sum((cloud[i] - cloud[j]) ** 2) for j in chosen)
            if i not in chosen and gap > best_gap:
                best, best_gap = i, gap
        chosen.append(int(best) if best is not None else chosen[0])
    return chosen


def _slow_distances(queries, cloud):
    queries, cloud = queries.astype(np.float64), cloud.astype(np.float64)
    return np.sum((queries[:, None] - cloud[None]) ** 2, axis=-1)


def test_fps_is_greedy_and_never_picks_masked_points():
    cloud = _cloud(2, 40)
    mask = np.random.default_rng(1).random((2, 40)) < 0.6
    found = np.asarray(points.farthest_point_sampling(cloud, 12, mask=mask))
    for scene in range(2):
        assert found[scene].tolist() == _slow_fps(cloud[scene], 12, mask[scene])
    assert np.take_along_axis(mask, found, axis=1).all()


def test_fps_is_nested_and_a_permutation_at_k_equal_n():
    cloud = _cloud(30)
    cloud[7] = cloud[3]  # an exact duplicate is chosen all the same, last
    order = np.asarray(points.farthest_point_sampling(cloud, 30))
    assert sorted(order) == list(range(30)) and order[-1] == 7
    np.testing.assert_array_equal(points.farthest_point_sampling(cloud, 9), order[:9])


def test_fps_repeats_the_first_valid_point_only_when_all_are_used():
    mask = np.zeros(20, bool)
    mask[[4, 9, 15]] = True
    found = np.asarray(points.farthest_point_sampling(_cloud(20), 6, mask=mask))
    assert sorted(found[:3]) == [4, 9, 15] and (found[3:] == 4).all()
    none = points.farthest_point_sampling(_cloud(20), 3, mask=np.zeros(20, bool))
    np.testing.assert_array_equal(none, 0)


def test_fps_leaves_out_nonfinite_points():
    cloud = _cloud(10)
    cloud[0], cloud[6] = np.nan, np.inf
    found = np.asarray(points.farthest_point_sampling(cloud, 8))
    assert sorted(found) == [1, 2, 3, 4, 5, 7, 8, 9]


def test_fps_near_origin_rule():
    cloud = np.array([[0.01, 0, 0], [1, 0, 0], [-0.02, 0.01, 0], [0, 0.5, 0]], np.float32)
    found = points.farthest_point_sampling(cloud, 3, skip_near_origin=True)
    assert found.tolist() == [0, 1, 3]  # the start is index 0 whatever its norm
    assert points.farthest_point_sampling(cloud, 4).tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize("block", [None, 7])
def test_knn_is_exact(block):
    queries, cloud = _cloud(2, 25, seed=1), _cloud(2, 60)
    mask = np.random.default_rng(2).random((2, 60)) < 0.7
    idx, dist2 = _knn(queries, cloud, 5, mask=mask, block=block)
    for scene in range(2):
        slow = _slow_distances(queries[scene], cloud[scene])
        slow[:, ~mask[scene]] = np.inf
        expected = np.argsort(slow, axis=1, kind="stable")[:, :5]
        np.testing.assert_array_equal(idx[scene], expected)
        np.testing.assert_allclose(
            dist2[scene], np.take_along_axis(slow, expected, axis=1), rtol=1e-5
        )


def test_knn_is_exact_on_a_tight_cluster_far_from_the_origin():
    # Spacing 2^-10 around 100: |a|^2 + |b|^2 - 2ab in float32 is off by about 2^-9 here.
    rng = np.random.default_rng(0)
    cloud = (100 + rng.permutation(512)[:, None] * [1, 0.5, 0.25] / 1024).astype(np.float32)
    idx, _ = _knn(cloud, cloud, k=8)
    found = np.sort(np.take_along_axis(_slow_distances(cloud, cloud), np.asarray(idx), axis=1))
    np.testing.assert_array_equal(found, np.sort(_slow_distances(cloud, cloud))[:, :8])


def test_knn_with_too_few_points_repeats_the_nearest_at_infinite_distance():
    cloud = _cloud(4)
    mask = np.array([False, True, True, False])
    for k in (3, 6):  # also beyond N
        idx, dist2 = _knn(cloud[:1], cloud, k, mask=mask)
        assert set(idx[0].tolist()) == {1, 2} and (idx[0, 2:] == idx[0, 0]).all()
        assert np.isfinite(dist2[0, :2]).all() and np.isinf(dist2[0, 2:]).all()


def test_knn_gradient_is_that_of_the_squared_distance_and_finite_at_zero():
    cloud = jnp.asarray(_cloud(6))
    queries = cloud[:2]

    def total(q, p, weight=1.0):
        return jnp.sum(weight * _knn(q, p, 2)[1])

    grad_q, grad_p = jax.jit(jax.grad(total, argnums=(0, 1)))(queries, cloud)
    idx, _ = _knn(queries, cloud, 2)
    expected = 2 * (queries - cloud[idx[:, 1]])
    np.testing.assert_allclose(grad_q, expected, atol=1e-5)
    np.testing.assert_allclose(grad_p.sum(axis=0), -grad_q.sum(axis=0), atol=1e-5)


def test_approximate_knn_keeps_nearly_all_neighbours():
    cloud = _cloud(300)
    approx, exact = (_knn(cloud, cloud, 8, method=m)[0] for m in ("approx", "exact"))
    kept = [len(set(a) & set(e)) for a, e in zip(np.asarray(approx), np.asarray(exact))]
    assert np.mean(kept) >= 0.97 * 8


@pytest.mark.parametrize("block", [None, 4])
def test_ball_query_takes_the_first_indices_inside(block):
    queries, cloud = _cloud(2, 10, seed=1), _cloud(2, 50)
    mask = np.random.default_rng(2).random((2, 50)) < 0.7
    idx, valid = _ball_query(queries, cloud, 0.8, 6, mask=mask, block=block)
    for scene in range(2):
        inside = (_slow_distances(queries[scene], cloud[scene]) < 0.64) & mask[scene]
        for row, (i, v) in enumerate(zip(np.asarray(idx[scene]), np.asarray(valid[scene]))):
            expected = np.flatnonzero(inside[row])[:6]
            assert v.sum() == len(expected) and v[: len(expected)].all()
            np.testing.assert_array_equal(i[v], expected)
            assert (i[~v] == (expected[0] if len(expected) else 0)).all()


def test_ball_query_beyond_the_cloud_pads():
    idx, valid = _ball_query(_cloud(1), _cloud(3, seed=1), 100.0, 5)
    assert idx.tolist() == [[0, 1, 2, 0, 0]] and valid.sum() == 3


def test_leading_axes_broadcast_and_vmap_agrees():
    queries, cloud = jnp.asarray(_cloud(3, 1, 4)), jnp.asarray(_cloud(2, 9, seed=1))
    idx, dist2 = _knn(queries, cloud, 2)
    assert idx.shape == dist2.shape == (3, 2, 4, 2)
    one = jax.vmap(lambda p: _knn(queries[1, 0], p, 2)[0])(cloud)
    np.testing.assert_array_equal(idx[1], one)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"points: expected shape \[\.\.\., N, 3\]"):
        points.farthest_point_sampling(jnp.zeros((4, 2)), 2)
    with pytest.raises(ValueError, match="at least one point"):
        _knn(jnp.zeros((4, 3)), jnp.zeros((0, 3)), 2)
    with pytest.raises(ValueError, match="'exact' or 'approx', found 'fast'"):
        _knn(jnp.zeros((4, 3)), jnp.zeros((4, 3)), 2, method="fast")
    with pytest.raises(ValueError, match=r"mask: expected shape \[\.\.\., 4\], found \[3\]"):
        _ball_query(jnp.zeros((4, 3)), jnp.zeros((4, 3)), 1.0, 2, mask=jnp.ones(3, bool))
