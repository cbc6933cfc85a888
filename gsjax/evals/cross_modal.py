"""Do a picture and Gaussians belong together, and are views of one object nearer than those of two?

The protocol of "Self-Supervised Cross-modality Feature Learning using 3D Gaussian Splatting" (A.
Simionescu, TU Delft): a pass draws, for every held-out object, two views of its own and one of another
object; three decisions an object. Since features do not depend on what is drawn, every picture is
embedded once.
"""

import jax
import numpy as np

from gsjax.evals import features
from gsjax.metrics import bootstrap

DEFAULTS = dict(
    split="test",
    passes=5,
    batch_size=16,
    bootstrap=2000,  # resamples for 95 % intervals over objects; 0 = none
    seed=0,
)
MAJORITY = 2 / 3  # of always answering that they belong together


class Evaluator:
    """``accuracy`` of three decisions an object, ``balanced`` accuracy, and distances of features.

    In fractions: ``accuracy`` (always yes scores 2/3) with ``_low``, ``_high`` over objects and ``_std`` over
    passes, ``accuracy_own``, ``accuracy_other``, ``balanced`` (their mean), ``loss`` (the cross-entropies of
    the three decisions added), ``pos`` and ``neg`` (mean distance of two views of one object, and of two
    objects) and ``ratio``. Needs the predict functions ``embed``, ``views`` and ``match``, and the splits
    '<split>/views' and '<split>#<number>', a sample of Gaussians for each pass.

    Attributes:
        details: after :meth:`run`, per object: ``index`` and ``right``, decisions that were, of all passes.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("cross_modal", options, DEFAULTS)
        self._predict = {
            name: jax.jit(system.predict_fns[name]) for name in ("embed", "views", "match")
        }
        self.details: dict[str, np.ndarray] = {}

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        o = self._options

        def collect(name, split):
            return features.collect(
                self._system, self._predict[name], variables, put_batch, split,
                batch_size=o["batch_size"],
            )  # fmt: skip

        shown = collect("views", f"{o['split']}/views")
        views = shown["image"]
        count, sides = views.shape[:2]
        if count < 2 or sides < 2:
            raise ValueError(
                f"cross_modal: expected at least 2 objects with 2 views, found {count} with {sides}"
            )
        own, other, loss, near, far = [], [], [], [], []
        for number in range(o["passes"]):
            clouds = collect("embed", f"{o['split']}#{number}")["gaussian"]
            rng = np.random.default_rng([o["seed"], number])
            chosen = draw(count, sides, rng)
            pictures = [views[rows, places] for rows, places in chosen]
            logits = [self._logits(variables, image, clouds) for image in pictures]
            says = [x[:, 1] > x[:, 0] for x in logits]
            own.append(np.stack(says[:2]))
            other.append(~says[2])
            loss.append(sum(entropy(x, y) for x, y in zip(logits, (1, 1, 0), strict=True)))
            near.append(np.linalg.norm(pictures[0] - pictures[1], axis=-1))
            far.append(np.linalg.norm(pictures[0] - pictures[2], axis=-1))
        own, other = np.stack(own), np.stack(other)  # [passes, 2, n], [passes, n]
        right = own.sum((0, 1)) + other.sum(0)
        self.details = dict(index=shown["index"], right=right)
        passes = (own.sum(1) + other).mean(1) / 3
        pos, neg = float(np.mean(near)), float(np.mean(far))
        interval = bootstrap.mean_interval(
            right / (3 * o["passes"]), None, resamples=max(o["bootstrap"], 1)
        )
        result = dict(
            accuracy=interval.value,
            accuracy_std=float(passes.std()),
            accuracy_own=float(own.mean()),
            accuracy_other=float(other.mean()),
            balanced=float((own.mean() + other.mean()) / 2),
            loss=float(np.mean(loss)),
            pos=pos,
            neg=neg,
            ratio=neg / max(pos, 1e-12),
            num_objects=float(count),
        )
        if o["bootstrap"]:
            result |= dict(accuracy_low=interval.low, accuracy_high=interval.high)
        return result

    def _logits(self, variables, image, gaussian):
        found = self._predict["match"](variables, dict(image=image, gaussian=gaussian))
        return features.to_host(found)["logits"]


def draw(count: int, sides: int, rng: np.random.Generator):
    """Of every object two different views, and a view of another object.

    Args:
        count: objects. sides: views of each.
        rng: of the draws.

    Returns:
        Three pairs (object int [n], view int [n]): anchors, positives, negatives.
    """
    rows = np.arange(count)
    anchor = rng.integers(sides, size=count)
    positive = (anchor + rng.integers(1, sides, size=count)) % sides
    stranger = (rows + rng.integers(1, count, size=count)) % count
    return (rows, anchor), (rows, positive), (stranger, rng.integers(sides, size=count))


def entropy(logits: np.ndarray, label: int) -> np.ndarray:
    """Cross-entropy [n] of logits [n, 2]."""
    logits = logits.astype(np.float64)
    return np.logaddexp(logits[:, 0], logits[:, 1]) - logits[:, label]
