"""Runs of a study of cross-modal self-supervision: training, random weights, and what needs neither.

Kinds of ``study_kinds``: (config, run folder) -> (metrics, outcomes an object).
"""

from gsjax.cli import study_scores

NEAREST_POINTS = 512  # of each object, the first of its farthest-point sample


def self_supervised(config, folder):
    """A whole training run, then its evaluators; the run goes on where an earlier one stopped."""
    return _kept(*study_scores.trained(config, folder))


def random_weights(config, folder):
    """The same networks as they were made."""
    del folder
    import jax

    from gsjax.systems import base

    system = base.build(config)
    variables = jax.jit(system.init)(jax.random.key(config.seed))
    return _kept(*study_scores.scores(config, system, variables))


def _kept(metrics, details):
    """(metrics, outcomes an object)."""
    outcomes = {}
    for found in details.values():
        for name, values in found.items():
            exact = name in ("index", "category", "right")
            outcomes[name] = [int(x) if exact else round(float(x), 3) for x in values]
    return metrics, outcomes


def nearest(config, folder):
    """The label of the Chamfer-nearest training object, on raw points."""
    del folder
    import numpy as np

    from gsjax.data import label_splits
    from gsjax.evals import nearest as nearest_lib
    from gsjax.systems.cross_modal import data

    source = data.load(config)
    points, labels, index = {}, {}, {}
    for side in ("train", "test"):
        items = source.evaluate(side)
        items = [items[i] for i in range(len(items))]
        points[side] = np.stack([item["points"][:NEAREST_POINTS, :3] for item in items])
        labels[side] = np.asarray([item["category"] for item in items])
        index[side] = np.asarray([item["index"] for item in items])
    options = config.eval.evaluators.shape_recognition
    metrics, outcomes = {}, dict(index=index["test"].tolist(), category=labels["test"].tolist())
    for share in options.get("fractions", (1.0,)):
        rows = label_splits.fraction(labels["train"], share, options.get("seed", 0))
        found = nearest_lib.nearest_labels(
            points["train"][rows], labels["train"][rows], points["test"]
        )
        name = "points" if share == 1.0 else f"points@{share:g}"
        hit = found == labels["test"]
        metrics[f"shape_recognition/{name}"] = 100.0 * float(hit.mean())
        outcomes[name] = [int(x) for x in hit]
    known = np.bincount(labels["train"])
    metrics["shape_recognition/majority"] = 100.0 * float((labels["test"] == known.argmax()).mean())
    metrics["chance"] = 100.0 / int((known > 0).sum())
    return metrics, outcomes


KINDS = dict(self_supervised=self_supervised, random_weights=random_weights, nearest_paired=nearest)
