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


def test_phrase_loss_spares_every_text_that_describes_an_object():
    images, texts = _unit(2, (5, 4)), _unit(3, (5, 4))
    valid = np.array([1, 1, 1, 1, 0], bool)
    content = np.array([5, 6, 7, 5, 6], np.uint32)
    contents = np.array([[5, 7], [6, 6], [7, 8], [5, 9], [6, 6]], np.uint32)
    found = losses.phrase_loss(
        images,
        texts,
        jnp.log(5.0),
        valid=jnp.asarray(valid),
        content=jnp.asarray(content),
        contents=jnp.asarray(contents),
    )
    logits, total = 5.0 * np.asarray(images) @ np.asarray(texts).T, 0.0
    for i in range(4):
        row = [j for j in range(4) if j == i or content[j] not in contents[i]]
        col = [j for j in range(4) if j == i or content[i] not in contents[j]]
        total -= 2 * logits[i, i]
        total += np.log(np.exp(logits[i, row]).sum()) + np.log(np.exp(logits[col, i]).sum())
    np.testing.assert_allclose(found, total / 8, rtol=1e-5)


def test_phrase_loss_without_shared_phrases_is_the_pair_loss():
    images, texts = _unit(0, (6, 4)), _unit(1, (6, 4))
    valid, hashes = jnp.ones(6, bool), jnp.arange(6, dtype=jnp.uint32)
    one = losses.pair_loss(images, texts, jnp.float32(2.0), valid=valid, caption_hash=hashes)
    two = losses.phrase_loss(
        images, texts, jnp.float32(2.0), valid=valid, content=hashes, contents=hashes[:, None]
    )
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_batch_accuracy_counts_ties_against_and_ignores_padding():
    eye = jnp.eye(4)
    valid = jnp.array([True, True, True, False])
    np.testing.assert_allclose(losses.batch_accuracy(eye, eye, valid), 1.0)
    same = jnp.ones((4, 4)) / 2
    np.testing.assert_allclose(losses.batch_accuracy(same, same, valid), 0.0)
