"""Density control of 3DGS-MCMC (arXiv 2404.09591): a fixed number of rows, dead ones moved to life.

Order within a step, as there: optimiser, then at a refinement `relocate` and `grow`, then
`add_noise`. Every function is pure, keeps all shapes and works under jit and vmap (scenes); when to
refine, and Adam's moments (`rows.zero_moments` with the mask returned), are up to the caller.

Rows below ``active`` are in use, the others wait for their release by `grow`: ``alive`` is False
there. A row is dead if it is in use and not alive, or not above the least opacity.
"""

import jax
import jax.numpy as jnp

from gsjax.core import rotations
from gsjax.systems.scene_fit import relocation, rows

MIN_OPACITY = 0.005  # arXiv 2404.09591, Sec. 4.3, and gsplat's MCMCStrategy


def relocate(
    key: jax.Array,
    params: rows.Params,
    alive: jax.Array,
    active: jax.Array | int,
    min_opacity: float = MIN_OPACITY,
) -> tuple[rows.Params, jax.Array, jax.Array]:
    """Moves every dead Gaussian onto a live one, drawn with probability proportional to opacity.

    A live one that is drawn m times and its m copies share its opacity and scales by Eq. 9 with
    n = m + 1; all else is copied. Where no row is live, nothing changes.

    Args:
      key: random key.
      params: fields of N rows, see `rows`.
      alive: bool [N].
      active: int [], rows in use.
      min_opacity: rows up to this are dead, and new opacities not below it.

    Returns:
      params; alive [N]; and reset, bool [N]: rows whose moments are to be zeroed, the copies and
      those copied. (gsplat zeroes the latter alone and leaves a copy the moments of the dead row.)

    Raises:
      ValueError: a field is missing or has another shape.
    """
    num = rows.check(params, alive)
    live = _live(params, alive, active, min_opacity)
    dead = (jnp.arange(num) < active) & ~live
    return _copy_onto(key, params, alive, live, dead, min_opacity)


def grow(
    key: jax.Array,
    params: rows.Params,
    alive: jax.Array,
    active: jax.Array | int,
    target: jax.Array | int,
    min_opacity: float = MIN_OPACITY,
) -> tuple[rows.Params, jax.Array, jax.Array, jax.Array]:
    """Releases the rows from ``active`` to ``target`` - 1 as copies of live ones, as `relocate` does.

    Args:
      key: random key.
      params: fields of N rows, see `rows`.
      alive: bool [N].
      active: int [], rows in use.
      target: int [], rows to be in use, see `next_active`; more than N is N, less than active none.
      min_opacity: as in `relocate`.

    Returns:
      params; alive [N]; active int32 [], exactly the target, or as before where no row is live;
      reset, bool [N].

    Raises:
      ValueError: a field is missing or has another shape.
    """
    num = rows.check(params, alive)
    live = _live(params, alive, active, min_opacity)
    active = jnp.asarray(active, jnp.int32)
    target = jnp.clip(jnp.asarray(target, jnp.int32), active, num)
    row = jnp.arange(num)
    new = (row >= active) & (row < target)
    params, alive, reset = _copy_onto(key, params, alive, live, new, min_opacity)
    return params, alive, jnp.where(jnp.any(live), target, active), reset


def _live(params, alive, active, min_opacity):
    # A NaN is not above the least opacity: its row is dead, and heals.
    opaque = jax.nn.sigmoid(params["logit_opacities"]) > min_opacity
    return alive & opaque & (jnp.arange(alive.shape[0]) < active)


