"""Feed-forward splatting on held-out scenes: pictures, depths and clouds, beside what needs no network.

A PSNR says little alone: targets near a context view resemble it. So the same targets are also scored for the
nearest context picture as it is (``nearest``), for that picture on the plane that suits the context views best
(``plane``), for the mean of the context pictures (``blend``) and of the training set's (``mean``), and for the
system with true depths (``oracle``), a ceiling. Depths stand beside the training set's median (``median``).

Protocol of the field (MVSplat, DepthSplat): pictures clamped, SSIM of whole windows with sample moments, means
over a scene's targets and then over scenes. Intervals resample scenes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import image as image_lib
from gsjax.core import rays
from gsjax.data import loader
from gsjax.evals import features, view_baselines
from gsjax.io import weights
from gsjax.metrics import bootstrap, boundaries, clouds, rendering
from gsjax.metrics import depth as depth_errors
from gsjax.metrics import lpips as lpips_lib

DEFAULTS = dict(
    split="test",
    train_split="train",  # of the mean picture and the median depth; '' = without
    train_limit=1000,  # examples of it that are read; 0 = all
    limit=0,  # examples of the split, its first ones; 0 = all
    batch_size=8,
    bootstrap=0,  # resamples for 95 % intervals over scenes; 0 = none
    baselines=True,
    planes=64,  # depths that are tried for the plane
    cloud=True,
    opacity=0.1,  # Gaussians above it belong to the cloud; not in the papers
    thresholds=(0.05, 0.1, 0.2),  # of F-scores, in units of the scenes
    jump=boundaries.JUMP,  # share by which neighbouring depths differ at a boundary
    radius=boundaries.RADIUS,  # pixels
    lpips_backbone="",  # files of the user, see metrics.lpips; '' = no LPIPS
    lpips_heads="",
)
_SAMPLES = 4096  # depths of a view that the median is taken over, about
_ARRAYS = ("kernels", "biases", "heads")
# What is compared with what: (first, second, score), the difference is first - second.
_MARGINS = tuple(("render", name, "psnr") for name in ("nearest", "plane", "blend", "mean")) + (
    ("depth", "median", "abs_rel"),
)


class Evaluator:
    """``render/psnr``, ``nearest/ssim``, ``depth/abs_rel``, ``cloud/f_0.1`` ...

    For ``render`` and, where there, ``oracle``, ``nearest``, ``plane`` (from 2 context views on), ``blend`` and
    ``mean``: psnr, ssim, lpips with the user's weights; with target depths psnr_band and psnr_rest, near depth
    jumps and elsewhere. For ``render`` and ``oracle`` also coverage, the share of pixels that are more opaque
    than not, and with target depths their abs_rel. With context depths ``depth`` and ``median`` have abs_rel,
    rmse, delta (share within 25 %), abs_rel_band and abs_rel_rest; ``cloud`` has the scores of
    ``metrics.clouds`` of the Gaussians' means against the unprojected true depths of the context views.
    ``render-plane/psnr`` and the like are differences on the same scenes; with ``bootstrap`` every number has
    ``_low`` and ``_high``.

    Needs the predict function ``render``; uses ``depths``, ``gaussians`` and ``oracle`` where the system has
    them. A scene is an example, unless ``info['uids']`` names them: examples of one name are averaged first.

    Attributes:
        details: after :meth:`run`, per scene: ``index`` of its first example, and each score.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("posed_views", options, DEFAULTS)
        self._lpips = _load_lpips(self._options)
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}.

        Raises:
            FloatingPointError: pictures, depths or means of Gaussians that are not finite.
        """
        o = self._options
        known = self._of_training() if o["baselines"] and o["train_split"] else {}
        network = {} if self._lpips is None else {n: getattr(self._lpips, n) for n in _ARRAYS}
        measure = jax.jit(self._measure)
        parts = []
        for batch in self._batches(o["split"], o["limit"]):
            found = features.to_host(measure(variables, put_batch(batch), known, network))
            keep = found.pop("valid").astype(bool)
            parts.append({name: x[keep] for name, x in found.items()})
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self._check_finite(rows.pop("finite"))
        self.details, examples = self._scenes(rows)
        result = dict(num_scenes=float(len(self.details["index"])), num_examples=float(examples))
        for name, values in self.details.items():
            if name != "index":
                result |= self._summary(name, values)
        for first, second, score in _MARGINS:
            pair = [self.details.get(f"{side}/{score}") for side in (first, second)]
            if all(x is not None for x in pair):
                result |= self._summary(f"{first}-{second}/{score}", pair[0] - pair[1])
        return result

    def _check_finite(self, finite: np.ndarray):
        if not finite.all():
            raise FloatingPointError(
                f"split {self._options['split']!r}: predictions of {int((~finite).sum())} of "
                f"{len(finite)} examples are not finite; the model has diverged, or an input is damaged"
            )

    def _scenes(self, rows) -> tuple[dict[str, np.ndarray], int]:
        """Means over the targets of an example, then over the examples of a scene; number of examples."""
        index = rows.pop("index")
        _, first, scene = np.unique(self._names(index), return_index=True, return_inverse=True)
        order = np.argsort(first)  # as they come
        place = np.argsort(order)[scene]
        result = dict(index=index[first[order]])
        for name, values in rows.items():
            values = _mean(values) if values.ndim == 2 else values
            there = ~np.isnan(values)
            count = np.bincount(place[there], minlength=len(first))
            total = np.bincount(place[there], values[there].astype(np.float64), len(first))
            with np.errstate(invalid="ignore"):
                result[name] = total / count
        return result, len(index)

    def _names(self, index: np.ndarray) -> np.ndarray:
        """Scenes of examples [n]."""
        uids = self._system.info.get("uids")
        if uids is None:
            return index
        split = self._options["split"]
        names = np.asarray(uids(split))
        if len(names) <= index.max():
            raise ValueError(
                f"info['uids']: {len(names)} names for split {split!r}, which has an example "
                f"{index.max()}; expected a scene's name for every example"
            )
        return names[index]

    def _summary(self, name: str, values: np.ndarray) -> dict[str, float]:
        values = values[~np.isnan(values)]
        if not len(values):
            return {}  # no scene has what is measured
        if not self._options["bootstrap"]:
            return {name: float(values.mean())}
        found = bootstrap.mean_interval(values, resamples=self._options["bootstrap"])
        return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}

    # Reading ---------------------------------------------------------------------------------------

    def _batches(self, split: str, limit: int):
        devices = jax.device_count()
        return loader.eval_batches(
            self._examples(split, limit),
            global_batch=-(-self._options["batch_size"] // devices) * devices,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _examples(self, split: str, limit: int):
        examples = self._system.eval_data(split)
        return examples.slice(slice(0, limit)) if 0 < limit < len(examples) else examples

    def _of_training(self) -> dict[str, np.ndarray]:
        """``picture`` [H, W, 3], mean of the training targets; ``depth`` [], median of known context depths.

        Every process reads all of it, one example at a time: nothing is sent.
        """
        total, count, depths = 0.0, 0, []
        examples = self._examples(self._options["train_split"], self._options["train_limit"])
        for batch in loader.eval_batches(examples, global_batch=1):
            total = total + batch["target_images"][0].sum(0, dtype=np.float64) / 255
            count += batch["target_images"].shape[1]
            if "context_depths" in batch:
                views = batch["context_depths"][0].reshape(batch["context_depths"].shape[1], -1)
                some = views[:, :: max(views.shape[1] // _SAMPLES, 1)]
                depths.append(some[some > 0])
        result = dict(picture=np.float32(total / count))
        depths = np.concatenate(depths) if depths else np.zeros(0)
        return result | (dict(depth=np.float32(np.median(depths))) if len(depths) else {})

    # Measuring -------------------------------------------------------------------------------------

    def _measure(self, variables, batch, known, network):
        """{score: [B, T] or [B]} of a batch; one program, so that predict functions share their network."""
        fns = self._system.predict_fns
        drawn = {"render": fns["render"](variables, batch)}
        if "oracle" in fns and "context_depths" in batch:
            drawn["oracle"] = fns["oracle"](variables, batch)
        pictures = {name: found["images"] for name, found in drawn.items()}
        finite = _finite(pictures["render"])
        if self._options["baselines"]:
            pictures |= self._constant(batch, known)
        truth = _unit(batch["target_images"])
        depths = batch.get("target_depths")
        result = {}
        for name, picture in pictures.items():
            scores = self._picture(picture, truth, depths, network)
            result |= {f"{name}/{score}": x for score, x in scores.items()}
        for name, found in drawn.items():
            scores = _drawn_depth(found, depths)
            result |= {f"{name}/{score}": x for score, x in scores.items()}
        if "context_depths" in batch:
            for name, pred in self._depths(variables, batch, known).items():
                finite &= _finite(pred)
                scores = self._depth(pred, batch["context_depths"])
                result |= {f"{name}/{score}": x for score, x in scores.items()}
            if "gaussians" in fns and self._options["cloud"]:
                found = fns["gaussians"](variables, batch)
                finite &= _finite(found["means"])
                result |= {f"cloud/{score}": x for score, x in self._cloud(found, batch).items()}
        return dict(result, finite=finite, index=batch["index"], valid=batch["valid"])

    def _constant(self, batch, known) -> dict[str, jax.Array]:
        """Pictures of the baselines, [B, T, H, W, 3]."""
        images = _unit(batch["context_images"])
        context, target = (view_baselines.of_batch(batch, side) for side in ("context", "target"))
        shape = batch["target_images"].shape
        result = dict(
            nearest=view_baselines.take(images, view_baselines.nearest(context, target)),
            blend=jnp.broadcast_to(jnp.mean(images, 1, keepdims=True), shape),
        )
        if images.shape[1] > 1:
            depths = view_baselines.plane_depths(
                images, context, batch["near"], batch["far"], count=self._options["planes"]
            )
            result["plane"] = view_baselines.on_plane(
                images, context, target, depths, height=shape[2], width=shape[3]
            )
        if "picture" in known:
            result["mean"] = jnp.broadcast_to(known["picture"], shape)
        return result

    def _picture(self, picture, truth, depths, network) -> dict[str, jax.Array]:
        picture = jnp.clip(picture, 0.0, 1.0)
        result = dict(
            psnr=image_lib.psnr(picture, truth),
            ssim=image_lib.ssim(picture, truth, padding="valid", unbiased=True),
        )
        if depths is not None:
            found = boundaries.split_psnr(picture, truth, depths, **self._band())
            result |= {f"psnr_{side}": x for side, x in found.items()}
        if network:
            metric = dataclasses.replace(self._lpips, **network)
            # A target at a time: features of a whole set of them would not fit.
            pairs = (jnp.moveaxis(x, 1, 0) for x in (picture, truth))
            result["lpips"] = jax.lax.map(lambda pair: metric(*pair), tuple(pairs)).T
        return result

    def _band(self) -> dict:
        return dict(radius=self._options["radius"], relative=self._options["jump"])

    def _depths(self, variables, batch, known) -> dict[str, jax.Array]:
        """{name: [B, V, H, W]}."""
        fns, result = self._system.predict_fns, {}
        if "depths" in fns:
            result["depth"] = fns["depths"](variables, batch)["depths"]
        if "depth" in known and self._options["baselines"]:
            result["median"] = jnp.broadcast_to(known["depth"], batch["context_depths"].shape)
        return result

    def _depth(self, pred, truth) -> dict[str, jax.Array]:
        result = dict(
            abs_rel=depth_errors.abs_rel(pred, truth),
            rmse=depth_errors.rmse(pred, truth),
            delta=depth_errors.within(pred, truth),
        )
        found = boundaries.split_abs_rel(pred, truth, **self._band())
        return result | {f"abs_rel_{side}": x for side, x in found.items()}

    def _cloud(self, found, batch) -> dict[str, jax.Array]:
        truth = surface(batch)
        return clouds.compare(
            found["means"],
            truth,
            thresholds=tuple(self._options["thresholds"]),
            pred_mask=found["opacities"] > self._options["opacity"],
            truth_mask=jnp.reshape(batch["context_depths"] > 0, truth.shape[:-1]),
        )


def surface(batch) -> jax.Array:
    """Points [B, V H W, 3] of the world from the true depths of the context views; unknown ones at cameras."""
    depths = batch["context_depths"]
    centers = rays.pixel_centers(*depths.shape[-2:]).reshape(-1, 2)
    flat = depths.reshape(*depths.shape[:2], -1)
    points = rays.unproject(centers, flat, batch["context_Ks"], batch["context_c2ws"])
    return points.reshape(len(depths), -1, 3)


def _drawn_depth(found, depths) -> dict[str, jax.Array]:
    solid = found["alphas"] > rendering.THRESHOLD
    result = dict(coverage=jnp.mean(solid, (-2, -1)))
    if depths is not None:
        result["abs_rel"] = depth_errors.abs_rel(found["depths"], depths, solid)
    return result


def _unit(images) -> jax.Array:
    return images.astype(jnp.float32) / 255.0


def _finite(values) -> jax.Array:
    """[B]."""
    return jnp.all(jnp.isfinite(values), tuple(range(1, values.ndim)))


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, of the entries that are not NaN; NaN where there is none."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0.0).sum(-1, dtype=np.float64)
    return np.where(there.any(-1), total / np.maximum(there.sum(-1), 1), np.nan)


def _load_lpips(options) -> lpips_lib.Lpips | None:
    files = [options["lpips_backbone"], options["lpips_heads"]]
    if not any(files):
        return None
    if not all(files):
        raise ValueError(
            "eval.evaluators.posed_views: LPIPS needs both lpips_backbone (torchvision's network) and "
            "lpips_heads (weights/v0.1)"
        )
    return lpips_lib.Lpips.of(*(weights.read_state_dict(file) for file in files))
