"""Resampling: loops from the definitions, hand-computed rows, identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import resize

SIZES = [(7, 4), (4, 7), (5, 5), (1, 3), (6, 1), (12, 5)]


def _bilinear_loop(row, out, corners):
    size, result = len(row), []
    for i in range(out):
        if corners:
            at = i * (size - 1) / (out - 1) if out > 1 else 0.0
        else:
            at = max((i + 0.5) * size / out - 0.5, 0.0)
        low = min(int(at), size - 1)
        high = min(low + 1, size - 1)
        result.append(row[low] * (1 - (at - low)) + row[high] * (at - low))
    return np.asarray(result)


@pytest.mark.parametrize("out, size", SIZES)
@pytest.mark.parametrize("method", ["corners", "bilinear"])
def test_bilinear_is_the_loop(method, out, size):
    row = np.random.default_rng(0).normal(size=size)
    expected = _bilinear_loop(row, out, method == "corners")
    np.testing.assert_allclose(resize.weights(out, size, method) @ row, expected, atol=1e-12)


def test_rows_by_hand():
    np.testing.assert_allclose(
        resize.weights(3, 2, "corners"), [[1, 0], [0.5, 0.5], [0, 1]], atol=1e-15
    )
    np.testing.assert_allclose(
        resize.weights(4, 2, "bilinear"), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]], atol=1e-15
    )
    # Half-way between samples the kernel of a = -0.75 weighs -3/32, 19/32, 19/32, -3/32.
    middle = resize.weights(2, 4, "bicubic")[0]  # at 0.5: taps -1 (the border), 0, 1, 2
    np.testing.assert_allclose(middle, np.array([16, 19, -3, 0]) / 32, atol=1e-15)
    assert np.argmax(resize.weights(256, 252, "nearest"), 1).tolist() == [
        i * 252 // 256 for i in range(256)
    ]


@pytest.mark.parametrize("method", resize.METHODS)
@pytest.mark.parametrize("out, size", SIZES)
def test_constants_stay_and_equal_sizes_change_nothing(method, out, size):
    np.testing.assert_allclose(resize.weights(out, size, method).sum(1), 1, atol=1e-12)
    np.testing.assert_array_equal(resize.weights(size, size, method), np.eye(size))


def test_antialiased_halving_averages_and_keeps_lines():
    rows = resize.weights(8, 16, "bicubic_antialias")
    assert (np.count_nonzero(rows, 1)[2:-2] == 8).all()  # four taps of the source's double width
    np.testing.assert_allclose((rows @ np.arange(16.0))[2:-2], 2 * np.arange(8)[2:-2] + 0.5)
    plain = resize.weights(8, 16, "bicubic")
    assert (np.count_nonzero(plain, 1) <= 4).all()


def test_a_step_of_its_own_is_a_scale_factor():
    # 37 -> 18 by factor 18.1 / 37: the place of output i is (i + 0.5) * 37 / 18.1 - 0.5.
    row = np.random.default_rng(2).normal(size=37)
    found = resize.weights(18, 37, "bicubic", 37 / 18.1) @ row
    for i in range(18):
        at, total = (i + 0.5) * 37 / 18.1 - 0.5, 0.0
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            t = abs(at - tap)
            near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3
            total += (near if t <= 1 else far) * row[min(max(tap, 0), 36)]
        np.testing.assert_allclose(found[i], total, atol=1e-12)
    with pytest.raises(ValueError, match="step"):
        resize.weights(18, 37, "corners", 2.0)


def test_maps_of_any_leading_axes_and_types():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 3, 4, 5, 2)).astype(np.float32)
    found = resize.resize(jnp.asarray(x), (6, 3), "bilinear")
    expected = np.einsum(
        "oh,pw,abhwc->abopc",
        resize.weights(6, 4, "bilinear"),
        resize.weights(3, 5, "bilinear"),
        x,
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert resize.resize(jnp.asarray(x, jnp.bfloat16), (6, 3), "corners").dtype == jnp.bfloat16
    nearest = resize.resize(jnp.asarray(x), (8, 5), "nearest")
    np.testing.assert_array_equal(nearest, np.repeat(x, 2, axis=2))
    same = jnp.asarray(x)
    assert resize.resize(same, (4, 5), "bicubic") is same
    # Linear: the gradient of a sum is the matrix's columns.
    slope = jax.grad(lambda y: resize.resize(y, (6, 5), "corners").sum())(same[0, 0])
    columns = resize.weights(6, 4, "corners").sum(0)
    np.testing.assert_allclose(slope, np.broadcast_to(columns[:, None, None], (4, 5, 2)), rtol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="known: "):
        resize.weights(3, 3, "cubic")
    with pytest.raises(ValueError, match="at least 1"):
        resize.weights(0, 3, "corners")
    with pytest.raises(ValueError, match="floating"):
        resize.resize(jnp.zeros((3, 3, 1), jnp.int32), (2, 2), "nearest")
