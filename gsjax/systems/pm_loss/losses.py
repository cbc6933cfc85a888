"""PM-Loss: predicted centres are pulled onto a registered pointmap.

"Revisiting Depth Representations for Feed-Forward 3D Gaussian Splatting" (arXiv 2506.05327) and its public code.
y are predicted centres, x points of a frozen teacher at the same pixels, z = s R x + t the teacher moved onto the
prediction by one similarity an example. The prediction stays: its frame and scale are those of the given cameras.
Photometric terms are not here, nor is the weight of this one beside them (0.005 in the paper's code).
"""

import dataclasses

import jax
import jax.numpy as jnp

from gsjax.core import alignment, nearest, points
from gsjax.losses import means as means_lib

ALIGN_GRADS = ("stop", "full")
MODES = ("nn3d", "pixel")
DIRECTIONS = ("pred_to_teacher", "teacher_to_pred", "both")
WEIGHTS = ("none", "conf", "conf_quantile")


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of PM-Loss; the defaults are the paper's, but for the gradient through the alignment.

    Attributes:
        align_grad: 'stop' takes the similarity as given; 'full' differentiates it, as the public code does. The
            loss then grows with the square of the prediction's size: <gradient, y - mean> is twice the loss.
        mode: 'nn3d', to the nearest point in 3D; 'pixel', to the point of the same pixel (an ablation).
        direction: whose nearest points are taken; 'both' adds the two means. Only for 'nn3d'.
        weights: of the points in the alignment (and in the mean of 'pixel'): 'none', all 1; 'conf', the teacher's
            confidence; 'conf_quantile', 0 for the least confident share ``conf_drop`` of an example, else 1. All
            finite teacher points stay neighbours.
        conf_drop: share in [0, 1).
        trim, trim_rounds: of ``alignment.umeyama``.
        min_points: an example with fewer points to align has loss 0.
        cap, cap_factor: losses above ``cap`` (in squared units of the scene) are multiplied by ``cap_factor``.
        query_subsample: how many points of an example, drawn anew at each call, ask for their nearest; 0 is all.
            The mean keeps its expectation.
        ref_stride: only every so many-th pixel of each axis is a neighbour. Biased: a floor of about
            (stride x pixel size x depth)^2 / 6.
        search: method of ``nearest.nearest``.
    """

    align_grad: str = "stop"
    mode: str = "nn3d"
    direction: str = "pred_to_teacher"
    weights: str = "none"
    conf_drop: float = 0.2
    trim: float = 0.0
    trim_rounds: int = 1
    min_points: int = 1024
    cap: float = 100.0
    cap_factor: float = 1e-5
    query_subsample: int = 0
    ref_stride: int = 1
    search: str = "auto"

    def __post_init__(self):
        known = dict(
            align_grad=ALIGN_GRADS, mode=MODES, direction=DIRECTIONS, weights=WEIGHTS,
            search=nearest.METHODS,
        )  # fmt: skip
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name}: unknown {getattr(self, name)!r}; known: {', '.join(values)}"
                )
        if self.mode == "pixel" and (self.direction != DIRECTIONS[0] or self.query_subsample):
            raise ValueError(
                "mode: 'pixel' pairs every pixel with itself; expected direction 'pred_to_teacher' and "
                f"query_subsample 0, found {self.direction!r} and {self.query_subsample}"
            )
        if not 0 <= self.conf_drop < 1:
            raise ValueError(f"conf_drop: expected a share in [0, 1), found {self.conf_drop}")
        if self.query_subsample < 0 or self.ref_stride < 1:
            raise ValueError(
                "query_subsample, ref_stride: expected at least 0 and 1, found "
                f"{self.query_subsample} and {self.ref_stride}"
            )


def pm_loss(
    means: jax.Array,
    teacher: jax.Array,
    options: Options = Options(),
    *,
    confidence: jax.Array | None = None,
    valid: jax.Array | None = None,
    keys: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L_pm of each example, and what became of them.

    L = (1/N) sum_i min_j |y_i - z_j|^2 with z = s R x + t. Then, in this order: NaN becomes 0, and L above the cap
    is multiplied by its factor. An example whose prediction has a value that is not finite, or whose alignment is
    impossible (``alignment.umeyama``), has loss and gradient 0. Teacher points that are not finite are left out.

    Args:
        means: [B, V, H, W, 3] or [B, N, 3], predicted centres; computed in float32 at least.
        teacher: of the same shape, points of the same pixels in any frame and scale; constant.
        options: settings.
        confidence: [B, V, H, W] or [B, N], for ``options.weights`` 'conf' and 'conf_quantile'; constant.
        valid: bool [B], False for padding examples: loss 0, not in the metrics. None is all.
        keys: [B] PRNG keys, for ``options.query_subsample``.

    Returns:
        f32 [B], and scalars over real examples: 'pm_raw', mean before the cap, and 'pm_scale', mean s, of those
        that were not dropped; 'pm_capped', the share above the cap among them; 'pm_dropped', how many were dropped.

    Raises:
        ValueError: shapes that do not fit, or confidence or keys missing.
    """
    _check(means, teacher, options, confidence, keys)
    means = means.astype(jnp.promote_types(means.dtype, jnp.float32))
    teacher = jax.lax.stop_gradient(teacher).astype(means.dtype)
    if means.ndim == 3:
        means, teacher = means[:, None, None], teacher[:, None, None]
    finite = jnp.all(jnp.isfinite(means).reshape(len(means), -1), -1)
    # Before anything is computed from them: the gradient of what is not selected would be NaN.
    means = jnp.where(finite[:, None, None, None, None], means, 0.0)
    usable = jnp.all(jnp.isfinite(teacher), -1)
    teacher = jnp.where(usable[..., None], teacher, 0.0)
    weights = alignment_weights(usable, confidence, options)
    similarity, moved = align(means, teacher, weights, options)
    if options.mode == "pixel":
        raw = pixel_distance(means, moved, weights)
    else:
        raw = nearest_distance(means, moved, usable, options, keys)
    real = jnp.ones(finite.shape, bool) if valid is None else valid
    kept = real & finite & similarity.valid & jnp.isfinite(raw)
    raw = jnp.where(kept, raw, 0.0)
    metrics = dict(
        pm_raw=means_lib.mean_of_valid(raw, kept),
        pm_scale=means_lib.mean_of_valid(similarity.scale, kept),
        pm_capped=means_lib.mean_of_valid((raw > options.cap).astype(raw.dtype), kept),
        pm_dropped=jnp.sum(real & ~kept).astype(raw.dtype),
    )
    return cap(raw, options), jax.lax.stop_gradient(metrics)


