"""Errors of depth maps: AbsRel, RMSE and the share within 25 %, a picture each, and their means.

Only pixels whose true depth is known (above 0) count; a picture without any gives NaN and is left out of means.
Predictions are taken as they are: no scale is fitted (posed views fix it). Eigen et al. (arXiv 1406.2283) have
the definitions.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gsjax.metrics.image import ImageMean

CLOSE = 1.25


def abs_rel(pred: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean of |pred - target| / target.

    Args:
        pred: [..., H, W] depths.
        target: [..., H, W], not above 0 where unknown.
        mask: bool [..., H, W], which pixels may count; None = all.

    Returns:
        [...], NaN for pictures without a pixel that counts.

    Raises:
        ValueError: shapes differ.
    """
    known, target = _known(pred, target, mask)
    return _mean(jnp.abs(pred - target) / target, known)


def rmse(pred: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Root of the mean squared difference, in the unit of the depths; otherwise as :func:`abs_rel`."""
    known, target = _known(pred, target, mask)
    return jnp.sqrt(_mean(jnp.square(pred - target), known))


def within(
    pred: jax.Array, target: jax.Array, mask: jax.Array | None = None, *, factor: float = CLOSE
) -> jax.Array:
    """Share of pixels with max(pred / target, target / pred) below a factor; see :func:`abs_rel`.

    A prediction of 0, below or NaN is not close to anything.
    """
    known, target = _known(pred, target, mask)
    # Products, not ratios: pred may be 0.
    close = (pred < factor * target) & (factor * pred > target)
    return _mean(close.astype(pred.dtype), known)


def _known(pred, target, mask):
    """Which pixels count; the target with ones at others."""
    if (
        pred.shape != target.shape
        or pred.ndim < 2
        or (mask is not None and mask.shape != pred.shape)
    ):
        found = [list(x.shape) for x in (pred, target, mask) if x is not None]
        raise ValueError(f"pred, target, mask: expected one shape [..., H, W], found {found}")
    known = target > 0
    known = known if mask is None else known & mask
    return known, jnp.where(known, target, 1.0)


def _mean(values, known):
    count = jnp.sum(known, (-2, -1))
    total = jnp.sum(jnp.where(known, values, 0.0), (-2, -1))
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


@dataclasses.dataclass(frozen=True)
class AbsRel:
    """Mean over pictures of :func:`abs_rel`."""

    def __call__(
        self, pred: jax.Array, target: jax.Array, mask: jax.Array | None = None
    ) -> ImageMean:
        """pred, target [..., H, W]; mask bool [..., H, W] -> state, of the pictures with known depth."""
        return _state(abs_rel(pred, target, mask), target, mask)


@dataclasses.dataclass(frozen=True)
class Rmse:
    """Mean over pictures of :func:`rmse`."""

    def __call__(
        self, pred: jax.Array, target: jax.Array, mask: jax.Array | None = None
    ) -> ImageMean:
        """As :class:`AbsRel`."""
        return _state(rmse(pred, target, mask), target, mask)


@dataclasses.dataclass(frozen=True)
class Within:
    """Mean over pictures of :func:`within`."""

    factor: float = CLOSE

    def __call__(
        self, pred: jax.Array, target: jax.Array, mask: jax.Array | None = None
    ) -> ImageMean:
        """As :class:`AbsRel`."""
        return _state(within(pred, target, mask, factor=self.factor), target, mask)


def _state(values, target, mask) -> ImageMean:
    known = target > 0
    known = known if mask is None else known & mask
    # Not isfinite(values): a prediction that is NaN has to show in the mean.
    return ImageMean.of(values, jnp.any(known, (-2, -1)))
