"""Cross-entropies over valid examples or labelled points, the plain accuracies, and the Lovasz loss."""

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


def lovasz_softmax(logits: jax.Array, labels: jax.Array, valid: jax.Array) -> jax.Array:
    """Lovasz-softmax loss [] (Berman et al., arXiv 1705.08790, Eq. 11), over all points together.

    The convex extension of 1 - IoU, averaged over the classes that occur; with probabilities of 0 and 1
    it is 1 - IoU itself. 0 where nothing is valid.

    Args:
        logits: [..., C].
        labels: int [...]; those of invalid entries may be anything.
        valid: bool [...].
    """
    classes = logits.shape[-1]
    probabilities = jax.nn.softmax(logits.astype(jnp.float32)).reshape(-1, classes)
    valid = valid.reshape(-1)
    labels = jnp.where(valid, labels.reshape(-1), -1)

    def of_class(probability, number):
        true = labels == number
        error = jnp.where(valid, jnp.abs(true - probability), 0.0)
        # Worst first, what is not valid last, where it has no error and no weight.
        order = jnp.argsort(jnp.where(valid, -jax.lax.stop_gradient(error), 1.0))
        true, error = true[order].astype(jnp.float32), error[order]
        total = jnp.sum(true)
        lost = jnp.cumsum(true)
        extra = jnp.cumsum(jnp.where(valid[order], 1.0 - true, 0.0))
        jaccard = 1.0 - (total - lost) / jnp.maximum(total + extra, 1.0)
        steps = jnp.diff(jaccard, prepend=0.0)
        return jnp.sum(error * steps), total > 0

    each, occurs = jax.vmap(of_class, (1, 0))(probabilities, jnp.arange(classes))
    return jnp.sum(jnp.where(occurs, each, 0.0)) / jnp.maximum(jnp.sum(occurs), 1)
