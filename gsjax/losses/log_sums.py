"""Log-sums over negatives, and where the other side of the batch comes from.

For the objects of this device, a [b, D], and one slot of their counterparts, b [b, D]::

    row_i = log sum_j exp(scale a_i . b_j)        col_i = log sum_j exp(scale b_i . a_j)

over the valid j of the global batch in another group than i. ``whole`` holds all objects; ``gathered``
fetches the other side at once; ``ring`` passes chunks around and never holds more than two of them,
forwards or backwards. All under ``jax.shard_map`` but the first.
"""

import functools

import jax
import jax.numpy as jnp

from gsjax.losses import sharded

# Stands for -inf: finite, so that a row without negatives has finite gradients.
MASKED = -1e30


def _logits(x, y, scale):
    return scale * jnp.matmul(x, y.T, precision="highest")


def _masked(x, y, scale, use):
    """logsumexp_j of scale * x_i . y_j over the j with ``use`` [i, j]."""
    return jax.nn.logsumexp(jnp.where(use, _logits(x, y, scale), MASKED), -1)


def whole(a, a_col, b, scale, valid_a, valid_b, group):
    """(row, col), [b] each, when this device holds everything.

    Args:
        a: [b, D]. a_col: the same values, for the columns (with or without gradient).
        b: [b, D].
        scale: scalar.
        valid_a, valid_b: bool [b].
        group: integers [b].
    """

    @jax.checkpoint  # the logits of a slot do not live until the backward pass
    def sums(a, a_col, b, scale):
        other = group[:, None] != group[None, :]
        return (
            _masked(a, b, scale, other & valid_b[None]),
            _masked(b, a_col, scale, other & valid_a[None]),
        )

    return sums(a, a_col, b, scale)


def gathered(a, a_col, b, scale, valid_a, valid_b, group, *, axes, shards):
    """As :func:`whole` for this device's rows; the other side is gathered along ``axes``."""
    del shards
    gather = functools.partial(jax.lax.all_gather, axis_name=axes, tiled=True)

    @jax.checkpoint  # neither the logits of a slot nor what it gathers live until the backward pass
    def sums(a, a_col, b, scale):
        other = group[:, None] != gather(group)[None, :]
        return (
            _masked(a, gather(b), scale, other & gather(valid_b)[None]),
            _masked(b, gather(a_col), scale, other & gather(valid_a)[None]),
        )

    return sums(a, a_col, b, scale)


def ring(a, a_col, b, scale, valid_a, valid_b, group, *, axes, shards):
    """As :func:`gathered` with one chunk of the other side in memory at a time.

    The derivative of a scan would keep every chunk that came by, which is the gathered tensor again; so
    the gradient is written out: chunks go around a second time, and what they receive travels along.
    """
    scale = jax.lax.pcast(scale, axes, to="varying")  # its gradient is summed over the devices
    return _ring(axes, shards, a, a_col, b, scale, valid_a, valid_b, group)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(axes, shards, a, a_col, b, scale, valid_a, valid_b, group):
    def meet(sums, chunk):
        row, col = sums
        a_c, b_c, valid_a_c, valid_b_c, group_c = chunk
        other = group[:, None] != group_c[None, :]
        row = jnp.logaddexp(row, _masked(a, b_c, scale, other & valid_b_c[None]))
        col = jnp.logaddexp(col, _masked(b, a_c, scale, other & valid_a_c[None]))
        return (row, col), chunk

    empty = jnp.full_like(a[:, 0], MASKED)
    chunk = (a_col, b, valid_a, valid_b, group)
    return sharded.around(axes, shards, meet, (empty, empty), chunk)[0]


def _forward(axes, shards, *arguments):
    sums = _ring(axes, shards, *arguments)
    return sums, (arguments, sums)


def _backward(axes, shards, saved, cotangents):
    """With P = softmax of the logits: da_i = scale sum_j r_i P_ij b_j, db_j = scale sum_i r_i P_ij a_i."""
    (a, a_col, b, scale, valid_a, valid_b, group), sums = saved

    def half(x, y, log_sum, cotangent, use):
        """Gradients of one log-sum by x, y and scale."""
        products = jnp.matmul(x, y.T, precision="highest")
        share = jnp.where(use, jnp.exp(scale * products - log_sum[:, None]), 0.0)
        share = share * cotangent[:, None]
        dot = functools.partial(jnp.matmul, precision="highest")
        return scale * dot(share, y), scale * dot(share.T, x), jnp.sum(share * products)

    def meet(own, traveller):
        d_a, d_b, d_scale = own
        (a_c, b_c, valid_a_c, valid_b_c, group_c), (d_a_c, d_b_c) = traveller
        other = group[:, None] != group_c[None, :]
        by_a, by_b_c, first = half(a, b_c, sums[0], cotangents[0], other & valid_b_c[None])
        by_b, by_a_c, second = half(b, a_c, sums[1], cotangents[1], other & valid_a_c[None])
        own = (d_a + by_a, d_b + by_b, d_scale + first + second)
        return own, (traveller[0], (d_a_c + by_a_c, d_b_c + by_b_c))

    own = (jnp.zeros_like(a), jnp.zeros_like(b), jnp.zeros_like(scale))
    chunk = (a_col, b, valid_a, valid_b, group)
    traveller = (chunk, (jnp.zeros_like(a_col), jnp.zeros_like(b)))
    own, (_, (d_a_col, d_b_home)) = sharded.around(axes, shards, meet, own, traveller)
    d_a, d_b, d_scale = own
    return d_a, d_a_col, d_b + d_b_home, d_scale, None, None, None


_ring.defvjp(_forward, _backward)

FORMS = {"none": whole, "gather": gathered, "ring": ring}
