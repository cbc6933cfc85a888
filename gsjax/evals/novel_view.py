"""Rendering quality on held-out objects and views, beside predictors that know nothing.

PSNR means nothing alone: with a plain background a blank picture scores high. So the same views are
also scored for a blank picture, the mean picture of the training split, the true silhouette filled with
the mean colour, the input points as grey discs and, where the system has it, itself without image
features (UniPre3D, arXiv 2506.09952, uses PSNR as a diagnostic; the baselines are this project's).
"""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import image as image_lib
from gsjax.data import loader
from gsjax.evals import features
from gsjax.metrics import bootstrap, rendering

DEFAULTS = dict(
    split="test",
    train_split="train",  # of the mean picture and the mean colour
    batch_size=16,
    bootstrap=0,  # resamples for 95 % intervals over objects; 0 = none
    baselines=True,
)
_METRICS = ("psnr", "ssim", "psnr_fg", "iou")


class Evaluator:
    """Means over images, then over objects: ``novel/psnr_fg``, ``reference/iou``, ``blank/psnr`` ...

    psnr and ssim of whole pictures, psnr_fg over the object's pixels, iou of opacity and silhouette
    (both at 0.5). ``novel`` are the rendered views, ``reference`` those that the model has seen;
    ``blind`` is the model with zeros for image features; baselines are ``blank``, ``mean``,
    ``silhouette`` and ``discs``, all on the novel views. Needs the predict functions ``render`` and
    ``targets``, and ``info['references']``.

    Attributes:
        details: after :meth:`run`, per object: ``index`` and, for each predictor, its ``psnr_fg`` and
            ``iou``.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("novel_view", options, DEFAULTS)
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        o, first = self._options, self._system.info["references"]
        known = self._system.predict_fns
        sides = dict(novel=("render", slice(first, None)))
        if first:
            sides["reference"] = ("render", slice(None, first))
        for name in ("blind", "discs") if o["baselines"] else ():
            if name in known:
                sides[name] = (name, slice(first, None))
        scores = {
            name: self._scores(variables, put_batch, _measured(known[function], views))
            for name, (function, views) in sides.items()
        }
        if o["baselines"]:
            picture, colour = self._means(variables, put_batch)
            for name, function in _constant(picture, colour).items():
                predict = _measured(_with(known["targets"], function), slice(first, None))
                scores[name] = self._scores(variables, put_batch, predict)
        index = scores["novel"]["index"]
        self.details = dict(index=index)
        result = dict(num_objects=float(len(index)))
        for name, found in scores.items():
            for metric in _METRICS:
                result |= self._summary(f"{name}/{metric}", found[metric])
            for metric in ("psnr_fg", "iou"):
                self.details[f"{name}/{metric}"] = found[metric]
        return result

    def _summary(self, name: str, values: np.ndarray) -> dict[str, float]:
        values = values[np.isfinite(values)]
        if not self._options["bootstrap"]:
            return {name: float(values.mean())}
        found = bootstrap.mean_interval(values, resamples=self._options["bootstrap"])
        return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}

    def _scores(self, variables, put_batch, predict) -> dict[str, np.ndarray]:
        """{metric: [n] an object}, mean over its views; views without foreground do not count."""
        parts = []
        for batch in self._batches(self._options["split"]):
            found = features.to_host(predict(variables, put_batch(batch)))
            keep = found.pop("valid").astype(bool)
            parts.append({name: x[keep] for name, x in found.items()})
        joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        index = joined.pop("index")
        with np.errstate(invalid="ignore"):
            means = {}
            for name, x in joined.items():
                there = np.isfinite(x)
                total = np.where(there, x, 0.0).sum(1)
                means[name] = np.where(there.any(1), total / np.maximum(there.sum(1), 1), np.nan)
        return dict(index=index, **means)

    def _batches(self, split):
        devices = jax.device_count()
        size = -(-self._options["batch_size"] // devices) * devices
        return loader.eval_batches(
            self._system.eval_data(split),
            global_batch=size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _means(self, variables, put_batch):
        """Mean picture [H, W, 3] and mean foreground colour [3] of the training split."""
        total = jax.jit(_with(self._system.predict_fns["targets"], _sums))
        sums = None
        for batch in self._batches(self._options["train_split"]):
            found = features.to_host(total(variables, put_batch(batch)))
            keep = found.pop("valid").astype(bool)
            part = {name: x[keep].astype(np.float64).sum(0) for name, x in found.items()}
            sums = part if sums is None else {name: sums[name] + part[name] for name in part}
        return sums["picture"] / sums["views"], sums["colour"] / max(sums["pixels"], 1.0)


def _with(function, then):
    return lambda variables, batch: then(function(variables, batch))


def _sums(found):
    target, inside = found["target"], found["target_alpha"] > rendering.THRESHOLD
    return dict(
        picture=jnp.sum(target, 1),
        views=jnp.full(target.shape[0], target.shape[1]),
        colour=jnp.sum(jnp.where(inside[..., None], target, 0.0), (1, 2, 3)),
        pixels=jnp.sum(inside, (1, 2, 3)),
        valid=found["valid"],
    )


def _constant(picture, colour):
    """{name: predictor}; each turns targets into what ``_measured`` reads."""
    picture, colour = jnp.asarray(picture, jnp.float32), jnp.asarray(colour, jnp.float32)

    def blank(found):
        # The background is what pixels of no opacity show.
        empty = found["target_alpha"] == 0
        count = jnp.maximum(jnp.sum(empty), 1)
        shade = jnp.sum(jnp.where(empty[..., None], found["target"], 0.0), (0, 1, 2, 3)) / count
        image = jnp.broadcast_to(shade, found["target"].shape)
        return dict(found, image=image, alpha=jnp.zeros_like(found["target_alpha"]))

    def mean(found):
        image = jnp.broadcast_to(picture, found["target"].shape)
        return dict(found, image=image, alpha=jnp.zeros_like(found["target_alpha"]))

    def silhouette(found):
        inside = (found["target_alpha"] > rendering.THRESHOLD)[..., None]
        image = jnp.where(inside, colour, blank(found)["image"])
        return dict(found, image=image, alpha=found["target_alpha"])

    return dict(blank=blank, mean=mean, silhouette=silhouette)


def _measured(predict, views: slice):
    """Compiled (variables, batch) -> {metric: [B, V]} of some views."""

    def measure(variables, batch):
        found = predict(variables, batch)
        image, alpha, target, true = (
            found[name][:, views] for name in ("image", "alpha", "target", "target_alpha")
        )
        image = jnp.clip(image, 0.0, 1.0)
        return dict(
            psnr=image_lib.psnr(image, target),
            ssim=image_lib.ssim(image, target),
            psnr_fg=rendering.foreground_psnr(image, target, true),
            iou=rendering.silhouette_iou(alpha, true),
            index=found["index"],
            valid=found["valid"],
        )

    return jax.jit(measure)
