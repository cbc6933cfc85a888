"""Density control of 3DGS (arXiv 2308.04079), "default" in gsplat: duplicate, split, prune, reset.

The original appends and deletes rows; here rows come from a fixed stock and go back to it, so that
shapes stay as they are under jit and vmap (scenes). Where the stock runs out the requests of lowest
gradient are dropped and counted; `grow_capacity`, on the host, makes more. Adam's moments are up to
the caller: `rows.zero_moments` with the mask returned, `rows.zero_opacity_moments` after
`reset_opacity`.

A step: `accumulate`; if `refine_due`, `refine` (which is `densify`, `prune` and empty statistics);
if `reset_due`, `reset_opacity`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import rotations
from gsjax.systems.scene_fit import rows


class DefaultConfig(NamedTuple):
    """Constants of gsplat's DefaultStrategy; plain numbers, static under jit.

    Attributes:
      grow_grad2d: rows with a mean gradient above it are duplicated or split (AbsGS: 8e-4).
      grow_scale3d: part of scene_scale up to which a row is duplicated, above it split.
      prune_opacity: rows of lower opacity are freed.
      prune_scale3d: part of scene_scale above which a row is freed, once past the first reset.
      grow_scale2d, prune_scale2d: the same for the radius on screen, as part of the longer side;
        rows above the first are split whatever their gradient.
      refine_scale2d_stop: step at which these two end; 0 = never used, as in 3DGS in effect.
      refine_start, refine_stop, refine_every: first step (not included), last (not included), period.
      reset_every: period of the opacity reset.
      pause_after_reset: no refinement for so many steps from each reset on.
      reset_value: opacity that a reset leaves at most.
      revised_opacity: children of a split share opacity, 1 - sqrt(1 - o) (arXiv 2404.06109).
      steps_scale: factor of every step above, for shorter or longer runs.
    """

    grow_grad2d: float = 2e-4
    grow_scale3d: float = 0.01
    prune_opacity: float = 0.005
    prune_scale3d: float = 0.1
    grow_scale2d: float = 0.05
    prune_scale2d: float = 0.15
    refine_scale2d_stop: int = 0
    refine_start: int = 500
    refine_stop: int = 15_000
    refine_every: int = 100
    reset_every: int = 3_000
    pause_after_reset: int = 0
    reset_value: float = 0.01
    revised_opacity: bool = False
    steps_scale: float = 1.0

    def scaled(self) -> "DefaultConfig":
        """The same with steps_scale multiplied out, whole numbers, periods at least 1.

        Raises:
          ValueError: steps_scale is not above 0.
        """
        if not self.steps_scale > 0:
            raise ValueError(f"steps_scale: found {self.steps_scale}, expected above 0")
        steps = (
            "refine_scale2d_stop", "refine_start", "refine_stop", "refine_every", "reset_every",
            "pause_after_reset",
        )  # fmt: skip
        # The small term keeps 0.29 * 100 from being 28.
        changed = {k: math.floor(getattr(self, k) * self.steps_scale + 1e-6) for k in steps}
        changed["refine_every"] = max(changed["refine_every"], 1)
        changed["reset_every"] = max(changed["reset_every"], 1)
        return self._replace(steps_scale=1.0, **changed)


DEFAULTS = DefaultConfig()


class Stats(NamedTuple):
    """What is gathered between two refinements.

    Attributes:
      grad: [N] sum of the gradient norms of the views that saw the row.
      count: [N] number of such views.
      radius: [N] largest radius on screen, as part of the image's longer side.
    """

    grad: jax.Array
    count: jax.Array
    radius: jax.Array

    @classmethod
    def empty(cls, num: int, dtype=jnp.float32) -> "Stats":
        """Statistics of N rows that nobody has seen."""
        return cls(*(jnp.zeros(num, dtype) for _ in range(3)))


def accumulate(
    stats: Stats,
    means2d_grad: jax.Array,
    radii: jax.Array,
    width: int,
    height: int,
    num_views: int | None = None,
) -> Stats:
    """Adds one step's views.

    Gradients in pixels become those of a screen from -1 to 1 (times W / 2 and H / 2), and of a loss
    of one view (times C, as the loss is a mean over views).

    Args:
      stats: of N rows.
      means2d_grad: [C, N, 2] gradient of the loss by `gsjax.rasterize`'s means2d_probe, per pixel;
        for AbsGS that by absgrad_probe.
      radii: [C, N, 2] pixels, as in rasterize's meta; rows with a 0 were not seen.
      width, height: pixels.
      num_views: views that the loss is a mean of, if not C (views spread over devices).

    Returns:
      Stats.

    Raises:
      ValueError: shapes do not fit.
    """
    num = stats.grad.shape[0]
    for name, x in (("means2d_grad", means2d_grad), ("radii", radii)):
        if jnp.ndim(x) != 3 or jnp.shape(x)[1:] != (num, 2):
            raise ValueError(
                f"{name}: found shape {list(jnp.shape(x))}, expected [C, {num}, 2]; vmap over scenes"
            )
    views = means2d_grad.shape[0] if num_views is None else num_views
    seen = jnp.all(radii > 0, axis=-1)
    half = jnp.asarray((width / 2 * views, height / 2 * views), stats.grad.dtype)
    norms = jnp.sqrt(jnp.sum((means2d_grad * half) ** 2, axis=-1))
    radius = jnp.max(radii, axis=-1) / max(width, height)
    return Stats(
        # where, not a product: what nobody sees may hold a NaN.
        grad=stats.grad + jnp.sum(jnp.where(seen, norms, 0.0), axis=0),
        count=stats.count + jnp.sum(seen, axis=0, dtype=stats.count.dtype),
        radius=jnp.maximum(
            stats.radius, jnp.max(jnp.where(seen, radius, 0.0), axis=0, initial=0.0)
        ).astype(stats.radius.dtype),
    )


def refine_due(step: jax.Array | int, config: DefaultConfig = DEFAULTS) -> jax.Array:
    """Whether to `refine` after this step (int [...]): bool [...]."""
    c, step = config.scaled(), jnp.asarray(step)
    inside = (step > c.refine_start) & (step < c.refine_stop) & (step % c.refine_every == 0)
    return inside & (step % c.reset_every >= c.pause_after_reset)


def reset_due(step: jax.Array | int, config: DefaultConfig = DEFAULTS) -> jax.Array:
    """Whether to `reset_opacity` after this step (int [...]), after refining: bool [...]."""
    c, step = config.scaled(), jnp.asarray(step)
    return (step > 0) & (step < c.refine_stop) & (step % c.reset_every == 0)


def densify(
    key: jax.Array,
    params: rows.Params,
    alive: jax.Array,
    stats: Stats,
    config: DefaultConfig,
    step: jax.Array | int,
    scene_scale: jax.Array | float,
) -> tuple[rows.Params, jax.Array, jax.Array, jax.Array]:
    """Duplicates the small and splits the large among the rows of high gradient.

    A duplicate is an exact copy in a free row. A split makes two children at means + R diag(s) eps
    with scales s / 1.6, one in a free row and one in that of the parent. A row does one of the two,
    and new ones neither. Each takes one free row; the highest gradients are served first.

    Args:
      key: random key.
      params: fields of N rows, see `rows`.
      alive: bool [N]; the others are free.
      stats: of N rows.
      config: constants.
      step: int [].
      scene_scale: [] size of the scene, world units.

    Returns:
      params; alive [N]; reset, bool [N]: duplicates and all children, whose moments are to be
      zeroed; dropped, int32 []: requests for which no row was free.

    Raises:
      ValueError: a field or the statistics are missing or have another shape.

    References:
      3DGS (arXiv 2308.04079), Sec. 5.2 and Algorithm 2; constants of gsplat's DefaultStrategy.
    """
    params, alive, reset, dropped, _ = _densify(
        key, params, alive, stats, config, step, scene_scale
    )
    return params, alive, reset, dropped


def _densify(key, params, alive, stats, config, step, scene_scale):
    """As `densify`, and int32 [N]: the row that each row now comes from."""
    num = rows.check(params, alive)
    if stats.grad.shape != (num,):
        raise ValueError(
            f"stats: found {stats.grad.shape[0]} rows, expected {num}; make new ones with Stats.empty"
        )
    config = config.scaled()
    gradient = stats.grad / jnp.maximum(stats.count, 1)
    gradient = jnp.where(jnp.isnan(gradient), 0.0, gradient)  # a NaN would upset the order
    high = alive & (gradient > config.grow_grad2d)
    split = high & (_largest(params) > config.grow_scale3d * scene_scale)
    wide = alive & (stats.radius > config.grow_scale2d) & (step < config.refine_scale2d_stop)
    split = split | wide
    want = high | split

    # The r-th request in order of gradient takes the r-th free row, as far as either goes.
    order = jnp.argsort(jnp.where(want, -gradient, jnp.inf), stable=True)
    free = jnp.argsort(alive, stable=True)
    asked = jnp.sum(want, dtype=jnp.int32)
    served = jnp.minimum(asked, num - jnp.sum(alive, dtype=jnp.int32))
    is_served = jnp.arange(num) < served
    slot = jnp.where(is_served, free, num)
    source = jnp.arange(num).at[slot].set(order, mode="drop")
    new = jnp.zeros(num, bool).at[slot].set(True, mode="drop")
    parent = jnp.zeros(num, bool).at[jnp.where(is_served, order, num)].set(True, mode="drop")
    child = (split & parent)[source]  # the parent's own row is its own source

    params = _scatter_children(key, rows.take(params, source), child, config.revised_opacity)
    return params, alive | new, new | child, asked - served, source


def _largest(params):
    return jnp.max(jnp.exp(params["log_scales"]), axis=-1)


def _scatter_children(key, params, child, revised_opacity):
    """Turns copies of parents in the rows ``child`` [N] into children."""
    means, logits = params["means"], params["logit_opacities"]
    offset = jnp.exp(params["log_scales"]) * jax.random.normal(key, means.shape, means.dtype)
    rotmats = rotations.quat_to_rotmat(params["quats"])
    moved = means + jnp.sum(rotmats * offset[:, None, :], axis=-1)
    smaller = params["log_scales"] - math.log(1.6)
    if revised_opacity:
        # logit of 1 - sqrt(1 - o), by log(1 - o) = log_sigmoid(-logit): exact up to opacity 1.
        log_rest = 0.5 * jax.nn.log_sigmoid(-logits)
        shared = jnp.log(-jnp.expm1(log_rest)) - log_rest
        # Where exp(logit) underflows, half of the opacity.
        logits = jnp.where(
            child, jnp.where(jnp.isfinite(shared), shared, logits - math.log(2)), logits
        )
    return params | {
        "means": jnp.where(child[:, None], moved, means),
        "log_scales": jnp.where(child[:, None], smaller, params["log_scales"]),
        "logit_opacities": logits,
    }


def prune(
    params: rows.Params,
    alive: jax.Array,
    config: DefaultConfig,
    step: jax.Array | int,
    scene_scale: jax.Array | float,
    radius: jax.Array | None = None,
) -> tuple[rows.Params, jax.Array, jax.Array]:
    """Frees rows that are too faint and, past the first opacity reset, too large.

    Args:
      params: fields of N rows, see `rows`.
      alive: bool [N].
      config: constants.
      step: int [].
      scene_scale: [] size of the scene, world units.
      radius: [N] on screen, of `Stats`, for config.refine_scale2d_stop; None skips that test.

    Returns:
      params, invisible in the rows freed; alive [N]; reset, bool [N]: the rows freed.

    Raises:
      ValueError: a field is missing or has another shape.
    """
    rows.check(params, alive)
    config = config.scaled()
    large = _largest(params) > config.prune_scale3d * scene_scale
    if radius is not None:
        large = large | ((radius > config.prune_scale2d) & (step < config.refine_scale2d_stop))
    # Not the opposite comparison: a NaN goes too.
    faint = ~(jax.nn.sigmoid(params["logit_opacities"]) >= config.prune_opacity)
    freed = alive & (faint | (large & (step > config.reset_every)))
    return rows.park(params, freed), alive & ~freed, freed


def refine(
    key: jax.Array,
    params: rows.Params,
    alive: jax.Array,
    stats: Stats,
    config: DefaultConfig,
    step: jax.Array | int,
    scene_scale: jax.Array | float,
) -> tuple[rows.Params, jax.Array, Stats, jax.Array, jax.Array]:
    """`densify`, then `prune`, then empty statistics: one refinement of 3DGS.

    Copies and children count as wide on screen as the row they come from.

    Returns:
      params, alive [N], stats, reset [N] and dropped [], as the two functions.
    """
    params, alive, made, dropped, source = _densify(
        key, params, alive, stats, config, step, scene_scale
    )
    params, alive, freed = prune(params, alive, config, step, scene_scale, stats.radius[source])
    return params, alive, Stats(*map(jnp.zeros_like, stats)), made | freed, dropped


def reset_opacity(params: rows.Params, alive: jax.Array, value: float = 0.01) -> rows.Params:
    """Lowers every opacity to at most ``value``; call `rows.zero_opacity_moments` with it.

    Args:
      params: fields of N rows, see `rows`.
      alive: bool [N]; free rows stay as they are.
      value: within (0, 1); 3DGS has 0.01, twice the opacity that it prunes at.

    Returns:
      params, of which only the opacities differ.

    Raises:
      ValueError: value is outside (0, 1), a field is missing or has another shape.
    """
    if not 0 < value < 1:
        raise ValueError(f"value: found {value}, expected within (0, 1)")
    rows.check(params, alive)
    logits = params["logit_opacities"]
    lowered = jnp.minimum(logits, math.log(value) - math.log1p(-value))
    return params | {"logit_opacities": jnp.where(alive, lowered, logits)}


def grow_capacity(
    params: rows.Params, alive: jax.Array, moments, new_num: int
) -> tuple[rows.Params, jax.Array, object]:
    """Adds free rows behind the others, on the host: what follows is compiled anew.

    Args:
      params: fields of N rows, see `rows`.
      alive: bool [N].
      moments: any pytree of optimiser state; leaves with leading axis N grow by zeros.
      new_num: rows afterwards, at least N; 1.5 N is a good step.

    Returns:
      params, alive and moments of new_num rows. Statistics start again with `Stats.empty`.

    Raises:
      ValueError: new_num is below N, a field is missing or has another shape.
    """
    num = rows.check(params, alive)
    if new_num < num:
        raise ValueError(f"new_num: found {new_num}, expected at least the {num} rows there are")

    def longer(x):
        x = jnp.asarray(x)
        if x.ndim == 0 or x.shape[0] != num:
            return x
        return jnp.pad(x, [(0, new_num - num)] + [(0, 0)] * (x.ndim - 1))

    params = {name: longer(x) for name, x in params.items()}
    params["quats"] = params["quats"].at[num:, 0].set(1)
    is_new = jnp.arange(new_num) >= num
    return rows.park(params, is_new), longer(alive), jax.tree.map(longer, moments)