def alignment_weights(
    usable: jax.Array, confidence: jax.Array | None, options: Options
) -> jax.Array:
    """w_i of the alignment, of the shape [B, ...] of ``usable``, 0 for points that do not count."""
    if options.weights == "none":
        return usable.astype(jnp.float32)
    dtype = jnp.promote_types(confidence.dtype, jnp.float32)
    confidence = jax.lax.stop_gradient(confidence).reshape(usable.shape).astype(dtype)
    usable = usable & jnp.isfinite(confidence) & (confidence > 0)
    if options.weights == "conf":
        return jnp.where(usable, confidence, 0.0)
    flat = usable.reshape(len(usable), -1)
    kept = alignment.keep_smallest(-confidence.reshape(flat.shape), flat, 1 - options.conf_drop)
    return kept.reshape(usable.shape).astype(jnp.float32)


def align(
    means: jax.Array, teacher: jax.Array, weights: jax.Array, options: Options
) -> tuple[alignment.Similarity, jax.Array]:
    """One similarity an example from teacher to means [B, V, H, W, 3], and the teacher moved by it."""
    flat = (len(means), -1)
    similarity = alignment.umeyama(
        teacher.reshape(*flat, 3),
        jax.lax.stop_gradient(means).reshape(*flat, 3)
        if options.align_grad == "stop"
        else means.reshape(*flat, 3),
        weights.reshape(flat),
        min_points=options.min_points,
        trim=options.trim,
        rounds=options.trim_rounds,
    )
    return similarity, alignment.apply(similarity, teacher.reshape(*flat, 3)).reshape(means.shape)


