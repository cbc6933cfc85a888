"""Teachers of pointmaps by their settings, and PM-Loss of a batch with what they gave.

The loss itself is ``losses.pm_loss``. A teacher's maps lie in the batch: ``pointmaps`` [B, V, H, W, 3] and
``pointmap_conf`` [B, V, H, W], 0 where a point is unknown.
"""

import jax
import jax.numpy as jnp

from gsjax.core import by_device
from gsjax.data import pointmap_cache, pointmaps
from gsjax.losses import means
from gsjax.systems.pm_loss import losses

KINDS = ("none", "depth", "flawed", "cache")


def build(data_config):
    """The teacher of ``data.teacher``, or None; see ``pointmaps.DepthTeacher``.

    Raises:
        ValueError: unknown kind, settings out of range, a cache that is not named or of other pictures.
    """
    t = data_config.teacher
    if t.kind not in KINDS:
        raise ValueError(f"data.teacher.kind: unknown {t.kind!r}; known: {', '.join(KINDS)}")
    if t.kind == "none":
        return None
    if t.kind == "depth":
        return pointmaps.DepthTeacher()
    if t.kind == "flawed":
        names = ("similarity", "blur", "smooth", "cells", "per_view", "white")
        flaws = pointmaps.Flaws(**{name: t[name] for name in names})
        return pointmaps.FlawedTeacher(flaws, t.seed)
    if not t.cache:
        raise ValueError(
            "data.teacher.cache: the teacher 'cache' reads a folder of pointmaps "
            "(gsjax.data.pointmap_cache); name it with --config.data.teacher.cache=FOLDER"
        )
    d = data_config
    return pointmap_cache.CachedTeacher(t.cache, height=d.height, width=d.width, fit=d.fit)


def term(
    options: losses.Options, centres: jax.Array, batch, keys: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """PM-Loss of each example, computed where the example lies.

    Args:
        options: of the loss.
        centres: [B, V, H, W, 3], of the final depths.
        batch: with ``pointmaps``, ``pointmap_conf`` and ``valid``.
        keys: [B], for ``options.query_subsample``.

    Returns:
        f32 [B], and ``losses.pm_loss``'s scalars over the batch.
    """
    confidence = batch["pointmap_conf"]
    # Unknown points are zeros in the batch; as NaN they are neither aligned nor anybody's neighbour.
    points = jnp.where(confidence[..., None] > 0, batch["pointmaps"], jnp.nan)
    arrays = dict(means=centres, teacher=points, confidence=confidence, valid=batch["valid"])
    if keys is not None:
        arrays["keys"] = keys

    def here(arrays):
        # One after the other: their searches would wait for one another anyway.
        return jax.lax.map(lambda one: _single(options, one), arrays)

    loss, each = by_device.by_device(here, arrays, name="pointmaps")
    kept = batch["valid"] & (each["pm_dropped"] == 0)
    metrics = {name: means.mean_of_valid(x, kept) for name, x in each.items()}
    metrics["pm_dropped"] = jnp.sum(each["pm_dropped"])
    return loss, jax.lax.stop_gradient(metrics)


def _single(options, arrays):
    """Loss [] and facts [] of one example."""
    given = {name: x[None] for name, x in arrays.items()}
    loss, facts = losses.pm_loss(
        given.pop("means"),
        given.pop("teacher"),
        options,
        confidence=None if options.weights == "none" else given.pop("confidence"),
        valid=given["valid"],
        keys=given.get("keys"),
    )
    return loss[0], facts
