"""`jax.vmap` of backends: the mapped axis joins the axis of images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def fold_vmap(fn: Callable) -> Callable:
    """``fn`` of arrays whose leading axis is images, with a rule for ``jax.vmap``.

    Mapping data-dependent loops would run all of them as long as the longest, and turn every
    branch into a select; more images are just more tiles.
    """
    mapped = jax.custom_batching.custom_vmap(fn)

    @mapped.def_vmap
    def _rule(axis_size, in_batched, *args):
        def join(batched, x):
            x = x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        out = mapped(*jax.tree.map(join, tuple(in_batched), args))
        out = jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return mapped
