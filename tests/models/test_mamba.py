"""The Mamba mixer against a loop over tokens; masks, directions, initial values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import mamba

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
WIDTH, LENGTH = 8, 7
CONFIG = dict(width=WIDTH, state=3, chunk=4)


def variables_of(mixer, seed: int = 0):
    """Parameters moved off their initial values."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 2, WIDTH)))
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), shapes)


def tokens(batch: int = 2, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, LENGTH, WIDTH)), jnp.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def branch_loop(p, x, z):
    """One direction on one sequence, from the definition: x, z [L, inner] -> [L, inner]."""
    length, inner = x.shape
    kernel, state = p["conv_kernel"], np.zeros((inner, p["A_log"].shape[1]))
    rank, taps, out = p["dt_kernel"].shape[0], kernel.shape[0], []
    for t in range(length):
        window = [x[t - taps + 1 + j] if t - taps + 1 + j >= 0 else 0 * x[0] for j in range(taps)]
        u = silu(sum(k * w for k, w in zip(kernel, window, strict=True)) + p["conv_bias"])
        read = u @ p["x_proj"]["kernel"]
        b, c = np.split(read[rank:], 2)
        dt = np.log1p(np.exp(read[:rank] @ p["dt_kernel"] + p["dt_bias"]))
        state = np.exp(-dt[:, None] * np.exp(p["A_log"])) * state + (dt * u)[:, None] * b
        out.append((state @ c + p["D"] * u) * silu(z[t]))
    return np.stack(out)


def mixer_loop(params, x, backward):
    """The whole mixer on one sequence [L, width]."""
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    xz = np.asarray(x, np.float64) @ p["in_proj"]["kernel"]
    half = xz.shape[1] // 2
    total = branch_loop(p["forward"], xz[:, :half], xz[:, half:])
    if backward == "sequence":
        turned = xz[::-1]
        total = total + branch_loop(p["backward"], turned[:, :half], turned[:, half:])[::-1]
    if backward == "channel":
        turned = xz[:, ::-1]
        total = total + branch_loop(p["backward"], turned[:, :half], turned[:, half:])[:, ::-1]
    return total @ p["out_proj"]["kernel"]


@pytest.mark.parametrize("backward", mamba.BACKWARD)
def test_mixer_is_the_loop(backward):
    mixer = mamba.Mixer(mamba.MambaConfig(**CONFIG, backward=backward))
    variables, x = variables_of(mixer), tokens()
    got = quick(mixer.apply)(variables, x)
    want = [mixer_loop(variables["params"], row, backward) for row in x]
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("backward", ["channel", "sequence"])
def test_masked_tail_changes_nothing(backward):
    mixer = mamba.Mixer(mamba.MambaConfig(**CONFIG, backward=backward))
    variables, x = variables_of(mixer), tokens()
    mask = jnp.arange(LENGTH) < jnp.asarray([[4], [LENGTH]])
    got = quick(mixer.apply)(variables, jnp.where(mask[..., None], x, jnp.nan), mask)
    want = mixer_loop(variables["params"], x[0, :4], backward)
    np.testing.assert_allclose(got[0, :4], want, atol=2e-5)
    assert not np.asarray(got)[0, 4:].any()


def test_forward_branch_sees_no_later_token():
    mixer = mamba.Mixer(mamba.MambaConfig(**CONFIG))
    variables, x = variables_of(mixer), tokens(1)
    run = quick(mixer.apply)
    changed = run(variables, x.at[:, 4].add(1.0)) - run(variables, x)
    assert not np.asarray(changed)[0, :4].any() and np.abs(changed[0, 4:]).min(-1).max() > 0


def test_initial_values_are_those_of_mamba():
    mixer = mamba.Mixer(mamba.MambaConfig(64, backward="channel"))
    params = quick(mixer.init)(jax.random.key(0), jnp.zeros((1, 2, 64)))["params"]
    for name in ("forward", "backward"):
        branch = params[name]
        np.testing.assert_allclose(
            np.exp(branch["A_log"]), np.tile(np.arange(1, 17), (128, 1)), 1e-5
        )
        assert (np.asarray(branch["D"]) == 1).all()
        dt = np.log1p(np.exp(np.asarray(branch["dt_bias"], np.float64)))
        assert 0.9e-3 < dt.min() < 2e-3 and 0.05 < dt.max() < 0.101
        assert abs(np.log(dt).mean() - np.log(1e-2)) < 0.4  # log-uniform: standard error 0.12
        assert 0.45 < np.abs(branch["conv_kernel"]).max() <= 0.5  # 4 taps
        assert branch["dt_kernel"].shape == (4, 128) and np.abs(branch["dt_kernel"]).max() <= 0.5
    assert np.abs(params["forward"]["dt_bias"] - params["backward"]["dt_bias"]).max() > 0.1


def test_residual_layers_shrink_the_output_projection():
    def size(layers):
        mixer = mamba.Mixer(mamba.MambaConfig(64, residual_layers=layers))
        params = quick(mixer.init)(jax.random.key(0), jnp.zeros((1, 2, 64)))["params"]
        return float(jnp.std(params["out_proj"]["kernel"]))

    assert size(9) == pytest.approx(size(1) / 3, rel=1e-5)


def test_computing_in_bfloat16_keeps_the_scan_in_float32():
    config = mamba.MambaConfig(**CONFIG)
    variables, x = variables_of(mamba.Mixer(config)), tokens()
    half = quick(mamba.Mixer(config, jnp.bfloat16).apply)(variables, x)
    full = quick(mamba.Mixer(config).apply)(variables, x)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.02 * np.abs(full).max())


def test_wrong_settings_and_shapes_are_refused():
    with pytest.raises(
        ValueError, match="backward: unknown 'both'; known: none, channel, sequence"
    ):
        mamba.MambaConfig(8, backward="both")
    with pytest.raises(ValueError, match="state: expected at least 1, found 0"):
        mamba.MambaConfig(8, state=0)
    with pytest.raises(ValueError, match="chunk: expected None or at least 1, found 0"):
        mamba.MambaConfig(8, chunk=0)
    mixer = mamba.Mixer(mamba.MambaConfig(8))
    with pytest.raises(ValueError, match=r"x: expected \[B, L, 8\], found \[2, 7, 9\]"):
        mixer.init(jax.random.key(0), jnp.zeros((2, 7, 9)))
