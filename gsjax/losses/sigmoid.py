"""The sigmoid contrastive loss over the global batch, on one device or sharded over a mesh.

Every pair of the batch is a yes-no question of its own, so a row's loss is a plain sum over the
batch, with no normalisation and in one direction only. Under a mesh only the counterparts ``b``
travel; where these are frozen embeddings no gradient goes back either.

The forms ``none``, ``gather`` and ``ring`` are those of ``contrastive.py``, equal in value and
gradient; their sums are in ``soft_sums.py``. Not here: the softmax loss (``contrastive.py``), which
pairs exist and how they are weighted (``systems/``).
"""

import jax
import jax.numpy as jnp

from gsjax.losses import sharded, soft_sums


def sigmoid_loss(
    a: jax.Array,
    b: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    weights: jax.Array | None = None,
    valid_a: jax.Array | None = None,
    valid_b: jax.Array | None = None,
    ids: jax.Array | None = None,
    sharding: str = "none",
    axes: tuple[str, ...] = ("data", "fsdp"),
    mesh=None,
) -> jax.Array:
    """Per-pair [B, K] sigmoid loss: the weighted true pair and all its row's false pairs.

    With logits ``L_ijk = scale * a_i . b_jk + bias`` and s the logistic function::

        l_ik = -weights_ik log s(L_iik) - sum_{j != i} log s(-L_ijk)

    where -log s(x) = softplus(-x). Source: SigLIP (arXiv 2303.15343), section 3.2; passing chunks
    of the batch between devices: its section 3.3.

    Args:
        a: [B, D] unit vectors.
        b: [B, K, D] unit vectors.
        scale, bias: scalars.
        weights: [B, K] on the true pairs, default 1.
        valid_a: [B] bool; False makes the row zero.
        valid_b: [B, K] bool; False makes the entry zero and b_ik nobody's negative.
        ids: [B] integers; objects with equal ids are not negatives of each other.
        sharding: ``none``, ``gather`` or ``ring``. The last two need a mesh of several devices and
            fall back to ``none`` without one.
        axes: mesh axes over which the batch is sharded; those absent from the mesh are ignored.
        mesh: a ``jax.sharding.Mesh``; None = the one entered with ``jax.set_mesh``.

    Returns:
        [B, K]; rows of invalid objects and slots are zero.

    Raises:
        ValueError: shapes that do not agree, an unknown sharding, or a batch that the devices along
            ``axes`` do not divide.
    """
    pairs = sharded.pairs(a, b, valid_a, valid_b, ids)
    shape, dtype = pairs.valid_b.shape, pairs.a.dtype
    weights = jnp.ones(shape, dtype) if weights is None else weights.astype(dtype)
    sharded.check_shape("weights", weights, shape)
    rows = (*pairs, weights)
    scalars = jnp.asarray(scale, dtype), jnp.asarray(bias, dtype)
    return sharded.by_rows(
        _local_loss, soft_sums.FORMS, rows, scalars, sharding=sharding, axes=axes, mesh=mesh
    )


def _local_loss(sums, a, b, valid_a, valid_b, group, weights, scale, bias):
    """Rows of this device. ``sums`` sees one slot and reaches the other devices."""
    false = jax.lax.map(
        lambda slot: sums(a, slot[0], scale, bias, slot[1], group),
        (jnp.moveaxis(b, 1, 0), valid_b.T),
    ).T  # [B, K]
    logits = scale * jnp.einsum("id,ikd->ik", a, b, precision="highest") + bias
    true = weights * jax.nn.softplus(-logits)
    return jnp.where(valid_a[:, None] & valid_b, true + false, 0.0)
