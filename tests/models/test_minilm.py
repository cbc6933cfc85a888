import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import minilm, name_tables, packaged, wordpiece

SMALL = minilm.BertConfig(vocabulary=30, width=8, depth=2, heads=2, hidden=16, positions=12)
IDS = np.array([[2, 5, 7, 3, 0, 0], [2, 9, 3, 0, 0, 0], [2, 8, 8, 8, 8, 3]], np.int32)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = minilm.param_shapes(SMALL)
    flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    return name_tables.nest(flat)


def _erf(x):
    from scipy import special

    return special.erf(x)


def _slow_words(state, ids):
    """BERT written out for one row without padding, in float64, from the names of the original."""
    state = {name: value.astype(np.float64) for name, value in state.items()}

    def dense(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        x = (x - mean) / np.sqrt(var + 1e-12)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = state["embeddings.word_embeddings.weight"][ids]
    x = x + state["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + state["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = SMALL.width // SMALL.heads
    for i in range(SMALL.depth):
        layer, heads = f"encoder.layer.{i}", []
        q, k, v = (dense(x, f"{layer}.attention.self.{p}") for p in ("query", "key", "value"))
        for h in range(SMALL.heads):
            part = slice(h * size, (h + 1) * size)
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(size))
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        y = dense(np.concatenate(heads, -1), f"{layer}.attention.output.dense")
        x = norm(x + y, f"{layer}.attention.output.LayerNorm")
        y = dense(x, f"{layer}.intermediate.dense")
        y = dense(y * (1 + _erf(y / np.sqrt(2))) / 2, f"{layer}.output.dense")
        x = norm(x + y, f"{layer}.output.LayerNorm")
    return x


def test_words_follow_the_definition(params):
    state = name_tables.invert(params, minilm.name_table(SMALL))
    net = minilm.SentenceEncoder(SMALL)
    both = lambda net, ids: (net.words(ids), net(ids))  # noqa: E731
    words, pooled = jax.jit(lambda p: net.apply({"params": p}, IDS, method=both))(params)
    for row, found, vector in zip(IDS, words, pooled):
        row = row[row != minilm.PAD]
        expected = _slow_words(state, row)
        np.testing.assert_allclose(found[: len(row)], expected, atol=2e-4)
        mean = expected.mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-4)


def test_padding_changes_nothing_and_alone_stays_finite(params):
    encode = jax.jit(lambda ids: minilm.SentenceEncoder(SMALL).apply({"params": params}, ids))
    longer = np.pad(IDS, ((0, 0), (0, 5)))
    np.testing.assert_allclose(encode(IDS), encode(longer), atol=1e-5)
    assert np.isfinite(encode(np.zeros((1, 6), np.int32))).all()


def test_table_names_every_parameter_once_and_inverts(params):
    table = minilm.name_table(SMALL)
    assert sorted(entry.ours for entry in table) == sorted(minilm.param_shapes(SMALL))
    state = name_tables.invert(params, table)
    state |= {
        "pooler.dense.weight": np.zeros((8, 8)),
        "embeddings.position_ids": np.arange(12)[None],
    }
    again = minilm.convert(state, SMALL)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    state["cls.predictions.bias"] = np.zeros(30)
    with pytest.raises(ValueError, match="unexpected: cls.predictions.bias"):
        minilm.convert(state, SMALL)


def test_full_size_has_the_published_number_of_parameters():
    count = sum(int(np.prod(shape)) for shape in minilm.param_shapes().values())
    assert count == 22_713_216 - 384 * 385  # the published file's, without the pooler


def test_wrong_sizes_are_refused(params):
    with pytest.raises(ValueError, match="12 expected|at most 12"):
        minilm.SentenceEncoder(SMALL).apply({"params": params}, np.ones((1, 13), np.int32))
    with pytest.raises(ValueError, match="does not divide"):
        dataclasses.replace(SMALL, heads=3)


@pytest.mark.slow
def test_sentences_of_like_meaning_lie_near_each_other():
    if packaged.folder(packaged.MINILM) is None:
        pytest.skip(f"the weights are absent; run `{packaged.INSTALL}`")
    params = minilm.convert(weights.read_state_dict(packaged.verified(packaged.MINILM)))
    tokenizer = wordpiece.WordPiece.from_file(packaged.vocabulary())
    ids = tokenizer(["a wooden chair", "a seat made of wood", "a red car"])
    found = np.asarray(
        jax.jit(minilm.SentenceEncoder().apply)({"params": params}, jnp.asarray(ids))
    )
    similarity = found @ found.T
    np.testing.assert_allclose(np.diag(similarity), 1.0, atol=1e-5)
    # 0.791 and 0.186 with the original in PyTorch
    assert abs(similarity[0, 1] - 0.7913) < 1e-3 and abs(similarity[0, 2] - 0.1855) < 1e-3
