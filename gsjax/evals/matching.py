"""Retrieval where no space is shared: a head is asked of every picture and all Gaussians.

Image -> 3D with the protocol of ``retrieval``, for systems whose predict function ``match`` tells whether
features belong together, such as the fusion head of cross-modal self-supervision.
"""

import jax
import numpy as np

from gsjax.evals import features
from gsjax.metrics import bootstrap, retrieval

DEFAULTS = dict(
    split="test",
    ks=(1, 5, 10),
    views=(1,),  # pictures of a query, whose answers are added
    draws=5,  # of them, at random
    batch_size=16,
    bootstrap=2000,  # resamples for 95 % intervals over objects; 0 = none
    seed=0,
)


class Evaluator:
    """R@k in per cent of finding an object's Gaussians by ``views`` of its pictures, among all objects'.

    ``image_to_gaussian/<V>/R@k`` with ties against the right answer, with ``_low`` and ``_high`` over objects,
    means over draws, and ``median_rank``. Needs the predict functions ``embed``, ``views`` and ``match``.

    Attributes:
        details: after :meth:`run`, per object: ``index``, ``category``, and for each V the mean ``rank``.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("matching", options, DEFAULTS)
        self._predict = {
            name: jax.jit(system.predict_fns[name]) for name in ("embed", "views", "match")
        }
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}.

        Raises:
            ValueError: more views are asked for than there are.
        """
        o = self._options

        def collect(name, split):
            return features.collect(
                self._system, self._predict[name], variables, put_batch, split,
                batch_size=o["batch_size"],
            )  # fmt: skip

        shown = collect("views", f"{o['split']}/views")
        clouds = collect("embed", f"{o['split']}#0")["gaussian"]
        sides = shown["image"].shape[1]
        if max(o["views"]) > sides:
            raise ValueError(
                f"eval.evaluators.matching.views: expected at most {sides}, found {max(o['views'])}"
            )
        self.details = dict(index=shown["index"], category=shown["category"])
        result = dict(num_objects=float(len(clouds)))
        drawn = {count: _drawn(sides, count, o["draws"], o["seed"]) for count in o["views"]}
        used = np.unique(np.concatenate([x.ravel() for x in drawn.values()]))
        answers = self._answers(variables, shown["image"][:, used], clouds)  # [n, len(used), n]
        for count, draws in drawn.items():
            found = [ranks(answers[:, np.searchsorted(used, views)].sum(1)) for views in draws]
            name = f"image_to_gaussian/{count}"
            self.details[name] = np.mean(found, 0)
            result[f"{name}/median_rank"] = float(np.median(found))
            for k in o["ks"]:
                hits = 100.0 * np.mean(np.asarray(found) <= k, 0)  # an object
                result[f"{name}/R@{k}"] = float(hits.mean())
                if o["bootstrap"]:
                    interval = bootstrap.mean_interval(hits, resamples=o["bootstrap"])
                    result[f"{name}/R@{k}_low"] = interval.low
                    result[f"{name}/R@{k}_high"] = interval.high
        return result

    def _answers(self, variables, images, clouds) -> np.ndarray:
        """Logit of every picture [n, V, D] with every object's Gaussians [m, D'] -> [n, V, m]."""
        flat = images.reshape(-1, images.shape[-1])
        columns = []
        for cloud in clouds:
            batch = dict(image=flat, gaussian=np.broadcast_to(cloud, (len(flat), len(cloud))))
            logits = features.to_host(self._predict["match"](variables, batch))["logits"]
            columns.append((logits[:, 1] - logits[:, 0]).reshape(images.shape[:2]))
        return np.stack(columns, -1)


def _drawn(sides: int, count: int, draws: int, seed: int) -> np.ndarray:
    """Numbers of different views, [draws, count]."""
    rng = np.random.default_rng([seed, count])
    return np.stack([rng.permutation(sides)[:count] for _ in range(draws)])


def ranks(answers: np.ndarray) -> np.ndarray:
    """Place [n] of each query's own item, the diagonal of [n, n], with ties against it; 1 is best."""
    own = np.diagonal(answers)[:, None]
    return (answers >= own - retrieval.TIE).sum(1)
