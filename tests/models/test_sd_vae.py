import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import sd_vae
from tests.models import sd_vae_case

QUICK = {"xla_backend_optimization_level": 0}
CONFIG = sd_vae_case.CONFIG


def _run(module, variables, *args, **kwargs):
    apply = functools.partial(module.apply, **kwargs)
    return jax.jit(apply, compiler_options=QUICK)({"params": variables}, *args)


def _group_norm(x, part, groups):
    """[H, W, C], each group of channels by itself."""
    rows = x.reshape(*x.shape[:2], groups, -1)
    mean, var = rows.mean((0, 1, 3), keepdims=True), rows.var((0, 1, 3), keepdims=True)
    rows = (rows - mean) / np.sqrt(var + 1e-6)
    return rows.reshape(x.shape) * part["scale"] + part["bias"]


def _conv(x, part, stride=1, pad=None):
    size = part["kernel"].shape[0]
    pad = ((size // 2, size // 2),) * 2 if pad is None else pad
    x = np.pad(x, (*pad, (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[:2])
    out = part["bias"] + np.zeros((height, width, 1))
    for i in range(size):
        for j in range(size):
            rows = x[i : i + (height - 1) * stride + 1 : stride]
            out = out + rows[:, j : j + (width - 1) * stride + 1 : stride] @ part["kernel"][i, j]
    return out


def _silu(x):
    return x / (1 + np.exp(-x))


def _block(x, part, groups):
    y = _conv(_silu(_group_norm(x, part["norm1"], groups)), part["conv1"])
    y = _conv(_silu(_group_norm(y, part["norm2"], groups)), part["conv2"])
    return y + (_conv(x, part["shortcut"]) if "shortcut" in part else x)


def _attention(x, part, groups):
    rows = _group_norm(x, part["norm"], groups).reshape(-1, x.shape[-1])
    q, k, v = (rows @ part[n]["kernel"] + part[n]["bias"] for n in "qkv")
    logits = q @ k.T / np.sqrt(x.shape[-1])
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return x + (shares @ v @ part["out"]["kernel"] + part["out"]["bias"]).reshape(x.shape)


def _middle(x, part, groups):
    x = _block(x, part["block_0"], groups)
    return _block(_attention(x, part["attention"], groups), part["block_1"], groups)


def _encode(x, part, config):
    x = _conv(x, part["conv_in"])
    for level in range(len(config.widths)):
        for i in range(config.layers):
            x = _block(x, part[f"down_{level}_block_{i}"], config.groups)
        if level < len(config.widths) - 1:
            x = _conv(x, part[f"down_{level}_conv"], 2, ((0, 1), (0, 1)))
    x = _silu(
        _group_norm(_middle(x, part["middle"], config.groups), part["norm_out"], config.groups)
    )
    return _conv(_conv(x, part["conv_out"]), part["quant"])


def _decode(x, part, config):
    x = _conv(_conv(x, part["post_quant"]), part["conv_in"])
    x = _middle(x, part["middle"], config.groups)
    for level in range(len(config.widths)):
        for i in range(config.layers + 1):
            x = _block(x, part[f"up_{level}_block_{i}"], config.groups)
        if level < len(config.widths) - 1:
            x = _conv(np.kron(x, np.ones((2, 2, 1))), part[f"up_{level}_conv"])
    return _conv(_silu(_group_norm(x, part["norm_out"], config.groups)), part["conv_out"]), x


@pytest.fixture(scope="module")
def weights():
    return sd_vae_case.params()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).uniform(-1, 1, (2, 6, 8, 3)).astype(np.float32)


def test_the_published_sizes_have_the_published_number_of_parameters():
    """83.65 M: counted from the shapes of every kernel, bias and norm, by tracing alone."""
    shapes = sd_vae.param_shapes(sd_vae.Config())
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 83_653_863
    assert sd_vae.Config().stride == 8


def test_encode_and_decode_follow_plain_loops(weights, pictures):
    net = sd_vae.SdVae(CONFIG)
    both = lambda net, x: (net.encode(x), net(x))  # noqa: E731
    (mean, log_variance), (decoded, features) = _run(net, weights, pictures, method=both)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
    for row in range(2):
        moments = _encode(pictures[row].astype(np.float64), exact["encoder"], CONFIG)
        picture, inner = _decode(moments[..., :2], exact["decoder"], CONFIG)
        # float32 sums over 100 numbers, ten layers deep, of values of order one.
        np.testing.assert_allclose(mean[row], moments[..., :2], atol=2e-5)
        np.testing.assert_allclose(log_variance[row], moments[..., 2:], atol=2e-5)
        np.testing.assert_allclose(decoded[row], picture, atol=5e-5)
        np.testing.assert_allclose(features[row], inner, atol=5e-5)
    assert mean.shape == (2, 3, 4, 2) and features.shape == (2, 6, 8, 8)


def test_gradients_are_those_of_finite_differences(weights, pictures):
    rng = np.random.default_rng(2)
    direction = rng.normal(size=pictures.shape[1:])
    with jax.enable_x64(True):
        net = sd_vae.SdVae(CONFIG, jnp.float64)
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), weights)
        x = jnp.asarray(pictures[:1], jnp.float64)

        def value(params, step):
            return jnp.mean(net.apply({"params": params}, x + step * direction)[1] ** 2)

        slope = jax.jit(jax.grad(value, 1), compiler_options=QUICK)(params, 0.0)
        value, step = jax.jit(value, compiler_options=QUICK), 1e-4
        expected = float((value(params, step) - value(params, -step)) / (2 * step))
        slope = float(slope)
    assert slope == pytest.approx(expected, rel=1e-5) and abs(slope) > 1e-3


def test_half_precision_is_close_and_norms_stay_exact(weights, pictures):
    exact = _run(sd_vae.SdVae(CONFIG), weights, pictures)[1]
    half = _run(sd_vae.SdVae(CONFIG, jnp.bfloat16), weights, pictures)[1]
    assert half.dtype == jnp.bfloat16
    error = np.abs(np.asarray(half, np.float32) - exact)
    # Eight bits of mantissa: 0.4 % a layer, of values of order one, in some twenty layers.
    assert 1e-4 < error.max() < 0.3 and error.mean() < 0.03


def test_other_sides_and_sizes_are_refused(weights):
    with pytest.raises(ValueError, match=r"multiples of 2, found \[1, 5, 4, 3\]"):
        _run(sd_vae.SdVae(CONFIG), weights, jnp.zeros((1, 5, 4, 3)))
    with pytest.raises(ValueError, match="groups=5 must divide"):
        sd_vae.Config(widths=(8,), groups=5)
    with pytest.raises(ValueError, match="from 1 on"):
        sd_vae.Config(layers=0)
    with pytest.raises(ValueError, match="needs widths"):
        sd_vae.Config(widths=())


@pytest.mark.slow
def test_the_published_sizes_run():
    """Random weights, a small picture: every layer at its full width."""
    config = sd_vae.Config()
    params = jax.tree.map(jnp.asarray, sd_vae_case.params(config))
    pictures = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (1, 32, 24, 3)), jnp.float32)
    decoded, features = _run(sd_vae.SdVae(config), params, pictures)
    assert decoded.shape == (1, 32, 24, 3) and features.shape == (1, 32, 24, 128)
    assert np.isfinite(decoded).all() and np.isfinite(features).all()
    alone = _run(sd_vae.SdVae(config), params, pictures, method="features")
    np.testing.assert_allclose(alone, features, rtol=1e-4, atol=1e-4)
