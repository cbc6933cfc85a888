"""Density control of 3DGS against a loop that appends and deletes rows; schedules; full stocks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gsjax
from gsjax.core import cameras
from gsjax.systems.scene_fit import default, rows
from tests.systems.scene_fit import stock

CONFIG = default.DefaultConfig()
SCREEN = CONFIG._replace(refine_scale2d_stop=4000)
_densify = jax.jit(default.densify, static_argnums=4)
_prune = jax.jit(default.prune, static_argnums=2)
_refine = jax.jit(default.refine, static_argnums=4)


def _case(seed=0, num=40, used=20, coeffs=4):
    """A stock with scattered free rows; sizes around the limit of duplication at scene_scale 10."""
    rng = np.random.default_rng(seed)
    params = stock.make(seed, num, coeffs)
    alive = np.zeros(num, bool)
    alive[rng.permutation(num)[:used]] = True
    count = rng.integers(0, 5, num).astype(np.float32)
    grad = (count * rng.uniform(0, 5e-4, num)).astype(np.float32)
    radius = rng.uniform(0, 0.2, num).astype(np.float32)
    return params, alive, default.Stats(grad, count, radius)


def _requests(params, alive, stats, config, step, scene_scale):
    """(row, 'duplicate' or 'split'), highest gradient first, from the rules one row at a time."""
    found = []
    for i in range(len(alive)):
        gradient = stats.grad[i] / max(stats.count[i], 1)
        size = np.exp(params["log_scales"][i]).max()
        wide = step < config.refine_scale2d_stop and stats.radius[i] > config.grow_scale2d
        if not alive[i]:
            continue
        if wide or (gradient > config.grow_grad2d and size > config.grow_scale3d * scene_scale):
            found.append((-gradient, i, "split"))
        elif gradient > config.grow_grad2d:
            found.append((-gradient, i, "duplicate"))
    return [(i, what) for _, i, what in sorted(found)]


def _as_lists(params, alive):
    """{serial: [row numbers that are alive]}."""
    found = {}
    for i, s in enumerate(stock.serial(params)):
        if alive[i]:
            found.setdefault(s, []).append(i)
    return found


def _check_densified(key, before, alive, after, now_alive, reset, requests, free, config):
    """Every family of rows, as sets: what was served, and what each member now holds."""
    eps = np.asarray(jax.random.normal(key, before["means"].shape), np.float64)
    served = dict(requests[:free])
    families = _as_lists(after, now_alive)
    assert set(families) == set(np.flatnonzero(alive))
    for parent, members in families.items():
        what = served.get(parent)
        assert len(members) == (1 if what is None else 2) and parent in members
        for i in members:
            for name in ("quats", "sh0", "shN"):
                np.testing.assert_array_equal(after[name][i], before[name][parent])
            if what == "split":
                turn = stock.rotmat(before["quats"][parent])
                scale = np.exp(np.float64(before["log_scales"][parent]))
                opacity = stock.sigmoid(before["logit_opacities"][parent])
                if config.revised_opacity:
                    opacity = 1 - math.sqrt(1 - opacity)
                mean = before["means"][parent] + turn @ (scale * eps[i])
                np.testing.assert_allclose(after["means"][i], mean, atol=1e-5)
                np.testing.assert_allclose(np.exp(after["log_scales"][i]), scale / 1.6, rtol=1e-5)
                found = stock.sigmoid(after["logit_opacities"][i])
                np.testing.assert_allclose(found, opacity, rtol=1e-5)
                assert reset[i]
            else:
                for name in ("means", "log_scales", "logit_opacities"):
                    np.testing.assert_array_equal(after[name][i], before[name][parent])
                assert reset[i] == (i != parent)
    assert not np.any(reset & ~now_alive)


@pytest.mark.parametrize("used, coeffs", [(20, 4), (38, 4), (40, 1), (1, 1), (0, 1)])
@pytest.mark.parametrize("config, step", [
    (CONFIG, 600), (CONFIG._replace(revised_opacity=True), 600), (SCREEN, 600), (SCREEN, 4000)])  # fmt: skip
def test_densify_row_by_row(used, coeffs, config, step):
    params, alive, stats = _case(used, 40, used, coeffs)
    key = jax.random.key(used)
    after, now_alive, reset, dropped = _densify(key, params, alive, stats, config, step, 10.0)
    requests = _requests(params, alive, stats, config, step, 10.0)
    free = 40 - used
    if used == 20:
        assert {what for _, what in requests} == {"duplicate", "split"}
    assert dropped == max(len(requests) - free, 0) and dropped.dtype == jnp.int32
    assert np.sum(now_alive) == used + min(len(requests), free)
    arrays = (np.asarray(x) for x in (now_alive, reset))
    _check_densified(key, params, alive, after, *arrays, requests, free, config)
    assert after["shN"].shape == (40, coeffs - 1, 3) and stock.finite(after)


def test_a_full_stock_drops_the_lowest_gradients():
    params, alive, stats = _case(1, 40, 35)
    stats = stats._replace(grad=np.linspace(1e-3, 2e-3, 40, dtype=np.float32), count=np.ones(40))
    after, now_alive, _, dropped = _densify(
        jax.random.key(0), params, alive, stats, CONFIG, 600, 10.0)  # fmt: skip
    assert dropped == 30 and np.all(now_alive)
    doubled = {s for s, members in _as_lists(after, now_alive).items() if len(members) == 2}
    assert doubled == set(np.flatnonzero(alive)[-5:])
    _, _, _, dropped = _densify(
        jax.random.key(0), after, np.ones(40, bool), stats, CONFIG, 600, 10.0)  # fmt: skip
    assert dropped == 40


def test_children_scatter_as_the_parent():
    """Mean and covariance of 40,000 children; standard errors are 0.5 % and 0.7 %."""
    params = stock.make(4, 2)
    params["log_scales"][0] = np.log([0.3, 0.5, 1.0])
    stats = default.Stats(jnp.array([1.0, 0.0]), jnp.ones(2), jnp.zeros(2))

    def children(key):
        return default.densify(
            key, params, np.array([True, False]), stats, CONFIG, 600, 1.0)[0]["means"]  # fmt: skip

    means = np.asarray(jax.vmap(children)(jax.random.split(jax.random.key(0), 20_000)))
    turn = stock.rotmat(params["quats"][0])
    offsets = (means - params["means"][0]) @ turn / [0.3, 0.5, 1.0]
    pairs = offsets.reshape(-1, 3)
    np.testing.assert_allclose(pairs.mean(0), 0, atol=0.025)
    np.testing.assert_allclose(np.cov(pairs.T), np.eye(3), atol=0.035)
    # The two of a pair are independent.
    np.testing.assert_allclose(np.mean(offsets[:, 0] * offsets[:, 1], 0), 0, atol=0.035)


def test_revised_children_composite_to_the_parent_for_any_logit():
    params = stock.make(0, 8)
    logits = np.array([-200, -90, -5, 0, 5, 20, 100, 0], np.float32)
    params["logit_opacities"] = logits
    params["log_scales"][:] = 0
    stats = default.Stats(*(np.ones(8, np.float32) for _ in range(3)))
    config = CONFIG._replace(revised_opacity=True)
    after, now_alive, _, _ = _densify(
        jax.random.key(0), params, np.arange(8) < 7, stats, config, 600, 1.0)  # fmt: skip
    assert stock.finite(after) and np.all(now_alive)
    # All gradients are equal: the row in front was served.
    with np.errstate(over="ignore"):
        rest = (1 - stock.sigmoid(after["logit_opacities"])) ** 2
    np.testing.assert_allclose(1 - rest[[0, 7]], 0, atol=1e-12)
    config = config._replace(grow_grad2d=0.5)
    for i in range(1, 7):
        alive = np.arange(8) == i
        after, now_alive, _, _ = _densify(
            jax.random.key(0), params, alive, stats, config, 600, 1.0)  # fmt: skip
        child = np.float64(after["logit_opacities"][i])
        # log(1 - o) of the parent is twice that of a child; log o by the other end.
        log_rest = -np.logaddexp(0, child)
        np.testing.assert_allclose(2 * log_rest, -np.logaddexp(0, logits[i]), rtol=1e-5)
        assert np.sum(now_alive) == 2


def test_prune_row_by_row():
    for step in (600, 3000, 3001):
        params, alive, stats = _case(2, 60, 45)
        params["logit_opacities"][::4] -= 6
        params["logit_opacities"][5] = np.nan
        params["means"][5] = np.inf
        alive[5] = True
        freed = []
        for i in np.flatnonzero(alive):
            opacity = stock.sigmoid(params["logit_opacities"][i])
            size = np.exp(params["log_scales"][i]).max()
            large = size > 0.1 * 1.1 or stats.radius[i] > 0.15
            if not opacity >= 0.005 or (large and step > 3000):
                freed.append(i)
        after, now_alive, reset = _prune(params, alive, SCREEN, step, 1.1, stats.radius)
        np.testing.assert_array_equal(np.flatnonzero(reset), freed)
        np.testing.assert_array_equal(now_alive, alive & ~np.asarray(reset))
        assert 0 < len(freed) < 40 and stock.finite(after)
        kept = ~np.asarray(reset)
        for name in rows.FIELDS:
            np.testing.assert_array_equal(np.asarray(after[name])[kept], params[name][kept])
        assert np.all(stock.sigmoid(after["logit_opacities"])[freed] < 1e-8)
        assert np.all(np.asarray(after["log_scales"])[freed] == -10)


def test_refine_prunes_copies_by_the_width_of_their_parent():
    params = stock.make(0, 4)
    params["log_scales"][:] = -3
    alive = np.array([True, True, False, False])
    stats = default.Stats(np.float32([1, 1, 0, 0]), np.ones(4, np.float32),
                          np.float32([0.3, 0.01, 0, 0]))  # fmt: skip
    after, now_alive, empty, reset, dropped = _refine(
        jax.random.key(0), params, alive, stats, SCREEN, 3100, 1.0)  # fmt: skip
    # Row 0 and its second child go for their width, row 1 and its second child stay.
    assert set(stock.serial(after)[np.asarray(now_alive)]) == {1} and np.sum(now_alive) == 2
    assert dropped == 0 and all(not np.any(x) for x in empty)
    assert np.sum(reset) == 4


def test_dead_rows_stay_dead_and_invisible():
    params, alive, _ = _case(3, 64, 30)
    params = jax.tree.map(np.asarray, rows.park(params, ~alive))
    rng = np.random.default_rng(0)
    for step in range(100, 6100, 100):
        key = jax.random.fold_in(jax.random.key(0), step)
        stats = default.Stats(rng.exponential(1e-4, 64).astype(np.float32),
                              np.ones(64, np.float32), np.zeros(64, np.float32))  # fmt: skip
        high = np.sum(alive & (stats.grad > 2e-4))
        more, many, made, dropped = _densify(key, params, alive, stats, CONFIG, step, 10.0)
        assert np.sum(many) == np.sum(alive) + high - dropped
        assert np.all(np.asarray(many)[alive])
        params, now, freed = _prune(more, many, CONFIG, step, 10.0)
        np.testing.assert_array_equal(now, np.asarray(many) & ~np.asarray(freed))
        if default.reset_due(step):
            params = default.reset_opacity(params, now)
        params = {k: np.array(x) for k, x in params.items()}
        alive = np.asarray(now)
        assert stock.finite(params)
        assert np.all(stock.sigmoid(params["logit_opacities"][~alive]) < 1e-8)
        params["logit_opacities"][alive] += rng.normal(0, 2.5, alive.sum())
        params["log_scales"][alive] += rng.normal(0.1, 0.2, (alive.sum(), 3))
    assert 0 < np.sum(alive) <= 64


def test_accumulate_is_the_loop_over_views_and_rows():
    rng = np.random.default_rng(0)
    stats = default.Stats(*(rng.random(9).astype(np.float32) for _ in range(3)))
    grads = rng.normal(size=(3, 9, 2)).astype(np.float32)
    radii = rng.integers(0, 4, (3, 9, 2)).astype(np.int32) * 5
    grads[radii.min(-1) == 0] = np.nan
    expected = [np.array(x, np.float64) for x in stats]
    for c in range(3):
        for i in range(9):
            if radii[c, i].min() > 0:
                x, y = np.float64(grads[c, i])
                expected[0][i] += math.hypot(x * 40 / 2 * 3, y * 30 / 2 * 3)
                expected[1][i] += 1
                expected[2][i] = max(expected[2][i], radii[c, i].max() / 40)
    found = default.accumulate(stats, grads, radii, 40, 30)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-6)
    spread = default.accumulate(stats, grads, radii, 40, 30, num_views=6)
    np.testing.assert_allclose(spread.grad - stats.grad, 2 * (expected[0] - stats.grad), rtol=1e-5)


@pytest.mark.slow
def test_statistics_of_a_picture_depend_neither_on_its_size_nor_on_the_number_of_views():
    """What the factors W / 2, H / 2 and C are for; the loss is a mean, the pictures are the same."""
    params = stock.make(5, 12)
    params["log_scales"] += 1.5
    drawable = stock.drawable(params, np.arange(12) < 11)

    def gathered(width, height, views):
        viewmats = jnp.broadcast_to(cameras.orbit_path(1, 6.0), (views, 4, 4))
        Ks = jnp.broadcast_to(cameras.intrinsics_from_fov(40.0, width, height), (views, 3, 3))

        def loss(probe):
            picture, _, meta = gsjax.rasterize(
                **drawable, viewmats=viewmats, Ks=Ks, width=width, height=height, eps2d=0.0,
                means2d_probe=probe, backend="reference")  # fmt: skip
            return jnp.mean((picture - 0.2) ** 2), meta["radii"]

        probe = jnp.zeros((views, 12, 2))
        gradient, radii = jax.jit(jax.grad(loss, has_aux=True))(probe)
        return default.accumulate(default.Stats.empty(12), gradient, radii, width, height)

    one, three = gathered(72, 48, 1), gathered(36, 24, 3)
    assert one.grad.max() > 1e-4 and one.count[11] == 0 and one.grad[11] == 0
    np.testing.assert_array_equal(three.count, 3 * one.count)
    # Sampling of the same picture: it differs at the rims, where alpha falls below 1 / 255.
    np.testing.assert_allclose(three.grad / 3, one.grad, atol=0.05 * float(one.grad.max()))
    np.testing.assert_allclose(three.radius, one.radius, atol=2 / 36)


@pytest.mark.parametrize("config", [
    CONFIG, CONFIG._replace(pause_after_reset=250), CONFIG._replace(steps_scale=0.1),
    CONFIG._replace(steps_scale=0.25, pause_after_reset=400)])  # fmt: skip
def test_schedule_is_the_loop_over_steps(config):
    factor = config.steps_scale
    start, stop, every = 500 * factor, 15_000 * factor, int(100 * factor)
    reset, pause = int(3000 * factor), config.pause_after_reset * factor
    refined, resets = [], []
    for step in range(16_000):
        if step >= stop:
            break
        if step > start and step % every == 0 and step % reset >= pause:
            refined.append(step)
        if step > 0 and step % reset == 0:
            resets.append(step)
    steps = np.arange(16_000)
    due = jax.jit(functools.partial(default.refine_due, config=config))
    np.testing.assert_array_equal(np.flatnonzero(due(steps)), refined)
    np.testing.assert_array_equal(np.flatnonzero(default.reset_due(steps, config)), resets)
    assert len(resets) == 4


def test_scaled_steps_are_whole_and_periods_stay():
    scaled = CONFIG._replace(steps_scale=0.001).scaled()
    assert scaled.refine_every == 1 and scaled.reset_every == 3 and scaled.refine_start == 0
    assert scaled.steps_scale == 1 and scaled.scaled() == scaled
    assert CONFIG._replace(refine_every=100, steps_scale=0.29).scaled().refine_every == 29
    with pytest.raises(ValueError, match="steps_scale: found 0"):
        CONFIG._replace(steps_scale=0).scaled()


def test_opacity_reset_lowers_but_never_raises():
    params = stock.make(0, 20, opacities=np.linspace(0.001, 0.9, 20))
    alive = np.arange(20) != 15
    after = default.reset_opacity(params, alive, 0.01)
    before = stock.sigmoid(params["logit_opacities"])
    expected = np.where(alive, np.minimum(before, 0.01), before)
    np.testing.assert_allclose(stock.sigmoid(after["logit_opacities"]), expected, rtol=1e-5)
    stock.assert_same(after | {"logit_opacities": params["logit_opacities"]}, params)
    ones = {k: np.ones_like(x) for k, x in params.items()}
    (mu, nu), count = rows.zero_opacity_moments(((ones, dict(ones)), np.int32(3)))
    assert count == 3
    for moments in (mu, nu):
        assert not np.any(moments["logit_opacities"])
        stock.assert_same(moments | {"logit_opacities": ones["logit_opacities"]}, ones)
    with pytest.raises(ValueError, match="value: found 1.5"):
        default.reset_opacity(params, alive, 1.5)


@pytest.mark.slow
def test_more_rows_change_nothing_but_the_room():
    params, alive, stats = _case(1, 20, 20)
    moments = ({k: np.ones_like(x) for k, x in params.items()}, np.int32(9))
    after, now_alive, (mu, count) = default.grow_capacity(params, alive, moments, 30)
    assert count == 9 and np.sum(now_alive) == 20
    for name in rows.FIELDS:
        np.testing.assert_array_equal(after[name][:20], params[name])
        assert np.all(mu[name][:20] == 1) and not np.any(mu[name][20:])
    assert np.all(stock.sigmoid(after["logit_opacities"][20:]) < 1e-8) and stock.finite(after)
    longer = default.Stats(*(np.pad(x, (0, 10)) for x in stats))
    dropped = [_densify(jax.random.key(0), *args, CONFIG, 600, 10.0)[3] for args in (
        (params, alive, stats), (after, now_alive, longer))]  # fmt: skip
    assert dropped[1] == max(dropped[0] - 10, 0) < dropped[0]
    same = default.grow_capacity(params, alive, (), 20)[0]
    stock.assert_same(same, params)
    with pytest.raises(ValueError, match="new_num: found 10, expected at least the 20"):
        default.grow_capacity(params, alive, (), 10)


@pytest.mark.slow
def test_vmap_over_scenes_is_a_loop():
    scenes = [_case(seed, 30, used) for seed, used in ((0, 10), (1, 29), (2, 0))]
    batch = jax.tree.map(lambda *x: np.stack(x), *scenes)
    keys, scale = jax.random.split(jax.random.key(0), 3), np.float32([10, 5, 10])

    def both(key, params, alive, stats, scale):
        return default.refine(key, params, alive, stats, CONFIG, 3100, scale)

    mapped = jax.jit(jax.vmap(both))(keys, *batch, scale)
    one = jax.jit(both)
    for i, scene in enumerate(scenes):
        single = one(keys[i], *scene, scale[i])
        for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(single)):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


def test_no_rows_and_gradients_that_are_nan():
    params, alive = stock.make(0, 0), np.zeros(0, bool)
    after, alive, _, dropped = _densify(
        jax.random.key(0), params, alive, default.Stats.empty(0), CONFIG, 600, 1.0)  # fmt: skip
    assert dropped == 0 and after["means"].shape == (0, 3)
    params, alive, stats = _case(0, 8, 4)
    grad = np.full(8, np.nan, np.float32)
    grad[np.flatnonzero(alive)[1]] = 1
    wide = np.where(alive, 0.1, 0).astype(np.float32)
    stats = default.Stats(grad, np.ones(8, np.float32), wide)
    after, now_alive, _, dropped = _densify(
        jax.random.key(0), params, alive, stats, SCREEN, 600, 1.0)  # fmt: skip
    assert dropped == 0 and np.all(now_alive) and stock.finite(after)


def test_wrong_arguments_are_named():
    params, alive, stats = _case(0, 8, 4)
    with pytest.raises(ValueError, match="stats: found 5 rows, expected 8"):
        default.densify(jax.random.key(0), params, alive, default.Stats.empty(5), CONFIG, 1, 1.0)
    with pytest.raises(ValueError, match=r"radii: found shape \[2, 8\], expected \[C, 8, 2\]"):
        default.accumulate(stats, np.zeros((2, 8, 2)), np.zeros((2, 8)), 10, 10)
    with pytest.raises(ValueError, match=r"means2d_grad: found shape"):
        default.accumulate(stats, np.zeros((2, 7, 2)), np.zeros((2, 8, 2)), 10, 10)
