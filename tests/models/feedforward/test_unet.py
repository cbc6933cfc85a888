"""The U-Net over views."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models.feedforward import unet


def _init(model, *args):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *args))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), shapes)


def _norm(x, scale, bias, groups=8):
    y = x.reshape(*x.shape[:-1], groups, -1)
    mean = y.mean((1, 2, 4), keepdims=True)
    variance = y.var((1, 2, 4), keepdims=True)
    return ((y - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * scale + bias


@pytest.mark.parametrize("post_norm", [False, True])
def test_attention_equals_the_loop_over_heads_and_all_views(post_norm):
    x = np.random.default_rng(1).normal(size=(4, 2, 3, 8)).astype(np.float32)
    model = unet.Attention(4, post_norm)
    variables = _init(model, x, 2)
    found = jax.jit(model.apply, static_argnums=2)(variables, x, 2)
    p = jax.tree.map(np.asarray, variables["params"])
    y = x if post_norm else _norm(x, p["norm"]["scale"], p["norm"]["bias"])
    qkv = y @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    out = np.zeros_like(x)
    for example in range(2):
        views = slice(2 * example, 2 * example + 2)
        tokens = qkv[views].reshape(12, 24)
        for head in range(2):
            q, k, v = np.split(tokens[:, 12 * head : 12 * head + 12], 3, axis=1)
            shares = np.exp(q @ k.T / 2)
            mixed = shares / shares.sum(-1, keepdims=True) @ v
            out[views, ..., 4 * head : 4 * head + 4] = mixed.reshape(2, 2, 3, 4)
    out = out @ p["out"]["kernel"] + p["out"]["bias"]
    if post_norm:
        out = _norm(out, p["norm"]["scale"], p["norm"]["bias"])
    np.testing.assert_allclose(found, x + out, atol=2e-4)


def test_residual_branches_start_at_zero():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
    for post_norm in (False, True):
        for model, args in (
            (unet.ResidualBlock(8, post_norm), (x,)),
            (unet.Attention(8, post_norm), (x, 2)),
        ):
            found = jax.jit(lambda m=model, a=args: m.init_with_output(jax.random.key(0), *a)[0])()
            np.testing.assert_array_equal(found, x)


def test_levels_attention_and_shapes_are_as_published():
    config = unet.Config(32, (1, 1, 1, 1), (8,))
    model, x = unet.UNet(config), jnp.zeros((2, 16, 8, 32))
    out, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, 2))
    assert out.shape == (2, 16, 8, 32)
    params = variables["params"]
    assert sorted(k for k in params if k.endswith("attention")) == [
        "down_3_attention", "up_3_0_attention", "up_3_1_attention",
    ]  # fmt: skip
    # 4 blocks down, 2 in the middle, 8 up with twice the channels in and a shortcut; 3 + 3 resampling
    # convolutions, one in, one out; norms.
    conv = lambda i, size=9: size * i * 32 + 32  # noqa: E731
    blocks = 6 * (2 * conv(32) + 4 * 32) + 8 * (conv(64) + conv(32) + conv(64, 1) + 128 + 64)
    rest = 8 * conv(32) + 64 + 3 * (64 + 32 * 96 + 96 + 32 * 32 + 32)
    assert sum(s.size for s in jax.tree.leaves(params)) == blocks + rest
    # Post-norm: norms are over what the first convolution gives.
    post = unet.UNet(unet.Config(32, (1, 1, 1, 1), (8,), post_norm=True))
    shapes = jax.eval_shape(lambda: post.init(jax.random.key(0), x, 2))["params"]
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    assert flat["up_0_0/norm_0/scale"].shape == (32,)
    assert flat["up_0_0/conv_0/kernel"].shape == (3, 3, 64, 32)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="head=32 does not divide the 48 channels of level 1"):
        unet.Config(48, (1, 1), (2,))
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        unet.Config(6)
    model = unet.UNet(unet.Config(8, (1, 1, 1)))
    with pytest.raises(ValueError, match="sides 8 x 6 are no multiples of 4"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 6, 8)), 1))
