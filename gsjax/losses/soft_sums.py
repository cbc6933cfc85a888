"""Sums of softplus over negatives, and where the other side of the batch comes from.

For the objects of this device, a [b, D], and one slot of their counterparts, b [b, D]::

    sum_i = sum_j log(1 + exp(scale a_i . b_j + bias))

over the valid j of the global batch in another group than i: the cost of telling a_i from all that
it does not belong to. The sum has one direction, so only the b move, never the a. ``whole`` holds
all objects; ``gathered`` fetches the counterparts at once; ``ring`` passes chunks around and never
holds more than two of them, forwards or backwards. All under ``jax.shard_map`` but the first.
"""

import functools

import jax
import jax.numpy as jnp

from gsjax.losses import sharded

_dot = functools.partial(jnp.matmul, precision="highest")


def _summed(a, b, scale, bias, use):
    """sum_j softplus(scale a_i . b_j + bias) over the j with ``use`` [i, j]."""
    return jnp.sum(jnp.where(use, jax.nn.softplus(scale * _dot(a, b.T) + bias), 0.0), -1)


def whole(a, b, scale, bias, valid_b, group):
    """The sums [b] when this device holds everything.

    Args:
        a, b: [b, D].
        scale, bias: scalars.
        valid_b: bool [b].
        group: integers [b].
    """

    @jax.checkpoint  # the logits of a slot do not live until the backward pass
    def sums(a, b, scale, bias):
        return _summed(a, b, scale, bias, (group[:, None] != group[None, :]) & valid_b[None])

    return sums(a, b, scale, bias)


def gathered(a, b, scale, bias, valid_b, group, *, axes, shards):
    """As :func:`whole` for this device's rows; the counterparts are gathered along ``axes``."""
    del shards
    gather = functools.partial(jax.lax.all_gather, axis_name=axes, tiled=True)

    @jax.checkpoint  # neither the logits of a slot nor what it gathers live until the backward pass
    def sums(a, b, scale, bias):
        use = (group[:, None] != gather(group)[None, :]) & gather(valid_b)[None]
        return _summed(a, gather(b), scale, bias, use)

    return sums(a, b, scale, bias)


def ring(a, b, scale, bias, valid_b, group, *, axes, shards):
    """As :func:`gathered` with one chunk of the counterparts in memory at a time.

    The gradient is written out, for the reason given in ``log_sums.ring``: the derivative of a scan
    would keep every chunk that came by.
    """
    # Their gradients are summed over the devices.
    scale, bias = (jax.lax.pcast(x, axes, to="varying") for x in (scale, bias))
    return _ring(axes, shards, a, b, scale, bias, valid_b, group)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(axes, shards, a, b, scale, bias, valid_b, group):
    def meet(total, chunk):
        b_c, valid_c, group_c = chunk
        use = (group[:, None] != group_c[None, :]) & valid_c[None]
        return total + _summed(a, b_c, scale, bias, use), chunk

    return sharded.around(axes, shards, meet, jnp.zeros_like(a[:, 0]), (b, valid_b, group))[0]


def _forward(axes, shards, *arguments):
    return _ring(axes, shards, *arguments), arguments


def _backward(axes, shards, saved, cotangent):
    """With S = s(logits), softplus' slope, and r the cotangent: da_i = scale r_i sum_j S_ij b_j,
    db_j = scale sum_i r_i S_ij a_i, dscale = sum_ij r_i S_ij a_i . b_j, dbias = sum_ij r_i S_ij.

    No sum of the forward pass is needed: a pair's slope depends on that pair alone.
    """
    a, b, scale, bias, valid_b, group = saved

    def meet(own, traveller):
        d_a, d_scale, d_bias = own
        (b_c, valid_c, group_c), d_b_c = traveller
        use = (group[:, None] != group_c[None, :]) & valid_c[None]
        products = _dot(a, b_c.T)
        slope = jnp.where(use, jax.nn.sigmoid(scale * products + bias), 0.0) * cotangent[:, None]
        own = (
            d_a + scale * _dot(slope, b_c),
            d_scale + jnp.sum(slope * products),
            d_bias + jnp.sum(slope),
        )
        return own, (traveller[0], d_b_c + scale * _dot(slope.T, a))

    own = (jnp.zeros_like(a), jnp.zeros_like(scale), jnp.zeros_like(bias))
    traveller = ((b, valid_b, group), jnp.zeros_like(b))
    (d_a, d_scale, d_bias), (_, d_b) = sharded.around(axes, shards, meet, own, traveller)
    return d_a, d_b, d_scale, d_bias, None, None


_ring.defvjp(_forward, _backward)

FORMS = {"none": whole, "gather": gathered, "ring": ring}
