"""Runs the tiny system as main.py runs a real one: python run_tiny.py WORKDIR [name=value ...]

``address= processes= id=`` join several processes, ``width=`` is the system's, ``batches=`` the
length of the evaluation; anything else is a setting like ``train.num_steps=5``.
"""

import sys
import time

import jax
import numpy as np
from absl import logging

from gsjax.train import distributed, loop, preemption
from tests.train import tiny


class SlowEvaluator:
    """Stands in for a module of gsjax.evals; slow enough to be killed in."""

    def __init__(self, system, options):
        self._system, self._options = system, options

    def run(self, variables, put_batch):
        predict = jax.jit(self._system.predict_fns["logits"])
        total = 0.0
        for _ in range(self._options["batches"]):
            rows = [self._system.eval_data("test")[i] for i in range(4)]
            batch = {k: [r[k] for r in rows] for k in rows[0]}
            local = put_batch({k: np.stack(v) for k, v in batch.items()})
            total += float(predict(variables, local)["logits"].sum())
            time.sleep(self._options["seconds"])
        return {"sum": total}


def main(argv):
    options = dict(item.split("=", 1) for item in argv[2:])
    logging.set_verbosity(logging.INFO)
    distributed.initialize(
        options.pop("address", ""), int(options.pop("processes", 0)), int(options.pop("id", -1))
    )
    loop._evaluator = lambda name: SlowEvaluator
    system = tiny.build(width=int(options.pop("width", 32)))
    evaluators = {"slow": {"batches": int(options.pop("batches", 0)), "seconds": 0.05}}
    config = tiny.config(train__compilation_cache="", mesh__data=-1)
    config.eval.evaluators = evaluators
    config.optim.schedule = "constant"  # so that runs of different lengths agree
    for name, value in options.items():
        block, key = name.split(".")
        config[block][key] = type(config[block][key])(float(value))
    try:
        loop.run(config, argv[1], system=system)
    except preemption.Preempted:
        sys.exit(preemption.EXIT_CODE)


if __name__ == "__main__":
    main(sys.argv)
