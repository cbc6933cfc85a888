"""Cross-modal retrieval on held-out objects: R@k between Gaussians, captions and images.

Source: CLIP-GS (arXiv 2412.19142), table of retrieval: Text<->3D and Image<->3D by cosine.
"""

import functools

import jax
import numpy as np

from gsjax.evals import features
from gsjax.metrics import bootstrap, retrieval

DEFAULTS = dict(
    split="test",
    predict="embed",  # predict function that gives the unit vectors
    ks=(1, 5, 10),
    image_view=0,  # which view is an object's image; -1 averages over all of them
    exclude=(),  # names of categories that are left out, as queries and in the gallery
    batch_size=64,
    block=1024,  # queries, and gallery items, that are compared at a time
    bootstrap=0,  # resamples for 95 % intervals over objects; 0 = none
)


class Evaluator:
    """Ranks every object's caption (where there are captions) and image among all of them, and the reverse.

    For each direction ``a_to_b`` (a queries, b is the gallery): ``R@k`` with ties in favour of the
    correct item, ``R@k_pessimistic`` with ties against it, with captions ``R@k_any`` where any object with
    an equal caption counts as correct, and the median rank. With ``bootstrap``, also
    ``R@k_pessimistic_low`` and ``_high``.

    Attributes:
        details: after :meth:`run`, per object: ``index``, ``category`` and, for each direction, the
            pessimistic ``rank``; for intervals over several runs.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("retrieval", options, DEFAULTS)
        self._predict = jax.jit(system.predict_fns[self._options["predict"]])
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}, recalls in per cent."""
        o = self._options
        found = features.collect(
            self._system, self._predict, variables, put_batch, o["split"],
            batch_size=o["batch_size"],
        )  # fmt: skip
        found, _ = features.keep_categories(found, self._system.info["class_names"], o["exclude"])
        embeds = dict(gaussian=found["gaussian"], image=self._image(found["image"]))
        if "text" in found:
            embeds["text"] = found["text"]
        run = functools.partial(retrieval.cross_modal, anchor="gaussian", block=o["block"])
        strict = run(embeds)
        loose = run(embeds, found["caption_hash"]) if "text" in found else {}
        self.details = dict(index=found["index"], category=found["category"])
        result = dict(num_objects=float(len(found["index"])))
        for direction, ranks in strict.items():
            name = direction.replace("->", "_to_")
            self.details[name] = ranks.pessimistic
            result |= self._recalls(name, ranks, loose.get(direction))
        return result

    def _image(self, views):
        """[n, V, D] -> one unit vector an object."""
        view, count = self._options["image_view"], views.shape[1]
        if not -1 <= view < count:
            raise ValueError(
                f"eval.evaluators.retrieval.image_view: found {view}; expected 0 to {count - 1}, a view "
                "of the cache, or -1 for the mean of all"
            )
        if view >= 0:
            return views[:, view]
        mean = views.mean(1)
        return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    def _recalls(self, name, strict, loose):
        ks = tuple(self._options["ks"])
        result = {f"{name}/median_rank": float(np.median(strict.optimistic))}
        kinds = [("", strict.optimistic), ("_pessimistic", strict.pessimistic)]
        if loose:
            kinds.append(("_any", loose.pessimistic))
        for suffix, ranks in kinds:
            for k, value in retrieval.Recall.from_ranks(ranks, ks).compute().items():
                result[f"{name}/{k}{suffix}"] = value
        if self._options["bootstrap"]:
            for k in ks:
                interval = bootstrap.mean_interval(
                    100.0 * (strict.pessimistic <= k), resamples=self._options["bootstrap"]
                )
                result[f"{name}/R@{k}_pessimistic_low"] = interval.low
                result[f"{name}/R@{k}_pessimistic_high"] = interval.high
        return result
