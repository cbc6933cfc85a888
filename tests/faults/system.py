"""The tiny system of the training tests, slower, and saying which examples each step trained on.

Every step's metrics hold ``id/00`` ... ``id/15``: the number of the example in each row of the global
batch, as the compiled step saw it. So metrics.jsonl is a record of the order of the data.
"""

import dataclasses
import time

import grain
import jax
import numpy as np
from absl import logging
from jax.sharding import PartitionSpec

from gsjax.systems import base
from tests.train import tiny

EVAL_BATCHES = 5
EVAL_BEGINS, EVAL_ENDS = "sums: evaluation begins", "sums: evaluation ends"


def build(config) -> base.System:
    """The system, paced by ``config.faults``."""
    plain = tiny.build(width=config.faults.width)
    seconds = config.faults.step_seconds * jax.process_count() / config.train.batch_size

    def loss(variables, batch, rng, train):
        loss, metrics, collections = plain.loss(variables, batch, rng, train)
        ids = jax.lax.with_sharding_constraint(batch["index"], PartitionSpec())
        metrics |= {f"id/{i:02d}": ids[i].astype(np.float32) for i in range(ids.shape[0])}
        return loss, metrics, collections

    def slowly(split="train"):
        return grain.MapDataset.source(_Slow(tiny.Points(), seconds))

    return dataclasses.replace(plain, name="faults", loss=loss, train_data=slowly)


class _Slow:
    """A source whose examples take their time, and none of the processor's."""

    def __init__(self, source, seconds: float):
        self._source, self._seconds = source, seconds

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        time.sleep(self._seconds)
        return self._source[index]


class Evaluator:
    """Sum of the logits of the first examples; stands in for a module of gsjax.evals."""

    def __init__(self, system: base.System, options):
        del options
        self._system = system
        self.details = {}

    def run(self, variables, put_batch):
        logging.info(EVAL_BEGINS)
        predict = jax.jit(self._system.predict_fns["logits"])
        source = tiny.Points()
        rows = 16 // jax.process_count()
        total = 0.0
        for number in range(EVAL_BATCHES):
            first = jax.process_index() * rows + number
            examples = [source[first + i] for i in range(rows)]
            batch = put_batch({k: np.stack([e[k] for e in examples]) for k in examples[0]})
            total += float(predict(variables, batch)["logits"].sum())
            time.sleep(0.1)
        logging.info(EVAL_ENDS)
        return {"sum": total}
