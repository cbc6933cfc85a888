"""Labels of points on held-out objects or scenes: IoU per object, per category and per class."""

import jax
import numpy as np

from gsjax.evals import features
from gsjax.metrics import bootstrap, segmentation

DEFAULTS = dict(
    split="test",
    batch_size=32,
    bootstrap=2000,  # resamples for 95 % intervals over objects; 0 = none
)


class Evaluator:
    """Per cent: ``instance_miou``, mean over objects of the mean IoU over their parts (with ``_low`` and
    ``_high``: objects are resampled, since the points of one are not independent); ``category_miou``,
    the same averaged within categories first; ``accuracy``, ``macro_accuracy`` and ``miou`` over all
    points (``metrics.segmentation.Confusion``); ``iou/<class>``. Needs ``labels``.

    Where the system's ``info`` has ``category_classes`` (for each category the classes that points of
    its objects may have), the IoU of an object is over those of its category, and a part that is
    neither there nor predicted counts as 1: the class and instance mIoU of ShapeNetPart; and there is
    ``category_miou/<category>``.

    Attributes:
        details: after :meth:`run`, per object: ``index``, ``category`` and ``iou``.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("segmentation", options, DEFAULTS)
        self._predict = jax.jit(system.predict_fns["labels"])
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        o, names = self._options, self._system.info["class_names"]
        found = features.collect(
            self._system, self._predict, variables, put_batch, o["split"],
            batch_size=o["batch_size"],
        )  # fmt: skip
        classes = self._system.info.get("category_classes") or ()
        triples = zip(found["predicted"], found["label"], found["category"], strict=True)
        iou = np.asarray(
            [
                100.0 * segmentation.object_iou(p, t, classes[c] if classes else None)
                for p, t, c in triples
            ]
        )
        there = np.isfinite(iou)
        self.details = {
            name: x[there]
            for name, x in dict(index=found["index"], category=found["category"], iou=iou).items()
        }
        values, groups = iou[there], found["category"][there]
        table = segmentation.Confusion.of(found["predicted"], found["label"], len(names))
        result = dict(num_objects=float(len(values)), **table.compute())
        interval = bootstrap.mean_interval(values, resamples=max(o["bootstrap"], 1))
        result["instance_miou"] = interval.value
        if o["bootstrap"]:
            result |= dict(instance_miou_low=interval.low, instance_miou_high=interval.high)
        means = {int(c): float(values[groups == c].mean()) for c in np.unique(groups)}
        result["category_miou"] = float(np.mean(list(means.values())))
        if classes:
            categories = self._system.info["categories"]
            result |= {f"category_miou/{categories[c]}": mean for c, mean in means.items()}
        for name, value in zip(names, table.iou(), strict=True):
            if np.isfinite(value):
                result[f"iou/{name}"] = 100.0 * float(value)
        return result
