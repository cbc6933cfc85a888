"""Cross-entropies over valid examples or labelled points, and the plain accuracies beside them."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
    logits: jax.Array, labels: jax.Array, valid: jax.Array, smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy [] and accuracy [] over valid entries; both 0 if there are none.

    Args:
        logits: [..., C].
        labels: int [...]; those of invalid entries may be anything.
        valid: bool [...].
        smoothing: share of each target spread over all classes.
    """
    labels = jnp.where(valid, labels, 0)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    each = optax.softmax_cross_entropy(logits, targets)
    count = jnp.maximum(jnp.sum(valid), 1)
    hits = jnp.sum(valid & (jnp.argmax(logits, -1) == labels))
    return jnp.sum(jnp.where(valid, each, 0.0)) / count, hits / count
