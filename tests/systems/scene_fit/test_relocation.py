"""Shares of n Gaussians against Eq. 9 of 3DGS-MCMC as loops and as an integral; drawing of rows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gsjax.systems.scene_fit import relocation

_relocated = jax.jit(relocation.relocated)


def _loops(opacity, n):
    """New opacity and ratio of scales, term by term; 51 alternating terms need whole numbers."""
    new = 1 - (1 - opacity) ** (1 / n)
    total = 0.0
    for i in range(1, n + 1):
        for k in range(i):
            total += math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
    return new, opacity / total


@pytest.mark.parametrize(
    "opacity, n, expected", [(0.8, 2, (0.5528, 0.8994)), (0.8, 5, (0.2752, 0.8446)),
                             (0.99, 51, (0.0863, 0.6421))])  # fmt: skip
def test_known_values(opacity, n, expected):
    found = _relocated(jnp.array([opacity]), jnp.ones((1, 3)), jnp.array([n]))
    np.testing.assert_allclose(found[0][0], expected[0], atol=5e-5)
    np.testing.assert_allclose(found[1][0], [expected[1]] * 3, atol=5e-5)


def test_equals_the_double_sum():
    cases = [(o, n) for o in (0.3, 0.6, 0.9, 0.99) for n in (2, 3, 7, 20, 51)]
    opacities, counts = (np.array(x) for x in zip(*cases))
    scales = np.random.default_rng(0).uniform(0.01, 2, (len(cases), 3)).astype(np.float32)
    new, shrunk = _relocated(jnp.float32(opacities), scales, counts)
    expected = np.array([_loops(*case) for case in cases])
    # float32: 24 bits, and terms of the sum up to 30 times its value.
    np.testing.assert_allclose(new, expected[:, 0], rtol=2e-6)
    np.testing.assert_allclose(shrunk, scales * expected[:, 1:], rtol=5e-6)


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("opacity", [0.2, 0.9])
def test_a_ray_through_all_copies_meets_what_it_met_before(opacity, n):
    """Eq. 9 says: the integral across the centre of 1 - (1 - o' G')^n is that of o G."""
    new, ratio = _relocated(jnp.array([opacity]), jnp.ones((1, 3)), jnp.array([n]))
    x = np.linspace(-12, 12, 200_001)
    alpha = 1 - (1 - float(new[0]) * np.exp(-0.5 * (x / float(ratio[0, 0])) ** 2)) ** n
    before = opacity * math.sqrt(2 * math.pi)
    np.testing.assert_allclose(alpha.sum() * (x[1] - x[0]), before, rtol=1e-5)
    np.testing.assert_allclose(alpha.max(), opacity, rtol=1e-5)


def test_float32_agrees_with_float64_up_to_opacity_one():
    counts = np.array([2, 5, 20, 51])
    with jax.enable_x64(True):
        for opacity in (1e-3, 0.5, 0.999, 1 - 1e-6, 1.0):
            opacities = np.full(4, opacity, np.float32)
            exact = relocation.shares(jnp.float64(opacities), counts, 1e-9)
            found = relocation.shares(jnp.float32(opacities), counts, 1e-9)
            np.testing.assert_allclose(found[0], exact[0], rtol=1e-6)
            # At opacity 1 terms of size 2e5 cancel to a number of size 5.
            np.testing.assert_allclose(found[1], exact[1], rtol=1e-6 if opacity < 0.999 else 2e-4)


def test_edges():
    opacities = jnp.array([0.3, 0.004, 0.9, 0.9, 0.0, 1.0, 0.0])
    counts = jnp.array([1, 1, 51, 400, 3, 51, 0])
    scales = jnp.full((7, 3), 0.7)
    new, shrunk = _relocated(opacities, scales, counts, 0.005)
    assert np.isfinite(new).all() and np.isfinite(shrunk).all() and (shrunk >= 0).all()
    for single in (0, 1, 6):  # one Gaussian stays what it is, floor or not
        assert new[single] == opacities[single] and (shrunk[single] == scales[single]).all()
    assert new[2] == new[3] and (shrunk[2] == shrunk[3]).all()  # beyond 51 counts as 51
    assert new[4] == np.float32(0.005) and new[5] < 1


def test_copies_at_the_floor_shrink_instead():
    """o = 0.02 shared by 40 would be 0.0005 each; at the floor of 0.005 they must be smaller."""
    new, ratio = relocation.shares(jnp.array([0.02]), jnp.array([40]), 0.005)
    assert new[0] == np.float32(0.005)
    x = np.linspace(-12, 12, 20_001)
    alpha = 1 - (1 - 0.005 * np.exp(-0.5 * (x / float(ratio[0])) ** 2)) ** 40
    np.testing.assert_allclose(
        alpha.sum() * (x[1] - x[0]), 0.02 * math.sqrt(2 * math.pi), rtol=1e-4
    )


def _chi_square(found, expected):
    """Passes 999 times in 1,000 when the draws have the expected frequencies."""
    statistic = np.sum((found - expected) ** 2 / expected)
    assert statistic < scipy.stats.chi2.ppf(0.999, len(found) - 1), statistic


@pytest.mark.parametrize("systematic", [False, True])
def test_frequencies_are_the_weights(systematic):
    weights = np.random.default_rng(1).uniform(0.01, 1, 40).astype(np.float32)
    weights[[0, 7, 39]] = 0
    draw = jax.jit(lambda k: relocation.sample_sources(k, weights, 20, systematic))
    drawn = jax.vmap(draw)(jax.random.split(jax.random.key(2), 4000)).reshape(-1)
    found = np.bincount(drawn, minlength=40)
    assert not found[weights == 0].any()
    expected = weights / weights.sum() * drawn.size
    keep = weights > 0
    _chi_square(found[keep], expected[keep])
    if systematic:  # one draw in each of 20 parts: less variance, so the statistic is smaller
        independent = jax.vmap(lambda k: relocation.sample_sources(k, weights, 20, False))
        other = independent(jax.random.split(jax.random.key(2), 4000)).reshape(-1)
        other = np.bincount(other, minlength=40)
        spread = [np.sum((f[keep] - expected[keep]) ** 2) for f in (found, other)]
        assert spread[0] < 0.8 * spread[1]


def test_systematic_counts_stay_within_two_of_the_expectation():
    weights = np.random.default_rng(3).exponential(size=100).astype(np.float32)
    drawn = relocation.sample_sources(jax.random.key(0), weights, 5000)
    found = np.bincount(drawn, minlength=100)
    assert np.all(np.abs(found - 5000 * weights / weights.sum()) < 2)
    assert np.all(np.diff(drawn) >= 0) and drawn.dtype == jnp.int32


@pytest.mark.slow
def test_the_first_draws_alone_cover_everything():
    """Parts are as many as draws that count: a prefix is no sample of the first rows only."""
    weights = np.ones(50, np.float32)
    draw = jax.jit(lambda k, used: relocation.sample_sources(k, weights, 64, used=used))
    keys = jax.random.split(jax.random.key(4), 3000)
    drawn = jax.vmap(draw, (0, None))(keys, 7)[:, :7].reshape(-1)
    _chi_square(np.bincount(drawn, minlength=50), np.full(50, drawn.size / 50))
    for used in (0, 1, 64):
        all_drawn = draw(keys[0], used)
        assert np.all((all_drawn >= 0) & (all_drawn < 50))


@pytest.mark.parametrize("systematic", [False, True])
def test_no_row_of_weight_zero_is_ever_drawn(systematic):
    weights = np.zeros(300, np.float32)
    weights[[3, 100, 298]] = 1e-20, 3e-20, 2e-20
    weights[5], weights[6], weights[7] = np.nan, -1.0, np.inf
    drawn = relocation.sample_sources(jax.random.key(5), weights, 60_000, systematic)
    assert set(np.unique(drawn)) == {3, 100, 298}
    _chi_square(np.bincount(drawn)[[3, 100, 298]], np.array([1e4, 3e4, 2e4]))


@pytest.mark.parametrize("last", [False, True])
def test_first_and_last_unit_of_a_part_belong_to_its_row(monkeypatch, last):
    """Beside rows of weight 0 an end counted twice, or not at all, would draw those."""

    def extreme(key, shape, low, high, dtype):
        return jnp.broadcast_to(high - 1 if last else low, shape).astype(dtype)

    monkeypatch.setattr(relocation.jax.random, "randint", extreme)
    weights = jnp.array([0.0, 1.0, 0.0, 1.0, 0.0])
    assert relocation.sample_sources(jax.random.key(0), weights, 2).tolist() == [1, 3]
    found = relocation.sample_sources(jax.random.key(0), weights, 2, False)
    assert found.tolist() == ([3, 3] if last else [1, 1])


def test_weights_below_the_rounding_of_a_float32_sum_keep_their_share():
    """1 + 1e-8 is 1 in float32: a running sum in it would never draw any but row 0."""
    weights = np.full(100_001, 1e-8, np.float32)
    weights[0] = 1
    drawn = relocation.sample_sources(jax.random.key(6), weights, 400_000)
    rest = drawn[drawn > 0]
    # A thousandth of the draws; the grid of 2^31 rounds 21.4 units to 21 (2 %), chance adds 2.5 %.
    np.testing.assert_allclose(len(rest), 400, rtol=0.1)
    assert rest.max() > 99_000 and rest.min() < 1_000


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [1e36, 1e36, 1e36]])
def test_few_and_extreme_weights(weights):
    drawn = relocation.sample_sources(jax.random.key(7), jnp.array(weights), 50)
    assert np.all((drawn >= 0) & (drawn < 3))
    if weights[1] == 2.0:
        assert np.all(drawn == 1)
    if weights[0] > 1:
        assert set(np.unique(drawn)) == {0, 1, 2}
    assert relocation.sample_sources(jax.random.key(7), jnp.array(weights), 0).shape == (0,)


@pytest.mark.slow
def test_vmap_is_a_loop():
    keys = jax.random.split(jax.random.key(8), 3)
    weights = jax.random.uniform(jax.random.key(9), (3, 30))
    used = jnp.array([4, 12, 0])

    def draw(key, w, n):
        return relocation.sample_sources(key, w, 12, used=n)

    mapped = jax.jit(jax.vmap(draw))(keys, weights, used)
    for i in range(3):
        np.testing.assert_array_equal(mapped[i], draw(keys[i], weights[i], used[i]))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"scales: found shape \[2, 3\], expected \[3, 3\]"):
        relocation.relocated(jnp.ones(3), jnp.ones((2, 3)), jnp.ones(3, int))
    with pytest.raises(ValueError, match=r"counts: found shape \[1\]"):
        relocation.relocated(jnp.ones(3), jnp.ones((3, 3)), jnp.ones(1, int))
    with pytest.raises(ValueError, match="weights: found shape"):
        relocation.sample_sources(jax.random.key(0), jnp.ones((2, 2)), 1)
    with pytest.raises(ValueError, match="weights: found shape"):
        relocation.sample_sources(jax.random.key(0), jnp.ones(0), 1)
    with pytest.raises(ValueError, match="num: found -1"):
        relocation.sample_sources(jax.random.key(0), jnp.ones(2), -1)
