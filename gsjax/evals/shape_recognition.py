"""Categories of held-out objects from frozen features, by a linear support vector machine.

The protocol of "Self-Supervised Cross-modality Feature Learning using 3D Gaussian Splatting" (A.
Simionescu, TU Delft): in 2D the largest value of each feature over V views drawn at random, in 3D the
features of the Gaussians. 'memory' shows the test objects as their Gaussians look from the same sides
('64*' in the thesis), 'between' from sides that no picture was taken from; both machines were fitted on
pictures of the objects themselves.
"""

import jax
import numpy as np

from gsjax.data import label_splits
from gsjax.evals import features, svm
from gsjax.metrics import bootstrap, trials

DEFAULTS = dict(
    train_split="train",
    split="test",
    views=(1, 4, 16, 32, 64),
    draws=5,  # of views, and of samples of Gaussians
    fractions=(1.0,),  # of the training objects that the machine sees, within every class
    memory=False,  # also pictures of the test objects' Gaussians
    svm="device",  # or 'sklearn'
    inverse_penalty=1.0,  # C
    batch_size=16,
    bootstrap=2000,  # resamples for 95 % intervals over test objects; 0 = none
    seed=0,
)


class Evaluator:
    """Accuracy in per cent: ``image/<V>`` and ``points``, means over draws, with ``_low``, ``_high``, ``_std``.

    With other fractions than 1, ``image/<V>@<fraction>`` and ``points@<fraction>`` too; with ``memory``,
    ``memory/<V>`` and ``between/<V>``. ``majority`` is the commonest class of the training objects. Needs the
    predict functions ``embed`` and ``views`` and the splits '<split>/<pictures>' and '<split>#<number>'.

    Attributes:
        details: after :meth:`run`, per test object: ``index``, ``category`` and, for each figure, the share
            of draws that were right.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = o = features.refuse_unknown("shape_recognition", options, DEFAULTS)
        if o["svm"] not in svm.KINDS:
            raise ValueError(
                f"eval.evaluators.shape_recognition.svm: unknown {o['svm']!r}; known: {svm.KINDS}"
            )
        if not o["views"] or min(o["views"]) < 1 or o["draws"] < 1:
            raise ValueError(
                "eval.evaluators.shape_recognition: expected views and draws from 1 on, found "
                f"{tuple(o['views'])} and {o['draws']}"
            )
        self._predict = {name: jax.jit(system.predict_fns[name]) for name in ("embed", "views")}
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        o = self._options

        def collect(name, split):
            return features.collect(
                self._system, self._predict[name], variables, put_batch, split,
                batch_size=o["batch_size"],
            )  # fmt: skip

        known = collect("views", f"{o['train_split']}/views")
        shown = {"image": collect("views", f"{o['split']}/views")}
        if o["memory"]:
            for name in ("memory", "between"):
                shown[name] = collect("views", f"{o['split']}/{name}")
        labels, truth = known["category"], shown["image"]["category"]
        share = {share: label_splits.fraction(labels, share, o["seed"]) for share in o["fractions"]}
        right: dict[str, list] = {}
        for draw in range(o["draws"]):
            clouds = [
                collect("embed", f"{s}#{draw}")["gaussian"] for s in (o["train_split"], o["split"])
            ]
            for fraction, rows in share.items():
                suffix = "" if fraction == 1.0 else f"@{fraction:g}"
                self._add(
                    right, f"points{suffix}", clouds[0][rows], labels[rows], {"": clouds[1]}, truth
                )
                for count in self._counts(known["image"]):
                    rng = np.random.default_rng([o["seed"], draw, count])
                    pooled = pool(known["image"], count, rng)
                    others = {n: pool(x["image"], count, rng) for n, x in shown.items()}
                    others = {f"{name}/{count}{suffix}": x for name, x in others.items()}
                    self._add(right, "", pooled[rows], labels[rows], others, truth)
        self.details = dict(index=shown["image"]["index"], category=truth) | {
            name: np.mean(hits, 0) for name, hits in right.items()
        }
        result = {name: value for item in right.items() for name, value in self._figures(*item)}
        classes, counts = np.unique(labels, return_counts=True)
        result["majority"] = 100.0 * float(np.mean(truth == classes[counts.argmax()]))
        return result | dict(num_train=float(len(labels)), num_objects=float(len(truth)))

    def _counts(self, known) -> tuple[int, ...]:
        if short := [count for count in self._options["views"] if count > known.shape[1]]:
            raise ValueError(
                f"eval.evaluators.shape_recognition.views: {short} asked for, {known.shape[1]} an object; "
                "raise data.views, or leave them out"
            )
        return tuple(self._options["views"])

    def _add(self, right, name, known, labels, others, truth):
        """Hits of one machine on all that it is tried on."""
        o = self._options
        found = svm.hits_of_all(
            known, labels, list(others.values()), truth,
            kind=o["svm"], inverse_penalty=o["inverse_penalty"],
        )  # fmt: skip
        for key, hits in zip(others, found, strict=True):
            right.setdefault(name + key, []).append(hits)

    def _figures(self, name: str, hits: list[np.ndarray]):
        interval = bootstrap.mean_interval(
            100.0 * np.stack(hits), None, resamples=max(self._options["bootstrap"], 1)
        )
        yield name, interval.value
        spread = trials.Trials.of([100.0 * float(h.mean()) for h in hits]).compute()
        yield f"{name}_std", spread["std"]
        if self._options["bootstrap"]:
            yield f"{name}_low", interval.low
            yield f"{name}_high", interval.high


def pool(views: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The largest value of each feature over views drawn without replacement.

    Args:
        views: [n, V, D].
        count: of them; all where there are no more (between 64 sides there are 63).
        rng: of the draws, each object's own.

    Returns:
        [n, D].
    """
    if count >= views.shape[1]:
        return views.max(1)
    order = np.argsort(rng.random(views.shape[:2]), 1)[:, :count]
    return np.take_along_axis(views, order[..., None], 1).max(1)
