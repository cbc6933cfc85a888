"""How close two point clouds are: accuracy, completeness and F-score, with plain (not squared) distances.

Accuracy is the distance from a predicted point to the nearest true one, completeness the reverse, each as mean and
median (what DUSt3R, arXiv 2312.14132, and PM-Loss, arXiv 2506.05327, report); the F-score at a distance is the
harmonic mean of the shares of points that are nearer than it (Knapitsch et al. 2017, Tanks and Temples). Nothing
is registered: clouds of posed views share a frame.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gsjax.core import nearest as search
from gsjax.core import points as point_sets
from gsjax.metrics.image import ImageMean


def distances(
    queries: jax.Array, points: jax.Array, *, mask: jax.Array | None = None, method: str = "auto"
) -> jax.Array:
    """Distance of each query to the nearest point.

    Args:
        queries: [..., Q, 3]; one that is not finite is infinitely far.
        points: [..., N, 3]; those that are not finite do not count.
        mask: bool [..., N], which points count.
        method: of ``core.nearest``.

    Returns:
        [..., Q], infinite where there is no point.
    """
    usable = jnp.all(jnp.isfinite(points), -1)
    usable = usable if mask is None else usable & mask
    idx = search.nearest(queries, points, mask=usable, method=method)
    found = point_sets.gather(points, idx[..., None])[..., 0, :]
    gaps = jnp.linalg.norm(queries - found, axis=-1)
    known = jnp.all(jnp.isfinite(queries), -1) & jnp.any(usable, -1, keepdims=True)
    return jnp.where(known, gaps, jnp.inf)


def mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """[...] over the entries of values [..., N] in a mask; NaN without any."""
    count = jnp.sum(mask, -1)
    total = jnp.sum(jnp.where(mask, values, 0.0), -1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def median(values: jax.Array, mask: jax.Array) -> jax.Array:
    """[...] over the entries of values [..., N] in a mask; the mean of the middle two of an even number."""
    count = jnp.sum(mask, -1, keepdims=True)
    ordered = jnp.sort(jnp.where(mask, values, jnp.inf), -1)
    low, high = (
        jnp.take_along_axis(ordered, jnp.maximum(place, 0), -1)[..., 0]
        for place in ((count - 1) // 2, count // 2)
    )
    return jnp.where(count[..., 0] > 0, (low + high) / 2, jnp.nan)


def compare(
    pred: jax.Array,
    truth: jax.Array,
    *,
    thresholds: Sequence[float] = (),
    pred_mask: jax.Array | None = None,
    truth_mask: jax.Array | None = None,
    method: str = "auto",
) -> dict[str, jax.Array]:
    """Scores of predicted clouds.

    Args:
        pred: [..., N, 3].
        truth: [..., M, 3], the same leading axes.
        thresholds: distances of F-scores, in units of the clouds.
        pred_mask: bool [..., N], points that are there; None = all. One of them that is not finite counts
            as infinitely far.
        truth_mask: bool [..., M], likewise; points that are not finite are not there.
        method: of ``core.nearest``.

    Returns:
        {'accuracy_mean', 'accuracy_median', 'completeness_mean', 'completeness_median'} and for each
        threshold t {'precision_t', 'recall_t', 'f_t'}: [...]. Without a true point all are NaN; without a
        predicted one accuracy and precision are NaN, completeness is infinite, recall and F are 0.

    Raises:
        ValueError: shapes do not fit, or a threshold that is not above 0.
    """
    _check(pred, truth, thresholds, pred_mask, truth_mask)
    there = jnp.ones(pred.shape[:-1], bool) if pred_mask is None else pred_mask
    known = jnp.all(jnp.isfinite(truth), -1)
    known = known if truth_mask is None else known & truth_mask
    to_truth = distances(pred, truth, mask=known, method=method)
    to_pred = distances(truth, pred, mask=there, method=method)
    some = jnp.any(known, -1)
    found = dict(
        accuracy_mean=mean(to_truth, there), accuracy_median=median(to_truth, there),
        completeness_mean=mean(to_pred, known), completeness_median=median(to_pred, known),
    )  # fmt: skip
    for t in thresholds:
        precision = mean((to_truth <= t).astype(pred.dtype), there)
        recall = mean((to_pred <= t).astype(pred.dtype), known)
        total = jnp.where(recall > 0, precision + recall, 1.0)
        f = jnp.where(recall > 0, 2 * precision * recall / total, 0.0)
        found |= {f"precision_{t:g}": precision, f"recall_{t:g}": recall, f"f_{t:g}": f}
    return {name: jnp.where(some, x, jnp.nan) for name, x in found.items()}


def _check(pred, truth, thresholds, pred_mask, truth_mask):
    clouds = dict(pred=(pred, pred_mask), truth=(truth, truth_mask))
    for name, (cloud, mask) in clouds.items():
        if cloud.ndim < 2 or cloud.shape[-1] != 3 or not cloud.shape[-2]:
            raise ValueError(
                f"{name}: expected shape [..., N, 3], N at least 1, found {list(cloud.shape)}"
            )
        if mask is not None and mask.shape != cloud.shape[:-1]:
            raise ValueError(
                f"{name}_mask: expected shape {list(cloud.shape[:-1])}, found {list(mask.shape)}"
            )
    if pred.shape[:-2] != truth.shape[:-2]:
        raise ValueError(
            f"pred, truth: expected the same leading axes, found {list(pred.shape)} and "
            f"{list(truth.shape)}"
        )
    if any(not t > 0 for t in thresholds):
        raise ValueError(f"thresholds: expected distances above 0, found {list(thresholds)}")


@dataclasses.dataclass(frozen=True)
class Clouds:
    """Means over scenes of :func:`compare`.

    Attributes:
        thresholds: of F-scores.
    """

    thresholds: tuple[float, ...] = ()

    def __call__(
        self,
        pred: jax.Array,
        truth: jax.Array,
        pred_mask: jax.Array | None = None,
        truth_mask: jax.Array | None = None,
    ) -> dict[str, ImageMean]:
        """pred [..., N, 3], truth [..., M, 3], their masks -> {score: state}; NaN scores do not count."""
        found = compare(
            pred, truth, thresholds=self.thresholds, pred_mask=pred_mask, truth_mask=truth_mask
        )
        return {name: ImageMean.of(x, ~jnp.isnan(x)) for name, x in found.items()}
