"""Products with a kernel along the last axis, of arrays with any number of axes.

On CPUs all rows are put on one axis first: XLA's compiler there copies both operands of a product that sums over more
than one axis, as the gradient of a kernel does, and the copies cost more than the product (BUILD_NOTES.md, "Dense
layers on CPUs"). Other devices take the arrays as they are; on TPUs joined axes may cost a copy themselves.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import devices


class Dense(nn.Dense):
    """``flax.linen.Dense``: the same fields, parameters and values."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., features]."""
        return _by_rows(super().__call__, x)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel``: [..., C] and [C, D] -> [..., D]."""
    return _by_rows(lambda rows: jnp.matmul(rows, kernel), x)


def _by_rows(function, x):
    if x.ndim < 3 or devices.platform() != "cpu":
        return function(x)
    found = function(x.reshape(-1, x.shape[-1]))
    return found.reshape(*x.shape[:-1], found.shape[-1])
