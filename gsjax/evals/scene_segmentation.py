"""Labels of the points of held-out scenes: IoU of each class, and its mean with an interval over scenes.

For points of objects see ``segmentation``.
"""

import jax
import numpy as np

from gsjax.evals import features
from gsjax.metrics import segmentation, segmentation_intervals

DEFAULTS = dict(
    split="test",
    batch_size=2,  # crops
    bootstrap=2000,  # resamples for 95 % intervals over scenes; 0 = none
)


class Evaluator:
    """Per cent, over all labelled points of the split: ``miou``, the mean IoU of the classes that
    occur (with ``_low`` and ``_high`` where there are two scenes or more: scenes are resampled, since
    the points of one are not independent), ``iou/<class>`` of those classes, ``accuracy`` and ``macro_accuracy``
    (``metrics.segmentation.Confusion``); ``scene_miou``, the mean over scenes of each one's own mean
    IoU; ``ceiling_miou``, the mIoU if every voxel had the class of most of its points; ``dropped``,
    the share of points without a voxel: they count as wrong in all of these. ``num_scenes``,
    ``num_points`` and ``num_classes`` (that occur) are counts.

    Needs ``confusion``; crops of one ``index`` are one scene.

    Attributes:
        details: after :meth:`run`, per scene: ``index``, ``confusion`` int64 [S, C, C] (true class,
            predicted class), which ``metrics.segmentation_intervals`` compares two runs by, and
            ``iou`` [S], its own mean IoU in per cent.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("scene_segmentation", options, DEFAULTS)
        if "confusion" not in system.predict_fns:
            raise ValueError(
                f"eval.evaluators.scene_segmentation: the system {system.name!r} predicts no classes of "
                "points of scenes as it is configured; points of objects are scored by 'segmentation'"
            )
        self._predict = jax.jit(system.predict_fns["confusion"])
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}.

        Raises:
            ValueError: no point of the split has a label.
        """
        o, names = self._options, self._system.info["class_names"]
        found = features.collect(
            self._system, self._predict, variables, put_batch, o["split"],
            batch_size=o["batch_size"],
        )  # fmt: skip
        index, place = np.unique(found["index"], return_inverse=True)
        counts, ceiling = (_by_scene(found[n], place) for n in ("confusion", "ceiling"))
        table = segmentation.Confusion(counts.sum(0))
        points = int(table.counts.sum())
        if not points:
            raise ValueError(f"split {o['split']!r}: none of its points has a label")
        own = [segmentation.Confusion(scene).compute()["miou"] for scene in counts]
        self.details = dict(index=index, confusion=counts, iou=np.asarray(own))
        result = dict(
            num_scenes=float(len(index)),
            num_points=float(points),
            num_classes=float(np.sum(table.counts.sum(1) > 0)),
            **table.compute(),
            scene_miou=float(np.nanmean(own)),
            ceiling_miou=segmentation.Confusion(ceiling.sum(0)).compute()["miou"],
            dropped=100.0 * float(table.counts[:, 0].sum()) / points,
        )
        if o["bootstrap"] and len(index) > 1:  # one scene says nothing of others
            interval = segmentation_intervals.miou(counts, resamples=o["bootstrap"])
            result |= dict(miou_low=interval.low, miou_high=interval.high)
        for name, value in zip(names, table.iou(), strict=True):
            if np.isfinite(value):
                result[f"iou/{name}"] = 100.0 * float(value)
        return result


def _by_scene(counts: np.ndarray, place: np.ndarray) -> np.ndarray:
    """int64 [S, C, C]: sums over the crops of each scene."""
    result = np.zeros((int(place.max()) + 1, *counts.shape[1:]), np.int64)
    np.add.at(result, place, counts)
    return result
