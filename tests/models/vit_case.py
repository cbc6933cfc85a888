"""Random parameters, and a transformer's block in NumPy written from the formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def count(tree) -> int:
    """Numbers in a tree of shapes or arrays."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def random_params(shapes, seed: int = 0) -> dict:
    """float32 arrays that leave nothing zero or one; matrices keep variance."""
    rng = np.random.default_rng(seed)

    def leaf(x):
        fan_in = math.prod(x.shape[:-1]) if len(x.shape) > 1 else 4
        return jnp.asarray(rng.normal(size=x.shape) / np.sqrt(fan_in) + 0.03, jnp.float32)

    return jax.tree.map(leaf, shapes)


def pictures(*shape: int, seed: int = 1) -> jax.Array:
    """Normal numbers [..., 3]."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


def layer_norm(x, p, eps):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * p["scale"] + p["bias"]


def _dense(x, p):
    return x @ p["kernel"] + p["bias"]


def _turn(x, place, base):
    """One head's vector at one place (row, column): pairs turned one by one."""
    x, half = x.copy(), len(x) // 2
    for axis in range(2):
        for i in range(half // 2):
            angle = place[axis] * base ** (-2 * i / half)
            a, b = axis * half + i, axis * half + i + half // 2
            x[a], x[b] = (
                x[a] * math.cos(angle) - x[b] * math.sin(angle),
                x[b] * math.cos(angle) + x[a] * math.sin(angle),
            )
    return x


def attention(x, p, heads, eps, places=None, base=100.0):
    """[T, D] -> [T, D], head by head and query by query."""
    tokens, width = x.shape
    size = width // heads
    q, k, v = np.split(_dense(x, p["qkv"]), 3, axis=-1)
    out = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        hq, hk, hv = q[:, part], k[:, part], v[:, part]
        if "q_norm" in p:
            hq, hk = layer_norm(hq, p["q_norm"], eps), layer_norm(hk, p["k_norm"], eps)
        if places is not None:
            hq = np.stack([_turn(hq[t], places[t], base) for t in range(tokens)])
            hk = np.stack([_turn(hk[t], places[t], base) for t in range(tokens)])
        for t in range(tokens):
            logits = hk @ hq[t] / math.sqrt(size)
            weights = np.exp(logits - logits.max())
            out[t, part] = weights @ hv / weights.sum()
    return _dense(out, p["proj"])


def block(x, p, heads, eps, places=None, base=100.0):
    """[T, D] -> [T, D]."""
    y = layer_norm(x, p["norm1"], eps)
    x = x + p["gamma1"] * attention(y, p["attn"], heads, eps, places, base)
    y = _dense(layer_norm(x, p["norm2"], eps), p["fc1"])
    y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    return x + p["gamma2"] * _dense(y, p["fc2"])