def _copy_onto(key, params, alive, live, empty, min_opacity):
    """Fills the rows ``empty`` [N] with copies of rows ``live`` [N], which share by Eq. 9."""
    num = alive.shape[0]
    if num == 0:
        return params, alive, jnp.zeros_like(alive)
    empty = empty & jnp.any(live)
    opacities = jax.nn.sigmoid(params["logit_opacities"])
    drawn = relocation.sample_sources(
        key, jnp.where(live, opacities, 0.0), num, used=jnp.sum(empty)
    )
    # The first draws are the ones that count: the r-th empty row takes the r-th.
    rank = jnp.cumsum(empty) - 1
    source = jnp.where(empty, drawn[jnp.maximum(rank, 0)], jnp.arange(num))
    copies = jnp.zeros(num, jnp.int32).at[jnp.where(empty, source, num)].add(1, mode="drop")

    shared, ratio = relocation.shares(opacities, 1 + copies, min_opacity)
    drawn_from = copies > 0
    logits = jnp.log(shared) - jnp.log1p(-shared)
    params = params | {
        "logit_opacities": jnp.where(drawn_from, logits, params["logit_opacities"]),
        # A sum of logarithms: a scale too small for float32 stays finite.
        "log_scales": jnp.where(
            drawn_from[:, None],
            params["log_scales"] + jnp.log(ratio)[:, None],
            params["log_scales"],
        ),
    }
    return rows.take(params, source), alive | empty, empty | drawn_from


def next_active(active: jax.Array | int, cap: int, rate: float = 1.05) -> jax.Array:
    """Rows in use after one growth: floor(rate * active), at most cap, at least one more than now.

    In whole numbers, so that it is the same under jit, with numbers too large for float32. (gsplat
    never grows from below 20 Gaussians, of which 5 % round to none.)

    Args:
      active: int [...].
      cap: most rows; with active above it, active is returned.
      rate: at least 1, to three decimals.

    Returns:
      int32 [...].

    Raises:
      ValueError: rate is below 1 or has more than three decimals.
    """
    permille = round((rate - 1) * 1000)
    if permille < 0 or abs(permille / 1000 - (rate - 1)) > 1e-9:
        raise ValueError(f"rate: found {rate}, expected at least 1, to three decimals")
    active = jnp.asarray(active, jnp.int32)
    # Thousands and their rest apart: active * permille passes 2^31 from 43 million rows on.
    more = active // 1000 * permille + active % 1000 * permille // 1000
    return jnp.maximum(jnp.minimum(active + jnp.maximum(more, permille > 0), cap), active)


def add_noise(
    key: jax.Array,
    params: rows.Params,
    alive: jax.Array,
    lr_means: jax.Array | float,
    noise_lr: float = 5e5,
    gate: float = 100.0,
    min_opacity: float = MIN_OPACITY,
) -> rows.Params:
    """One step of the Langevin noise: faint Gaussians wander within their own ellipsoid.

    means += lr_means * noise_lr * sigmoid(-gate (o - min_opacity)) * Sigma eps, eps ~ N(0, I).

    Args:
      key: random key.
      params: fields of N rows, see `rows`.
      alive: bool [N]; the others stay where they are.
      lr_means: [], learning rate of the means at this step.
      noise_lr: noise per unit of learning rate.
      gate: steepness of the gate, per unit of opacity.
      min_opacity: opacity at which half of the noise is left.

    Returns:
      params, of which only the means differ.

    Raises:
      ValueError: a field is missing or has another shape.

    References:
      3DGS-MCMC (arXiv 2404.09591), Eq. 8, with the constants of its reference code.
    """
    rows.check(params, alive)
    means = params["means"]
    opacities = jax.nn.sigmoid(params["logit_opacities"])
    amount = lr_means * noise_lr * jax.nn.sigmoid(-gate * (opacities - min_opacity))
    eps = jax.random.normal(key, means.shape, means.dtype)
    rotmats = rotations.quat_to_rotmat(params["quats"])
    # Sigma eps = R diag(s^2) R^T eps, without forming Sigma; sums, as a matrix unit may round to 16 bits.
    along = jnp.sum(rotmats * eps[:, :, None], axis=-2) * jnp.exp(2 * params["log_scales"])
    noise = jnp.sum(rotmats * along[:, None, :], axis=-1) * amount[:, None]
    return params | {"means": jnp.where(alive[:, None], means + noise, means)}
