"""Classification by the names of the categories: nearest class vector by cosine.

Class vectors come with the system (``info['class_embeds']``), embedded from sentences around each
name by the frozen text tower. Source: ULIP (arXiv 2212.05171); CLIP-GS follows it through Uni3D.
"""

import jax
import numpy as np

from gsjax.evals import features
from gsjax.metrics import bootstrap, classification

DEFAULTS = dict(
    split="test",
    templates="modelnet40_64",  # which set of sentences around the names
    ks=(1, 3, 5),
    exclude=(),  # names of categories that are left out, as objects and as answers
    batch_size=64,
    bootstrap=0,  # resamples for 95 % intervals over objects; 0 = none
)


class Evaluator:
    """Top-k accuracy over samples (``topk``) and over classes (``topk_macro``), in per cent.

    Ties count against the true class. ``majority`` is what always answering the split's most
    frequent class scores, ``chance`` what guessing among all classes does.

    Attributes:
        details: after :meth:`run`, per object: ``index``, ``category`` and ``rank`` of its class.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("zero_shot", options, DEFAULTS)
        self._predict = jax.jit(system.predict_fns["embed"])
        known, chosen = system.info["class_embeds"], self._options["templates"]
        if chosen not in known:
            raise ValueError(
                f"eval.evaluators.zero_shot.templates: unknown {chosen!r}; the cache of "
                f"embeddings holds {sorted(known)}"
            )
        self._classes = np.asarray(known[chosen], np.float32)
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        o = self._options
        found = features.collect(
            self._system, self._predict, variables, put_batch, o["split"],
            batch_size=o["batch_size"],
        )  # fmt: skip
        found, kept = features.keep_categories(
            found, self._system.info["class_names"], o["exclude"]
        )
        labels = (np.cumsum(kept) - 1)[found["category"]]
        ranks = classification.class_ranks(found["gaussian"], self._classes[kept], labels)
        self.details = dict(index=found["index"], category=found["category"], rank=ranks)
        num = int(kept.sum())
        state = classification.TopK.from_ranks(ranks, labels, num, tuple(o["ks"]))
        result = state.compute()
        result["majority"] = 100.0 * float(state.totals.max() / state.totals.sum())
        result["chance"] = 100.0 / num
        if o["bootstrap"]:
            for k in o["ks"]:
                hits = 100.0 * (ranks <= k)
                for suffix, groups in (("", None), ("_macro", labels)):
                    interval = bootstrap.mean_interval(hits, groups, resamples=o["bootstrap"])
                    result[f"top{k}{suffix}_low"] = interval.low
                    result[f"top{k}{suffix}_high"] = interval.high
        return result
