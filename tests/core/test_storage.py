"""Packed Gaussians: the errors that the module promises, and odd scenes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import gaussians, storage


def _raw(seed=0, scenes=2, num=200, coeffs=4):
    rng = np.random.default_rng(seed)
    shape = (scenes, num)
    return gaussians.RawGaussians(
        means=jnp.asarray(rng.normal(size=(*shape, 3)) * [1, 10, 0.1] + 5, jnp.float32),
        quats=jnp.asarray(rng.normal(size=(*shape, 4)), jnp.float32),
        log_scales=jnp.asarray(rng.uniform(-16, 16, (*shape, 3)), jnp.float32),
        logit_opacities=jnp.asarray(rng.uniform(-12, 12, shape), jnp.float32),
        sh=jnp.asarray(rng.normal(size=(*shape, coeffs, 3)), jnp.float32),
    )


_pack = jax.jit(storage.pack, static_argnames="dtype")
_unpack = jax.jit(storage.unpack)


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_errors_stay_within_the_documented_bounds(dtype, unit):
    raw = _raw()
    back = _unpack(_pack(raw, dtype))
    box = np.ptp(np.asarray(raw.means), 1, keepdims=True)
    rounding = 4 * np.finfo(np.float32).eps * np.abs(raw.means).max()
    assert np.all(np.abs(back.means - raw.means) <= box / 131_070 + rounding)
    quats, exact = (np.float64(x) for x in (back.quats, raw.quats))
    exact /= np.linalg.norm(exact, axis=-1, keepdims=True)
    assert np.max(np.abs(quats - exact)) <= unit / 2 + 1e-7
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    distance = np.linalg.norm(quats - exact, axis=-1)  # twice this is the angle, for small ones
    assert np.degrees(2 * distance.max()) <= 0.06 * unit * 2**11
    for name in ("log_scales", "logit_opacities", "sh"):
        found, exact = getattr(back, name), getattr(raw, name)
        assert np.all(np.abs(found - exact) <= unit * np.abs(exact) + 3e-8), name
    scales = np.exp(back.log_scales) / np.exp(raw.log_scales)
    assert np.max(np.abs(scales - 1)) <= 0.004 * unit * 2**11
    opacities = jax.nn.sigmoid(back.logit_opacities) - jax.nn.sigmoid(raw.logit_opacities)
    assert np.max(np.abs(opacities)) <= 0.0002 * unit * 2**11


def test_takes_half_the_bytes():
    raw = _raw(coeffs=16)
    size = sum(x.nbytes for x in jax.tree.leaves(raw))
    assert storage.pack(raw).nbytes <= 0.5 * size + 2 * 24


def test_activated_gaussians_are_taken_as_well():
    raw = _raw(1)
    first, second = _pack(raw), _pack(raw.activate())
    np.testing.assert_array_equal(first.means, second.means)
    np.testing.assert_allclose(
        np.float32(second.log_scales), np.float32(first.log_scales), atol=0.01
    )


def test_odd_scenes():
    raw = _raw(2, scenes=1, num=3)
    flat = jax.tree.map(lambda x: x.at[:].set(x[:, :1]), raw)  # all in one point
    np.testing.assert_allclose(_unpack(_pack(flat)).means, flat.means, rtol=1e-6)
    lost = jax.tree.map(lambda x: x, raw)
    lost = gaussians.RawGaussians(
        **{**vars(lost), "means": raw.means.at[0, 1, 2].set(jnp.nan).at[0, 2, 0].set(jnp.inf)}
    )
    back = _unpack(_pack(lost))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(back))
    opacities = jax.nn.sigmoid(back.logit_opacities)[0]
    assert opacities[1] == opacities[2] == 0 < opacities[0]
    none = jax.tree.map(lambda x: x[:, :0], raw)
    assert _unpack(_pack(none)).means.shape == (1, 0, 3)
    with pytest.raises(ValueError, match="dtype: found 'int8'.*bfloat16"):
        storage.pack(raw, "int8")


def test_gradients_reach_what_is_stored_in_floating_point():
    packed = storage.pack(_raw(3))
    grad = jax.grad(lambda sh: jnp.sum(storage.unpack(
        storage.PackedGaussians(**{**vars(packed), "sh": sh})).sh ** 2))(packed.sh)  # fmt: skip
    assert grad.dtype == jnp.float16
    np.testing.assert_allclose(np.float32(grad), 2 * np.float32(packed.sh), rtol=1e-3)
