"""Linear probe: logistic regression on frozen training features, measured on held-out objects.

Source: the probes of ULIP (arXiv 2212.05171) and OpenShape (arXiv 2305.10764), which Uni3D follows:
all training objects, or a few of each class, averaged over random draws. With
``standard='columns'`` and the numbers of ``penalties.GRID`` for ``penalties`` it is the usual probe of
self-supervised features: every column standardised on the training set, the penalty chosen by
cross-validation inside it.
"""

import jax
import numpy as np

from gsjax.evals import batch_statistics, features, heads, penalties
from gsjax.metrics import bootstrap, trials

DEFAULTS = dict(
    train_split="train",
    split="test",
    exclude=(),  # names of categories that are left out, on both sides
    shots=(),  # also with 1, 2, ... training objects a class
    draws=10,  # random draws for each of those
    inverse_penalty=0.1,  # of the weights, see heads.Logistic; never tuned on held-out objects
    penalties=(),  # inverse penalties to choose from by cross-validation; () = the fixed one
    folds=5,  # of cross-validation, inside the training objects
    standard="whole",  # how features are standardised, see heads.Logistic; or 'columns'
    reestimate_norms=0,  # training batches that running statistics are measured on first; 0 = none
    batch_size=64,
    bootstrap=2000,  # resamples for 95 % intervals over held-out objects; 0 = none
    seed=0,  # of the draws
)


class Evaluator:
    """Accuracy of one linear layer on frozen features, over objects and over classes, in per cent.

    ``top1`` and ``top1_macro`` with ``_low`` and ``_high``; ``train_top1`` on what was fitted;
    ``majority``, what always answering the commonest class of the training objects scores; with
    ``shots``, ``top1_4shot/mean`` and so on, over draws (see ``metrics.trials``). Held-out objects of
    classes without a training object count as wrong. A class with fewer training objects than shots
    gives what it has.

    With ``penalties``: ``inverse_penalty``, the chosen one; ``cv_top1``, its accuracy over the folds;
    ``penalty_at_edge``, 1 if it is the least or the largest of the grid. Each draw of ``shots`` chooses
    among its own objects, in as many folds as shots at most; one shot takes the fixed penalty.

    With ``reestimate_norms`` the running statistics of the network behind ``embed`` are measured on
    training batches first (``evals.batch_statistics``), for this evaluation alone.

    Attributes:
        details: after :meth:`run`, per held-out object: ``index``, ``category`` and ``hit``.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("linear_probe", options, DEFAULTS)
        if any(shot < 1 for shot in self._options["shots"]) or self._options["draws"] < 1:
            raise ValueError(
                "eval.evaluators.linear_probe: expected shots and draws from 1 on, found "
                f"shots={tuple(self._options['shots'])}, draws={self._options['draws']}"
            )
        self._check_choice()
        if self._options["reestimate_norms"]:
            batch_statistics.check(system)
        self._predict = jax.jit(system.predict_fns["embed"])
        self.details: dict[str, np.ndarray] = {}

    def _check_choice(self):
        """Refuses settings here that would otherwise fail after hours of training."""
        o = self._options
        if any(not penalty > 0 for penalty in o["penalties"]) or o["folds"] < 2:
            raise ValueError(
                "eval.evaluators.linear_probe: expected penalties above 0 and folds from 2 on, found "
                f"penalties={tuple(o['penalties'])}, folds={o['folds']}"
            )
        if o["standard"] not in heads.STANDARDS:
            raise ValueError(
                f"eval.evaluators.linear_probe.standard: unknown {o['standard']!r}; known: "
                f"{', '.join(heads.STANDARDS)}"
            )

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        o = self._options
        if o["reestimate_norms"]:
            variables = batch_statistics.reestimate(
                self._system, variables, put_batch,
                batches=o["reestimate_norms"], batch_size=o["batch_size"], seed=o["seed"],
            )  # fmt: skip
        train, test = (
            self._collect(variables, put_batch, split) for split in (o["train_split"], o["split"])
        )
        # the order of records must not decide what is drawn, nor how sums are rounded
        order = np.argsort(train["index"], kind="stable")
        known, labels = train["gaussian"][order], train["category"][order]
        truth = test["category"]
        fitted, choice = self._fit(known, labels, o["folds"], (o["seed"], 0, 0))
        hit = _hits(fitted, test["gaussian"], truth)
        self.details = dict(index=test["index"], category=truth, hit=hit)
        classes, counts = np.unique(labels, return_counts=True)
        result = dict(
            num_train=float(len(labels)),
            num_objects=float(len(truth)),
            train_top1=100.0 * float(_hits(fitted, known, labels).mean()),
            majority=100.0 * float(np.mean(truth == classes[counts.argmax()])),
        )
        if choice is not None:
            result |= dict(
                inverse_penalty=choice.inverse_penalty,
                cv_top1=100.0 * choice.accuracy[choice.inverse_penalty],
                penalty_at_edge=float(choice.at_edge),
            )
        for suffix, groups in (("", None), ("_macro", truth)):
            interval = bootstrap.mean_interval(
                100.0 * hit, groups, resamples=max(o["bootstrap"], 1)
            )
            result[f"top1{suffix}"] = interval.value
            if o["bootstrap"]:
                result[f"top1{suffix}_low"] = interval.low
                result[f"top1{suffix}_high"] = interval.high
        for shot in o["shots"]:
            found = []
            for draw in range(o["draws"]):
                rows = draw_rows(labels, shot, np.random.default_rng([o["seed"], shot, draw]))
                seed = (o["seed"], shot, draw)
                fitted, _ = self._fit(known[rows], labels[rows], min(o["folds"], shot), seed)
                found.append(100.0 * _hits(fitted, test["gaussian"], truth).mean())
            state = trials.Trials.of(found).compute()
            result |= {f"top1_{shot}shot/{name}": value for name, value in state.items()}
        return result

    def _collect(self, variables, put_batch, split):
        found = features.collect(
            self._system, self._predict, variables, put_batch, split,
            batch_size=self._options["batch_size"],
        )  # fmt: skip
        names = self._system.info["class_names"]
        return features.keep_categories(found, names, self._options["exclude"])[0]

    def _fit(self, known, labels, folds, seed):
        """((head, classes it knows, ascending), choice of the penalty or None)."""
        o = self._options
        classes, compact = np.unique(labels, return_inverse=True)
        penalty, choice = o["inverse_penalty"], None
        if o["penalties"] and folds >= 2:
            choice = penalties.choose(
                known, compact, o["penalties"], folds=folds, seed=seed, standard=o["standard"]
            )
            penalty = choice.inverse_penalty
        head = heads.Logistic.fit(
            known, compact, len(classes), inverse_penalty=penalty, standard=o["standard"]
        )
        return (head, classes), choice


def _hits(fitted, features, truth) -> np.ndarray:
    """bool [Q]; False for classes that the head does not know."""
    head, classes = fitted
    seen = np.isin(truth, classes)
    places = np.searchsorted(classes, np.where(seen, truth, classes[0]))
    return seen & heads.hits(head.scores(features), places)


def draw_rows(labels: np.ndarray, shot: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted rows with ``shot`` objects of every class, or all of a class that has fewer."""
    rows = [rng.permutation(np.flatnonzero(labels == c))[:shot] for c in np.unique(labels)]
    return np.sort(np.concatenate(rows))