def pixel_distance(means: jax.Array, moved: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_i w_i |y_i - z_i|^2 / sum_i w_i of each example: [B, V, H, W, 3] twice, [B, V, H, W] -> [B]."""
    axes = tuple(range(1, weights.ndim))
    squared = jnp.sum(jnp.square(means - moved), -1)
    total = jnp.sum(weights, axes)
    return jnp.sum(weights * squared, axes) / jnp.where(total > 0, total, 1.0)


def nearest_distance(
    means: jax.Array, moved: jax.Array, usable: jax.Array, options: Options, keys=None
) -> jax.Array:
    """Mean squared distance to the nearest point, in the direction of the options.

    Args:
        means, moved: [B, V, H, W, 3]: y and z.
        usable: bool [B, V, H, W]: which z there are.
        options: direction, subsample, stride and search.
        keys: [B], for the subsample.

    Returns:
        [B].
    """
    every = jnp.ones(usable.shape, bool)
    total = jnp.zeros(len(means), means.dtype)
    if options.direction != "teacher_to_pred":
        total += _one_sided(means, every, moved, usable, options, keys)
    if options.direction != "pred_to_teacher":
        total += _one_sided(moved, usable, means, every, options, keys)
    return total


def _one_sided(queries, asked, refs, there, options, keys):
    """(1/n) sum over the asked queries of min_j |q_i - r_j|^2 -> [B]; NaN where there is no r."""
    step = options.ref_stride
    refs, there = refs[:, :, ::step, ::step], there[:, :, ::step, ::step]
    queries, asked, refs, there = (
        x.reshape(len(x), -1, *x.shape[4:]) for x in (queries, asked, refs, there)
    )
    if options.query_subsample:
        chosen = jax.vmap(lambda key: stratified(key, queries.shape[1], options.query_subsample))(
            keys
        )
        queries = points.gather(queries, chosen[..., None])[:, :, 0]
        asked = jnp.take_along_axis(asked, chosen, 1)
    found = nearest.nearest(queries, refs, mask=there, method=options.search)
    # The choice has no gradient; both ends of the distance have.
    squared = jnp.sum(jnp.square(queries - points.gather(refs, found[..., None])[:, :, 0]), -1)
    count = jnp.maximum(jnp.sum(asked, -1), 1)
    mean = jnp.sum(jnp.where(asked, squared, 0.0), -1) / count
    return jnp.where(jnp.any(there, -1), mean, jnp.nan)


def stratified(key: jax.Array, num: int, count: int) -> jax.Array:
    """One index from each of ``count`` equal parts of range(num): int32 [count], each index equally likely."""
    place = jnp.arange(count) + jax.random.uniform(key, (count,))
    return jnp.minimum((place * (num / count)).astype(jnp.int32), num - 1)


def cap(loss: jax.Array, options: Options) -> jax.Array:
    """L > cap ? factor * L : L, the reference's guard against rare huge examples."""
    return jnp.where(loss > options.cap, options.cap_factor * loss, loss)


def _check(means, teacher, options, confidence, keys):
    if means.ndim not in (3, 5) or means.shape[-1] != 3:
        raise ValueError(
            f"means: expected shape [B, V, H, W, 3] or [B, N, 3], found {list(means.shape)}"
        )
    if teacher.shape != means.shape:
        raise ValueError(
            f"teacher: expected the shape of means, {list(means.shape)}, as point i belongs to centre i; "
            f"found {list(teacher.shape)}"
        )
    if options.weights != "none":
        if confidence is None:
            raise ValueError(f"confidence: needed for weights {options.weights!r}, found none")
        if confidence.shape != means.shape[:-1]:
            raise ValueError(
                f"confidence: expected shape {list(means.shape[:-1])}, found {list(confidence.shape)}"
            )
    if options.query_subsample:
        if keys is None:
            raise ValueError(
                "keys: needed for query_subsample, found none; give one key an example"
            )
        if options.query_subsample > means[0, ..., 0].size:
            raise ValueError(
                f"query_subsample: expected at most {means[0, ..., 0].size} points, found "
                f"{options.query_subsample}"
            )
