"""Config of the run that faults are injected into: 40 steps of a few seconds, saved every five.

python main.py --config=tests/faults/config.py --workdir=runs/faults
"""

from configs import common

STEPS = 40
BATCH = 16
SAVE_EVERY = 5
EVAL_EVERY = 10


def get_config(arg=None):
    """Paced so that a random moment falls into a step, a save or an evaluation."""
    common.parse_arg(arg)
    config = common.base("tests.faults")
    config.train.batch_size = BATCH
    config.train.num_steps = STEPS
    config.train.log_every = 1
    config.train.save_every = SAVE_EVERY
    config.train.eval_every = EVAL_EVERY
    config.train.prefetch = 1
    config.data.num_threads = 1
    config.data.prefetch = 2
    config.optim.lr = 0.002  # losses stay large enough to compare in float32
    config.optim.warmup = 2.0
    config.eval.evaluators = {"sums": {"module": "tests.faults.system"}}
    config.faults = dict(
        width=2048,  # hidden units: a checkpoint of 300 KB
        step_seconds=0.08,  # that the data of a step take
    )
    return config
