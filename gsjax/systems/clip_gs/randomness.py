"""All randomness of one training step, as uniform numbers drawn at one place.

Each object's numbers depend on the step's key and its record number alone, so they are the same
however the batch lies over devices and processes, and no two hosts repeat each other's. One draw,
cut into named pieces, also compiles much faster than a key for every use.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Draws(NamedTuple):
    """Uniform numbers in [0, 1), B objects.

    Attributes:
        similarity: [B, 8] scale, shift (3), tilt (3), spin.
        color: [B] colour drop.
        order: [B] order within patches.
        patches: [B, G] patch dropout.
        paths: [B, 2 depth] stochastic depth.
        views: [B, V] choice of views.
    """

    similarity: jax.Array
    color: jax.Array
    order: jax.Array
    patches: jax.Array
    paths: jax.Array
    views: jax.Array


def draw(rng: jax.Array, index: jax.Array, *, num_group: int, depth: int, num_views: int) -> Draws:
    """The numbers of the objects with record numbers ``index`` [B]."""
    widths = (8, 1, 1, num_group, 2 * depth, num_views)

    def one(i):
        return jax.random.uniform(jax.random.fold_in(rng, i), (sum(widths),))

    numbers = jax.vmap(one)(index)
    ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
    similarity, color, order, patches, paths, views = jnp.split(numbers, ends, axis=-1)
    return Draws(similarity, color[:, 0], order[:, 0], patches, paths, views)
