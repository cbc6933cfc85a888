"""Contrastive losses over the global batch, on one device or sharded over a mesh.

The building block is :func:`pair_log_probs`: for objects ``a`` [B, D] and their counterparts ``b``
[B, K, D] (K slots an object: one caption, or K views) the log-probability of every true pair in
both directions, against all objects of the batch. What a paper does with them (weights, means) stays
with the paper. Vectors arrive normalised (:func:`unit`); everything here is float32 or wider.

Three forms of the same mathematics, equal in value and gradient:

* ``none``: plain array code; the partitioner may still shard it.
* ``gather``: under ``jax.shard_map`` every device gathers the other side and forms its own rows only.
* ``ring``: chunks travel around the devices; neither a [B, B] matrix nor a gathered tensor exists.

Not here: the sigmoid loss (``sigmoid.py``); which pairs exist and how they are weighted
(``systems/``).
"""

import functools

import jax
import jax.numpy as jnp

from gsjax.losses import log_sums, sharded

NEGATIVES = ("per_slot", "all_views")


def unit(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """``x`` [..., D] scaled to length one in float32 or wider; a zero vector stays zero.

    The guard sits on the squared length, so padding rows give zero gradients and no NaN.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), eps))


def clamp_logit_scale(params, maximum: float, name: str = "logit_scale"):
    """Projects ``params[name]`` onto [0, maximum], for use after every update.

    A projection and not a clip in the forward pass, which would zero the gradient at the bound.

    Args:
        params: mapping of parameters; a copy is returned.
        maximum: largest log of the inverse temperature.
        name: key of the scalar.
    """
    return {**params, name: jnp.clip(params[name], 0.0, maximum)}


def pair_log_probs(
    a: jax.Array,
    b: jax.Array,
    scale: jax.Array,
    *,
    valid_a: jax.Array | None = None,
    valid_b: jax.Array | None = None,
    ids: jax.Array | None = None,
    negatives: str = "per_slot",
    detach_gathered: bool = False,
    sharding: str = "none",
    axes: tuple[str, ...] = ("data", "fsdp"),
    mesh=None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each true pair (i, k), from ``a`` to ``b`` and from ``b`` to ``a``.

    With logits ``L_ijk = scale * a_i . b_jk`` (InfoNCE: van den Oord et al., arXiv 1807.03748):

    * row [i, k] = L_iik - logsumexp_j L_ijk (``per_slot``), or with the negatives of all slots and
      none of the object's own other slots in the denominator (``all_views``);
    * col [i, k] = L_iik - logsumexp_j L_jik.

    Args:
        a: [B, D] unit vectors.
        b: [B, K, D] unit vectors.
        scale: scalar, the inverse temperature (already exponentiated).
        valid_a: [B] bool; False removes a_i from every denominator.
        valid_b: [B, K] bool; False removes b_ik from every denominator.
        ids: [B] integers; objects with equal ids are not negatives of each other.
        negatives: ``per_slot`` or ``all_views``.
        detach_gathered: no gradient to ``a`` through the column direction, as where embeddings are
            gathered without gradients and only local rows are scored.
        sharding: ``none``, ``gather`` or ``ring``. The last two need a mesh of several devices and
            fall back to ``none`` without one.
        axes: mesh axes over which the batch is sharded; those absent from the mesh are ignored.
        mesh: a ``jax.sharding.Mesh``; None = the one entered with ``jax.set_mesh``.

    Returns:
        (row, col), each [B, K]. Entries of invalid pairs are finite and mean nothing: weight them 0.

    Raises:
        ValueError: shapes that do not agree, an unknown option, or a batch that the devices along
            ``axes`` do not divide.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives: unknown {negatives!r}; known: {NEGATIVES}")
    pairs = sharded.pairs(a, b, valid_a, valid_b, ids)
    scale = jnp.asarray(scale, pairs.a.dtype)
    local = functools.partial(
        _local_log_probs, all_views=negatives == "all_views", detach=detach_gathered
    )
    return sharded.by_rows(
        local, log_sums.FORMS, pairs, (scale,), sharding=sharding, axes=axes, mesh=mesh
    )


def symmetric_loss(
    row: jax.Array, col: jax.Array, weights: jax.Array, count: jax.Array
) -> jax.Array:
    """``-sum(weights * (row + col)) / (2 count)``, zero for an empty batch.

    Args:
        row, col: [B, K] log-probabilities of :func:`pair_log_probs`.
        weights: [B, K]; 0 for pairs that must not count.
        count: scalar, what the sum is divided by.
    """
    return -jnp.sum(jnp.where(weights == 0, 0.0, weights * (row + col))) / (
        2.0 * jnp.maximum(count, 1)
    )


def _local_log_probs(negatives_fn, a, b, valid_a, valid_b, group, scale, *, all_views, detach):
    """Rows of this device. ``negatives_fn`` sees one slot and reaches the other devices."""

    def slot(b_k, valid_k):
        row_neg, col_neg = negatives_fn(
            a, jax.lax.stop_gradient(a) if detach else a, b_k, scale, valid_a, valid_k, group
        )
        pos = scale * jnp.sum(a * b_k, -1)
        col_pos = scale * jnp.sum(jax.lax.stop_gradient(a) * b_k, -1) if detach else pos
        return pos, row_neg, col_pos - jnp.logaddexp(col_pos, col_neg)

    pos, row_neg, col = jax.lax.map(
        lambda args: slot(*args), (jnp.moveaxis(b, 1, 0), valid_b.T)
    )  # [K, B]
    if all_views:
        row_neg = jnp.broadcast_to(jax.nn.logsumexp(row_neg, 0), pos.shape)
    return (pos - jnp.logaddexp(pos, row_neg)).T, col.T
