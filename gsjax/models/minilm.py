"""BERT encoder with mean pooling: the sentence network all-MiniLM-L6-v2. Inference only.

Transformer blocks with the normalisation after each sum (BERT, arXiv 1810.04805), exact GELU, and
the mean over the words that are there (Sentence-BERT, arXiv 1908.10084, section 3), scaled to length
one. 22.6 M parameters, half of them the table of word pieces. `convert` takes the state dict of a
Hugging Face ``BertModel``; ``models.wordpiece`` makes the ids, and ``models.packaged`` says where an
installed copy of the weights lies.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import linear, name_tables

PAD = 0  # id of places without a word piece


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of the encoder; the defaults are those of all-MiniLM-L6-v2.

    Raises:
        ValueError: ``heads`` does not divide ``width``.
    """

    vocabulary: int = 30522
    width: int = 384
    depth: int = 6
    heads: int = 12
    hidden: int = 1536
    positions: int = 512
    eps: float = 1e-12

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"BertConfig.heads: {self.heads} does not divide width {self.width}")


class Block(nn.Module):
    """Self-attention and a two-layer network, each added to its input and then normalised."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """x: [B, T, C]; present: bool [B, T]."""
        config = self.config
        shape = (*x.shape[:-1], config.heads, config.width // config.heads)
        q, k, v = (
            linear.Dense(config.width, name=name)(x).reshape(shape)
            for name in ("query", "key", "value")
        )
        y = nn.dot_product_attention(q, k, v, mask=present[:, None, None, :])
        y = linear.Dense(config.width, name="attend")(y.reshape(x.shape))
        x = _norm(config, "attend_norm")(x + y)
        y = nn.gelu(linear.Dense(config.hidden, name="expand")(x), approximate=False)
        y = linear.Dense(config.width, name="project")(y)
        return _norm(config, "project_norm")(x + y)


def _norm(config: BertConfig, name: str) -> nn.LayerNorm:
    # Not by E[x^2] - E[x]^2, which loses digits where the mean is large.
    return nn.LayerNorm(epsilon=config.eps, use_fast_variance=False, name=name)


class SentenceEncoder(nn.Module):
    """Ids to unit vectors; ``method='words'`` gives the vectors before pooling."""

    config: BertConfig = BertConfig()

    @nn.compact
    def words(self, ids: jax.Array) -> jax.Array:
        """Ids int32 [B, T], T <= positions, to one vector a word piece, [B, T, C].

        Vectors of padding mean nothing. A row of padding alone gives finite numbers.
        """
        config, ids = self.config, jnp.asarray(ids)
        length = ids.shape[1]
        if length > config.positions:
            raise ValueError(
                f"ids: {length} word pieces found, at most {config.positions} expected; tokenize "
                "with a smaller max_length"
            )
        near = nn.initializers.normal(0.02)
        pieces = self.param("pieces", near, (config.vocabulary, config.width))
        x = jnp.asarray(pieces)[ids]
        x = x + self.param("places", near, (config.positions, config.width))[:length]
        x = x + self.param("kinds", near, (2, config.width))[0]  # one sentence: kind 0 throughout
        x = _norm(config, "norm")(x)
        present = (ids != PAD).at[:, 0].set(True)
        for i in range(config.depth):
            x = Block(config, name=f"block_{i}")(x, present)
        return x

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Ids int32 [B, T] to unit vectors [B, C]."""
        present = (jnp.asarray(ids) != PAD)[..., None]
        total = jnp.sum(jnp.where(present, self.words(ids), 0.0), axis=1)
        mean = total / jnp.maximum(present.sum(axis=1), 1)
        return mean * jax.lax.rsqrt(jnp.maximum((mean * mean).sum(-1, keepdims=True), 1e-12))


def name_table(config: BertConfig = BertConfig()) -> list[name_tables.Entry]:
    """From the names of Hugging Face's ``BertModel`` to ours."""
    entry = name_tables.Entry

    def dense(theirs: str, ours: str) -> list[name_tables.Entry]:
        return [
            entry(f"{theirs}.weight", f"{ours}/kernel", "linear"),
            entry(f"{theirs}.bias", f"{ours}/bias"),
        ]

    def norm(theirs: str, ours: str) -> list[name_tables.Entry]:
        return [
            entry(f"{theirs}.weight", f"{ours}/scale"),
            entry(f"{theirs}.bias", f"{ours}/bias"),
        ]

    table = [
        entry("embeddings.word_embeddings.weight", "pieces"),
        entry("embeddings.position_embeddings.weight", "places"),
        entry("embeddings.token_type_embeddings.weight", "kinds"),
        *norm("embeddings.LayerNorm", "norm"),
    ]
    for i in range(config.depth):
        theirs, ours = f"encoder.layer.{i}", f"block_{i}"
        for part in ("query", "key", "value"):
            table += dense(f"{theirs}.attention.self.{part}", f"{ours}/{part}")
        table += dense(f"{theirs}.attention.output.dense", f"{ours}/attend")
        table += norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attend_norm")
        table += dense(f"{theirs}.intermediate.dense", f"{ours}/expand")
        table += dense(f"{theirs}.output.dense", f"{ours}/project")
        table += norm(f"{theirs}.output.LayerNorm", f"{ours}/project_norm")
    return table


def param_shapes(config: BertConfig = BertConfig()) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    variables = jax.eval_shape(SentenceEncoder(config).init, jax.random.key(0), ids)
    return name_tables.flat_shapes(variables["params"])


def convert(state_dict: Mapping[str, np.ndarray], config: BertConfig = BertConfig()) -> dict:
    """Parameters of `SentenceEncoder` from a Hugging Face ``BertModel``'s state dict.

    The pooler, which sentence vectors do not pass, is left out.

    Raises:
        ValueError: the state dict is of another model or size; the message lists what does not fit.
    """
    return name_tables.convert(
        state_dict,
        name_table(config),
        param_shapes(config),
        what="MiniLM-L6 (BertModel)",
        ignore=(r"pooler\.", r"embeddings\.position_ids$"),
    ).variables
