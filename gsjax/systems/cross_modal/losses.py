"""The two objectives of cross-view and cross-modality self-supervision.

"Self-Supervised Cross-modality Feature Learning using 3D Gaussian Splatting" (A. Simionescu, TU Delft),
after Jing, Zhang, Tian (arXiv 2004.05749). An object has Gaussians P and two views a, p; n is a view of
another object. Values are per object; means over a batch are the system's.
"""

import jax
import jax.numpy as jnp
import optax

from gsjax.losses import triplet

BALANCES = ("2to1", "balanced")


def cross_view(
    anchor: jax.Array, positive: jax.Array, negative: jax.Array, margin: float
) -> jax.Array:
    """L_cv = max(0, |f_a - f_p| - |f_a - f_n| + margin), features [B, D] as they are -> [B]."""
    return triplet.triplet_margin(anchor, positive, negative, margin=margin)


def cross_modality(
    anchor: jax.Array, positive: jax.Array, negative: jax.Array, balance: str
) -> jax.Array:
    """L_cm = CE(a, 1) + CE(p, 1) + CE(n, 0) of the fusion's logits [B, 2] -> [B].

    The paper says binary cross-entropy; its code takes a softmax over two logits, which is the same
    objective in other parameters.

    Args:
        anchor, positive, negative: logits that a view and Gaussians belong together (column 1).
        balance: '2to1', as published: twice as many pairs belong together as do not; 'balanced' halves
            the weight of those that do.

    Raises:
        ValueError: an unknown balance.
    """
    if balance not in BALANCES:
        raise ValueError(f"loss.cm_balance: unknown {balance!r}; known: {', '.join(BALANCES)}")
    own = _entropy(anchor, 1) + _entropy(positive, 1)
    return (own if balance == "2to1" else own / 2) + _entropy(negative, 0)


def _entropy(logits: jax.Array, label: int) -> jax.Array:
    labels = jnp.full(logits.shape[:-1], label)
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
