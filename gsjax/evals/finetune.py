"""Fine-tunes a whole encoder and a linear layer on the labelled objects of one few-shot episode.

The encoder is the system's own inference-mode ``predict_fns['embed']``, differentiated: BatchNorm
keeps its running statistics, nothing is dropped and nothing augmented. So this needs no more of a
system than evaluation does. Settings are those of Point-BERT (arXiv 2111.14819), with fewer epochs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsjax.evals import features

DEFAULTS = dict(
    epochs=20,  # the reference: 150
    warmup=0.1,  # share of all steps; the reference: 10 epochs
    lr=1e-4,  # the reference: 5e-4, for a head that starts from nothing
    wd=0.05,
    clip=10.0,
    batch_size=32,
    head_scale=10.0,  # inverse temperature of the first head, the class means
)


class Tuner:
    """Fits and scores episodes; compiled once for each number of classes.

    The linear layer starts as the class means of the frozen features times ``head_scale``: before
    the first step the classifier is the nearest-mean one, and fine-tuning goes on from there.
    """

    def __init__(self, system, options):
        self._options = features.refuse_unknown("few_shot.finetune", options, DEFAULTS)
        self._embed = system.predict_fns["embed"]
        o = self._options
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(o["clip"]),
            optax.scale_by_adam(),
            optax.add_decayed_weights(
                o["wd"], mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
            ),
        )
        self._step = jax.jit(self._one_step)
        self._logits = jax.jit(self._scores)

    def scores(self, variables, put_batch, support, labels, query, means, *, seed=()) -> np.ndarray:
        """Logits [Q, C] of the queries after fine-tuning; ``variables`` stay as they are.

        Args:
            variables: of the system.
            put_batch: host batch -> arrays on the devices.
            support: labelled examples, {field: [n, ...]}.
            labels: [n] int.
            query: {field: [Q, ...]}.
            means: [C, D] unit class means, for the first head.
            seed: integers; of the order of batches.

        Raises:
            ValueError: more than one process.
            FloatingPointError: the loss is not finite.
        """
        if jax.process_count() > 1:
            raise ValueError(
                "few_shot.heads: 'finetune' runs on one process; evaluate on one host, or leave "
                "it out"
            )
        o, size = self._options, self._batch_size()
        rest = {name: x for name, x in variables.items() if name != "params"}
        params = dict(
            encoder=variables["params"],
            kernel=jnp.asarray(o["head_scale"] * means.T, jnp.float32),
            bias=jnp.zeros(len(means), jnp.float32),
        )
        state = self._optimizer.init(params)
        batches = list(epoch_batches(len(labels), size, o["epochs"], np.random.default_rng(seed)))
        loss = jnp.zeros(())
        for step, (rows, real) in enumerate(batches):
            batch = put_batch({name: x[rows] for name, x in support.items()})
            rate = np.float32(learning_rate(step, len(batches), o["lr"], o["warmup"]))
            params, state, loss = self._step(
                params, state, rest, batch, labels[rows], real.astype(np.float32), rate
            )
        if not np.isfinite(loss):
            raise FloatingPointError("few_shot.finetune: the loss is not finite; lower its lr")
        return self._all_scores(params, rest, put_batch, query, size)

    def _all_scores(self, params, rest, put_batch, query, size):
        count = len(next(iter(query.values())))
        parts = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            batch = put_batch({name: x[rows] for name, x in query.items()})
            parts.append(np.asarray(self._logits(params, rest, batch)))
        return np.concatenate(parts)[:count]

    def _batch_size(self) -> int:
        devices = jax.device_count()
        return -(-self._options["batch_size"] // devices) * devices

    def _scores(self, params, rest, batch):
        found = self._embed({"params": params["encoder"], **rest}, batch)["gaussian"]
        return found @ params["kernel"] + params["bias"]

    def _one_step(self, params, state, rest, batch, labels, weight, rate):
        def loss(params):
            logits = self._scores(params, rest, batch)
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.sum(weight * entropy) / jnp.sum(weight)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = self._optimizer.update(gradient, state, params)
        updates = jax.tree.map(functools.partial(jnp.multiply, -rate), updates)
        return optax.apply_updates(params, updates), state, value


def learning_rate(step: int, total: int, peak: float, warmup: float) -> float:
    """Linear warm-up over a share of all steps, then a cosine to zero."""
    rise = warmup * total
    if step + 1 <= rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + np.cos(np.pi * (step - rise) / max(total - rise, 1)))


def epoch_batches(count: int, size: int, epochs: int, rng: np.random.Generator):
    """Yields (rows [size], bool [size]: which rows count); every row counts once an epoch."""
    for _ in range(epochs):
        order = rng.permutation(count)
        for start in range(0, count, size):
            rows = order[start : start + size]
            fill = np.resize(order, size - len(rows))
            yield np.concatenate([rows, fill]), np.arange(size) < len(rows)
