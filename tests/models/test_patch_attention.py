"""Attention within patches against dense attention under a block mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import voxel_orders
from gsjax.models import patch_attention

BATCH, NUM, WIDTH, HEADS = 2, 22, 8, 2
COUNTS = (17, 6)


def make_case():
    """x [B, V, C], mask, an order with valid rows first, its inverse."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(BATCH, NUM, WIDTH)), jnp.float32)
    order = np.stack([rng.permutation(NUM) for _ in range(BATCH)])
    mask = np.zeros((BATCH, NUM), bool)
    for b, count in enumerate(COUNTS):
        mask[b, order[b, :count]] = True
    order = jnp.asarray(order)
    return x, jnp.asarray(mask), order, voxel_orders.inverse(order)


X, MASK, ORDER, BACK = make_case()


def variables(attention):
    shapes = jax.eval_shape(lambda: attention.init(jax.random.key(0), X, MASK, ORDER, BACK))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.4, s.dtype), shapes)


def dense(variables, x, patch):
    """Every row against every row of its cloud, of which a mask leaves those of the same patch."""
    p = variables["params"]
    qkv = (x @ p["qkv"]["kernel"] + p["qkv"].get("bias", 0.0)).reshape(BATCH, NUM, 3, HEADS, -1)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    same = (BACK // patch)[:, :, None] == (BACK // patch)[:, None]
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (WIDTH // HEADS) ** 0.5
    logits = jnp.where((same & MASK[:, None])[:, None], logits, -1e9)
    out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits, -1), v)
    return out.reshape(x.shape) @ p["proj"]["kernel"] + p["proj"]["bias"]


@pytest.mark.parametrize(
    ("patch", "chunk", "bias"), [(5, 0, True), (5, 2, True), (22, 0, False), (64, 0, True)]
)
def test_patches_are_dense_attention_under_a_block_mask(patch, chunk, bias):
    attention = patch_attention.PatchAttention(HEADS, patch, bias, chunk)
    params = variables(attention)
    assert ("bias" in params["params"]["qkv"]) == bias
    weights = jnp.cos(jnp.arange(WIDTH))

    def loss(run):
        def of(params, x):
            out = jnp.where(MASK[..., None], run(params, x), 0.0)
            return jnp.sum(jnp.square(out) * weights), out

        return jax.jit(jax.value_and_grad(of, (0, 1), has_aux=True))(params, X)

    (_, out), grads = loss(lambda p, x: attention.apply(p, x, MASK, ORDER, BACK))
    (_, want), slopes = loss(lambda p, x: dense(p, x, patch))
    np.testing.assert_allclose(out, want, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), grads, slopes)
    assert all(np.abs(g).max() > 1e-2 for g in jax.tree.leaves(grads))


def test_masked_rows_reach_nothing():
    attention = patch_attention.PatchAttention(HEADS, 5)
    params = variables(attention)

    @jax.jit
    def run(x):
        def loss(x):
            y = attention.apply(params, x, MASK, ORDER, BACK)
            y = jnp.where(MASK[..., None], y, 0.0)
            return jnp.sum(jnp.square(y)), y

        return jax.grad(loss, has_aux=True)(x)

    grad, out = run(X)
    other_grad, other = run(jnp.where(MASK[..., None], X, 1e4))
    np.testing.assert_array_equal(out, other)
    np.testing.assert_array_equal(grad, other_grad)
    assert np.isfinite(grad).all() and not np.asarray(grad)[~np.asarray(MASK)].any()


def test_half_precision_keeps_its_type_and_the_softmax_is_wide():
    attention = patch_attention.PatchAttention(HEADS, 5, dtype=jnp.bfloat16)
    params = variables(attention)
    run = jax.jit(lambda x: attention.apply(params, x, MASK, ORDER, BACK))
    found = run(X)
    assert found.dtype == jnp.bfloat16
    want = dense(params, X, 5)
    np.testing.assert_allclose(
        np.asarray(found, np.float32)[np.asarray(MASK)], want[MASK], atol=0.05
    )
    exps = [line for line in str(jax.make_jaxpr(run)(X)).splitlines() if "= exp" in line]
    assert exps and all("f32" in line.split("=")[0] and "bf16" not in line for line in exps)


def test_heads_must_divide_the_width():
    attention = patch_attention.PatchAttention(3, 5)
    with pytest.raises(ValueError, match="heads: 3 heads do not divide width 8"):
        attention.init(jax.random.key(0), X, MASK, ORDER, BACK)
