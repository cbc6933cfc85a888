import jax
import jax.numpy as jnp
import numpy as np

from gsjax.systems.toy_clip import losses


def _unit(key, shape):
    x = jax.random.normal(jax.random.key(key), shape)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _loop(images, texts, scale, valid, hashes):
    """The loss from its definition, in numpy loops."""
    total, rows = 0.0, np.flatnonzero(valid)
    for i in rows:
        others = [j for j in rows if j == i or hashes[j] != hashes[i]]
        for a, b in ((images, texts), (texts, images)):
            logits = np.array([scale * a[i] @ b[j] for j in others])
            total -= scale * a[i] @ b[i] - np.log(np.exp(logits).sum())
    return total / (2 * len(rows))


def test_pair_loss_equals_its_definition_with_padding_and_equal_captions():
    images, texts = _unit(0, (6, 4)), _unit(1, (6, 4))
    valid = np.array([1, 1, 1, 1, 1, 0], bool)
    hashes = np.array([5, 7, 5, 8, 9, 7], np.uint32)
    found = losses.pair_loss(
        images, texts, jnp.log(5.0), valid=jnp.asarray(valid), caption_hash=jnp.asarray(hashes)
    )
    expected = _loop(np.asarray(images), np.asarray(texts), 5.0, valid, hashes)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_kind_loss_equals_its_definition_and_ignores_padding():
    images, kinds = _unit(2, (5, 4)), _unit(3, (3, 4))
    category = np.array([2, 0, 1, 2, 0])
    valid = np.array([1, 1, 1, 1, 0], bool)
    found = losses.kind_loss(
        images, kinds, jnp.log(5.0), category=jnp.asarray(category), valid=jnp.asarray(valid)
    )
    logits = 5.0 * np.asarray(images) @ np.asarray(kinds).T
    rows = [np.log(np.exp(logits[i]).sum()) - logits[i, category[i]] for i in range(4)]
    np.testing.assert_allclose(found, np.mean(rows), rtol=1e-5)


def test_batch_accuracy_counts_ties_against_and_ignores_padding():
    eye = jnp.eye(4)
    valid = jnp.array([True, True, True, False])
    np.testing.assert_allclose(losses.batch_accuracy(eye, eye, valid), 1.0)
    same = jnp.ones((4, 4)) / 2
    np.testing.assert_allclose(losses.batch_accuracy(same, same, valid), 0.0)
