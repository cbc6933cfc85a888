"""Accuracy of a classifier on held-out objects, over objects and over classes."""

import jax
import numpy as np

from gsjax.evals import features
from gsjax.metrics import bootstrap

DEFAULTS = dict(
    split="test",
    batch_size=64,
    bootstrap=2000,  # resamples for 95 % intervals over objects; 0 = none
)


class Evaluator:
    """``top1`` and ``top1_macro`` in per cent, with ``_low`` and ``_high``; needs ``labels``.

    Attributes:
        details: after :meth:`run`, per object: ``index``, ``category`` and ``hit``.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("classification", options, DEFAULTS)
        self._predict = jax.jit(system.predict_fns["labels"])
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        o = self._options
        found = features.collect(
            self._system, self._predict, variables, put_batch, o["split"],
            batch_size=o["batch_size"],
        )  # fmt: skip
        hit = found["predicted"] == found["label"]
        self.details = dict(index=found["index"], category=found["category"], hit=hit)
        result = dict(num_objects=float(len(hit)))
        for suffix, groups in (("", None), ("_macro", found["label"])):
            values = bootstrap.mean_interval(100.0 * hit, groups, resamples=max(o["bootstrap"], 1))
            result[f"top1{suffix}"] = values.value
            if o["bootstrap"]:
                result |= {f"top1{suffix}_low": values.low, f"top1{suffix}_high": values.high}
        return result
