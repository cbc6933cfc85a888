"""Few-shot classification: N-way K-shot episodes over fixed objects, with three heads.

Source: CLIP-GS (arXiv 2412.19142) reports mean and deviation over 10 trials; the protocol is
Point-BERT's (arXiv 2111.14819), which fine-tunes. How CLIP-GS adapts is not known, so heads on frozen
features stand beside the fine-tuned one. Categories must have been kept out of training
(``data.exclude_categories``): their objects are the split 'novel'. The frozen towers may know them.
"""

import jax
import numpy as np

from gsjax.evals import batch_statistics, episodes, features, finetune, heads
from gsjax.metrics import trials

HEADS = ("prototype", "linear", "finetune")
DEFAULTS = dict(
    episodes="objects_cc0",  # a shipped set of episodes, or a file of gsjax.evals.episodes
    splits=("novel",),  # where their objects are; ('train', 'test') for categories seen in training
    way=(5, 10),  # the largest ones are those of the file
    shot=(1, 5, 10),
    heads=("prototype", "linear"),  # and 'finetune', which takes minutes a setting
    inverse_penalty=0.1,  # of 'linear', see heads.Logistic; fixed, nothing is tuned on queries
    reestimate_norms=0,  # training batches that running statistics are measured on first; 0 = none
    batch_size=64,
    finetune=dict(finetune.DEFAULTS),
    seed=0,  # of the order of fine-tuning batches
)


class Evaluator:
    """Accuracy on the queries of every episode, in per cent.

    For each head and setting, ``linear/5w1s/mean``, ``.../std`` (over trials, ddof = 0) and a 95 %
    interval of the mean over trials, ``.../low`` and ``.../high`` (see ``metrics.trials``). Ties count
    against the true class, so constant features score 0 and not chance, which is 100 / N.

    The heads: 'prototype', nearest class mean by cosine; 'linear', logistic regression on the frozen
    features; 'finetune', encoder and linear layer trained together (``evals.finetune``).

    Attributes:
        details: after :meth:`run`, {'linear/5w1s': accuracy [T] of each trial}.
    """

    def __init__(self, system, options):
        o = self._options = features.refuse_unknown("few_shot", options, DEFAULTS)
        self._system = system
        if o["reestimate_norms"]:
            batch_statistics.check(system)
        self._predict = jax.jit(system.predict_fns["embed"])
        self._episodes = episodes.load(o["episodes"])
        for name, known in (
            ("way", range(2, max(self._episodes.ways) + 1)),
            ("shot", range(1, max(self._episodes.shots) + 1)),
            ("heads", HEADS),
        ):
            wrong = [value for value in o[name] if value not in known]
            if wrong or not o[name]:
                raise ValueError(
                    f"eval.evaluators.few_shot.{name}: found {tuple(o[name])}; these episodes and "
                    f"this evaluator know {list(known)}"
                )
        self._tuner = finetune.Tuner(system, o["finetune"]) if "finetune" in o["heads"] else None
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}.

        Raises:
            ValueError: the split does not exist, or lacks objects of the episodes.
        """
        o = self._options
        if o["reestimate_norms"]:
            variables = batch_statistics.reestimate(
                self._system, variables, put_batch,
                batches=o["reestimate_norms"], batch_size=o["batch_size"], seed=o["seed"],
            )  # fmt: skip
        places, embeds = self._objects(variables, put_batch)
        result = dict(num_objects=float(len(self._episodes.uids)))
        self.details = {}
        for way in o["way"]:
            for shot in o["shot"]:
                cut = [trial.episode(way, shot) for trial in self._episodes.trials]
                for head in o["heads"]:
                    found = []
                    for number, (support, labels, query, truth) in enumerate(cut):
                        known, asked = ([places[uid] for uid in uids] for uids in (support, query))
                        labels, truth = np.asarray(labels), np.asarray(truth)
                        if head == "finetune":
                            scores = self._tuned(
                                variables, put_batch, known, labels, asked, embeds, number
                            )
                        else:
                            fitted = self._fit(head, embeds[[p[2] for p in known]], labels, way)
                            scores = fitted.scores(embeds[[p[2] for p in asked]])
                        found.append(100.0 * heads.hits(scores, truth).mean())
                    name = f"{head}/{way}w{shot}s"
                    self.details[name] = np.asarray(found)
                    state = trials.Trials.of(found)
                    result |= {f"{name}/{key}": v for key, v in state.compute().items()}
        return result

    def _fit(self, head, known, labels, way):
        if head == "prototype":
            return heads.Prototypes.fit(known, labels, way)
        penalty = self._options["inverse_penalty"]
        return heads.Logistic.fit(known, labels, way, inverse_penalty=penalty)

    def _objects(self, variables, put_batch):
        """({uid: (split, position, row)}, embeddings [n, D]) of all objects of the splits."""
        o, places, parts, start = self._options, {}, [], 0
        for split in o["splits"]:
            uids = _uids(self._system, split)
            found = features.collect(
                self._system, self._predict, variables, put_batch, split,
                batch_size=o["batch_size"],
            )  # fmt: skip
            if len(uids) != len(found["gaussian"]):
                raise ValueError(
                    f"few_shot: split {split!r} has {len(uids)} uids and "
                    f"{len(found['gaussian'])} examples; info['uids'] must give one an example"
                )
            places |= {uid: (split, i, start + i) for i, uid in enumerate(uids)}
            start += len(uids)
            parts.append(found["gaussian"])
        absent = sorted(self._episodes.uids - set(places))
        if absent:
            raise ValueError(
                f"few_shot: {len(absent)} of {len(self._episodes.uids)} objects of the episodes "
                f"{o['episodes']!r} are not in {tuple(o['splits'])}, such as {absent[0]!r}. Train "
                f"with data.exclude_categories={self._episodes.categories}, whose objects become "
                "the split 'novel'; or, for categories that training saw, set "
                "splits=('train', 'test')"
            )
        return places, np.concatenate(parts)

    def _tuned(self, variables, put_batch, known, labels, asked, embeds, number):
        """Scores [Q, C] of an encoder fine-tuned on one episode."""
        pick = {split: self._system.eval_data(split) for split, _, _ in (*known, *asked)}
        support, query = (
            _stack([pick[split][position] for split, position, _ in part])
            for part in (known, asked)
        )
        start = heads.Prototypes.fit(embeds[[p[2] for p in known]], labels, labels.max() + 1)
        return self._tuner.scores(
            variables,
            put_batch,
            support,
            labels,
            query,
            start.means,
            seed=(self._options["seed"], number),
        )


def _uids(system, split: str) -> list[str]:
    """Uids of a split, in the order of its examples."""
    read = system.info.get("uids")
    if read is None:
        raise ValueError(
            f"few_shot: system {system.name!r} gives no uids of its examples (info['uids'], a "
            "function of the split), by which the objects of episodes are found"
        )
    return list(read(split))


def _stack(examples) -> dict[str, np.ndarray]:
    return {name: np.stack([np.asarray(e[name]) for e in examples]) for name in examples[0]}
