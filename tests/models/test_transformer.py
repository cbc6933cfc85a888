"""models.transformer: a block against NumPy, stochastic depth, variants, remat."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import transformer

CONFIG = transformer.TransformerConfig(width=8, depth=2, heads=2, hidden=12)


def _random_like(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), tree)


def _x(batch=2):
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, 5, 8)), jnp.float32)


@functools.cache
def _block(mlp="packed_swiglu"):
    config = transformer.TransformerConfig(8, 1, 2, 12, mlp)
    module = transformer.Block(config, 0.0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), _x())
    return module, _random_like(shapes)


def _norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def _attention(x, p):
    q, k, v = np.split(x @ p["qkv_kernel"], 3, -1)
    q, v = q + p["q_bias"], v + p["v_bias"]
    out = np.zeros_like(x)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        logits = q[..., part] @ np.swapaxes(k[..., part], -1, -2) / 2.0
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        out[..., part] = probs @ v[..., part]
    return out @ p["proj"]["kernel"] + p["proj"]["bias"]


def _mlp(x, p, kind):
    dense = lambda x, name: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731
    if kind == "gelu":
        h = dense(x, "fc1")
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / np.sqrt(2)))
    elif kind == "packed_swiglu":
        h = dense(x, "fc1")
        h = silu(h[..., :12]) * h[..., 12:]
    else:
        h = _norm(silu(dense(x, "fc1_g")) * dense(x, "fc1_x"), p["norm"])
    return dense(h, "fc2")


@pytest.mark.parametrize("mlp", transformer.MLPS)
def test_block_matches_its_definition(mlp):
    module, variables = _block(mlp)
    p, x = variables["params"], np.asarray(_x(), np.float64)
    x = x + _attention(_norm(x, p["norm1"]), p["attn"])
    x = x + _mlp(_norm(x, p["norm2"]), p["mlp"], mlp)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, _x()), x, atol=1e-4)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4, 3, 2))
    found = transformer.drop_path(x, 0.25, jnp.asarray([0.0, 0.2, 0.3, 0.9]))
    np.testing.assert_allclose(found[:, 0, 0], [0, 0, 4 / 3, 4 / 3])
    np.testing.assert_array_equal(transformer.drop_path(x, 0.25, None), x)


def test_stochastic_depth_grows_linearly_and_remat_changes_nothing():
    outputs = []
    for remat in (False, True):
        config = transformer.TransformerConfig(8, 2, 2, 12, drop_path=0.5, remat=remat)
        module = transformer.Transformer(config)
        variables = _random_like(jax.eval_shape(module.init, jax.random.key(0), _x()))
        draws = jnp.asarray([[0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.9, 0.9]])
        outputs.append(jax.jit(module.apply)(variables, _x(), draws))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    # example 0: block 0 is never dropped (rate 0), block 1 (rate 0.5) is
    block = transformer.Block(config, 0.0)
    first = block.apply({"params": variables["params"]["blocks_0"]}, _x())
    np.testing.assert_allclose(outputs[0][0], first[0], atol=1e-5)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide width 8"):
        transformer.TransformerConfig(8, 1, 3, 12)
    with pytest.raises(ValueError, match="unknown 'relu'"):
        transformer.TransformerConfig(8, 1, 2, 12, "relu")
