"""Products with a kernel along the last axis, of arrays with any number of axes.

On CPUs all rows are put on one axis first: XLA's compiler there copies both operands of a product that sums over more
than one axis, as the gradient of a kernel does, and the copies cost more than the product (BUILD_NOTES.md, "Dense
layers on CPUs"). Other devices take the arrays as they are; on TPUs joined axes may cost a copy themselves.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from gsjax.core import devices


def dot_general(x: jax.Array, kernel: jax.Array, dimensions, **options) -> jax.Array:
    """``jax.lax.dot_general`` of the last axis of x [..., C] and the first of kernel [C, D] -> [..., D]."""
    if x.ndim < 3 or devices.platform() != "cpu":
        return jax.lax.dot_general(x, kernel, dimensions, **options)
    rows = x.reshape(-1, x.shape[-1])
    found = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return found.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Dense):
    """``flax.linen.Dense``: the same fields, parameters and values."""

    dot_general: Callable | None = dot_general


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel``: [..., C] and [C, D] -> [..., D]."""
    return dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
