"""Chamfer distance between point sets, and the matrix of it between two collections."""

import functools

import jax
import jax.numpy as jnp


def chamfer_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Symmetric Chamfer distance with squared Euclidean distances.

    mean_i min_j |a_i - b_j|^2 + mean_j min_i |a_i - b_j|^2 (Fan et al., arXiv 1612.00603, section
    4.1, with means for sums so that sizes may differ).

    Args:
        a: [..., P, D] points.
        b: [..., Q, D] points; leading axes broadcast with those of ``a``.

    Returns:
        [...] distances in squared units of the input.
    """
    # Direct differences: |a|^2 + |b|^2 - 2ab cancels where the sets nearly coincide.
    difference = a[..., :, None, :] - b[..., None, :, :]
    squared = jnp.sum(difference * difference, axis=-1)
    return squared.min(-1).mean(-1) + squared.min(-2).mean(-1)


@functools.partial(jax.jit, static_argnames="block")
def chamfer_matrix(queries: jax.Array, gallery: jax.Array, *, block: int = 16) -> jax.Array:
    """Chamfer distance of every query to every gallery set.

    Args:
        queries: [Q, P, D] point sets.
        gallery: [G, R, D] point sets.
        block: gallery sets compared at once; memory is ``block * P * R`` floats.

    Returns:
        [Q, G] distances.
    """
    count = gallery.shape[0]
    padded = jnp.pad(gallery, ((0, -count % block), (0, 0), (0, 0)))
    blocks = padded.reshape(-1, block, *gallery.shape[1:])

    def row(query):
        return jax.lax.map(lambda b: chamfer_distance(query[None], b), blocks).reshape(-1)

    return jax.lax.map(row, queries)[:, :count]
