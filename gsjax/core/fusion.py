"""A hint for XLA's CPU compiler: values that it shall compute once."""

import jax
import jax.numpy as jnp


def once(values):
    """The same arrays of floats, computed once instead of for each of their uses.

    XLA:CPU puts cheap operations into every consumer, chains of any length, and an output of several
    columns is a consumer for each column. A division it does not repeat. So these values are divided
    by 1, in a way that no compiler sees through. (`jax.lax.optimization_barrier` does the same from
    JAX 0.12 on; before, XLA removes it too early.) Elsewhere it costs next to nothing.

    Args:
      values: pytree of floating arrays that have several uses each.
    """

    def divide(x):
        return x / jax.lax.stop_gradient(jnp.where(jnp.isnan(x), 2.0, 1.0).astype(x.dtype))

    return jax.tree.map(divide, values)
