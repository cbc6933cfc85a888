"""One Gaussian as n in the same place without a change of the picture, and drawing which ones.

Opacities and scales follow 3DGS-MCMC (arXiv 2404.09591), Eq. 9. Which rows take part is decided in
`mcmc`; nothing here knows of rows that are dead or free.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

MAX_COPIES = 51  # as the reference code of 3DGS-MCMC: beyond, n counts as 51

# Eq. 9 sums over i = 1..n and k = 0..i-1 the terms C(i-1, k) (-1)^k o^(k+1) / sqrt(k+1). The sum over
# i alone is C(n, k+1): what is left is one polynomial in o per n, its coefficients row n - 1.
_COEFFICIENTS = np.array([
    [math.comb(n, k + 1) * (-1) ** k / math.sqrt(k + 1) for k in range(MAX_COPIES)]
    for n in range(1, MAX_COPIES + 1)
])  # fmt: skip


def _denominators(opacities: jax.Array, counts: jax.Array) -> jax.Array:
    """[N] the double sum of Eq. 9 for new opacities [N] and counts [N] in 1 .. 51, by Horner.

    One pass over the rows per coefficient and no array [N, 51]: a million rows would need 200 MB.
    """
    columns = jnp.asarray(_COEFFICIENTS.T, opacities.dtype)

    def step(total, column):
        return (total + column[counts - 1]) * opacities, None

    return jax.lax.scan(step, jnp.zeros_like(opacities), columns, reverse=True)[0]


def shares(
    opacities: jax.Array, counts: jax.Array, min_opacity: float
) -> tuple[jax.Array, jax.Array]:
    """Opacity of each of n Gaussians that stand in for one, and the ratio of their scales to its.

    Args:
      opacities: [N] in [0, 1].
      counts: int [N], the n; below 1 counts as 1, beyond 51 as 51.
      min_opacity: new opacities are at least this.

    Returns:
      opacities [N], in [min_opacity, 1 - eps], and ratios [N]. Rows with n = 1 keep theirs (1).

    References:
      3DGS-MCMC (arXiv 2404.09591), Eq. 9. In float32 the ratio is right to 1e-6 for
      opacities up to 0.99 and to 1e-4 for any.
    """
    opacities = jnp.asarray(opacities)
    counts = jnp.clip(counts, 1, MAX_COPIES)
    # eps of float32 in any precision: at opacity 1 the terms of the sum are of size 1e14.
    ceiling = 1 - float(jnp.finfo(jnp.float32).eps)
    old = jnp.clip(opacities, 0.0, ceiling)
    # 1 - (1 - o)^(1/n), without the cancellation at small o.
    new = jnp.clip(-jnp.expm1(jnp.log1p(-old) / counts), min_opacity, ceiling)
    # The clipped opacity: where n Gaussians are more than the floor allows, they shrink for it.
    total = _denominators(new, counts)
    ratio = jnp.where(total > 0, old / jnp.where(total > 0, total, 1.0), 1.0)
    single = counts == 1
    return jnp.where(single, opacities, new), jnp.where(single, 1.0, ratio)


def relocated(
    opacities: jax.Array, scales: jax.Array, counts: jax.Array, min_opacity: float = 0.005
) -> tuple[jax.Array, jax.Array]:
    """What n copies of a Gaussian have in place of its opacity and scales.

    Args:
      opacities: [N] in [0, 1].
      scales: [N, 3] world units.
      counts: int [N], how many there are afterwards, the original included; clipped to 1 .. 51.
      min_opacity: floor of the new opacities.

    Returns:
      opacities [N] and scales [N, 3] of each of the n; rows with n = 1 are returned as they are.

    Raises:
      ValueError: scales or counts do not fit opacities.

    References:
      3DGS-MCMC (arXiv 2404.09591), Eq. 9.
    """
    shape = jnp.shape(opacities)
    if jnp.shape(scales) != (*shape, 3):
        raise ValueError(
            f"scales: found shape {list(jnp.shape(scales))}, expected {[*shape, 3]}, one row an "
            "opacity"
        )
    if jnp.shape(counts) != shape:
        raise ValueError(
            f"counts: found shape {list(jnp.shape(counts))}, expected {list(shape)}, one an opacity"
        )
    opacities, ratio = shares(opacities, counts, min_opacity)
    return opacities, scales * ratio[..., None]


def sample_sources(
    key: jax.Array,
    weights: jax.Array,
    num: int,
    systematic: bool = True,
    used: jax.Array | int | None = None,
) -> jax.Array:
    """Row numbers drawn with replacement, with probability proportional to ``weights``.

    By the inverse of the distribution function, in whole numbers: weights are rounded to a grid of
    2^31 / total, so sums are exact and a row of weight 0 is never drawn, nor one beyond the end. A
    row of the mean weight has 2,000 units in a million rows; every positive weight at least one.

    Args:
      key: random key.
      weights: [N], at least one row, below 1e37; what is negative or not finite counts as 0.
      num: draws.
      systematic: one draw in each of equal parts of the distribution, in rising order: the same
        frequencies with a lower variance. False: independent draws.
      used: [] how many draws count (the first ones); the equal parts are as many. The rest are
        valid rows of no particular distribution. None is num.

    Returns:
      int32 [num]. Meaningless, though in range, where all weights are 0.

    Raises:
      ValueError: weights are not [N] with N of at least 1, or num is negative.
    """
    weights = jnp.asarray(weights)
    if weights.ndim != 1 or weights.shape[0] < 1:
        raise ValueError(f"weights: found shape {list(weights.shape)}, expected [N], N at least 1")
    if num < 0:
        raise ValueError(f"num: found {num}, expected at least 0")
    ends = _cumulative(weights)
    total = jnp.maximum(ends[-1], 1)
    low, width = jnp.uint32(0), total
    if systematic:
        low, width = _parts(total, num, num if used is None else used)
    place = jax.random.randint(key, (num,), low, low + width, jnp.uint32)
    found = jnp.searchsorted(ends, jnp.minimum(place, total - 1), side="right")
    return jnp.minimum(found, weights.shape[0] - 1).astype(jnp.int32)


def _cumulative(weights):
    """uint32 [N] sums of weights [N] on a grid, the last near 2^31."""
    weights = weights.astype(jnp.float32)
    weights = jnp.where((weights > 0) & jnp.isfinite(weights), weights, 0.0)
    # The largest first, so that the sum neither overflows nor underflows.
    weights = weights / jnp.maximum(jnp.max(weights), jnp.finfo(jnp.float32).tiny)
    # 2^31 of 2^32: no rounding in the sum of the float32 weights can make the whole numbers wrap.
    scale = (2.0**31 - weights.shape[0]) / jnp.maximum(jnp.sum(weights), 1.0)
    units = jnp.maximum(jnp.floor(weights * scale), 1.0).astype(jnp.uint32)
    return jnp.cumsum(jnp.where(weights > 0, units, 0), dtype=jnp.uint32)


def _parts(total, num, used):
    """First units, uint32 [num], and sizes of ``used`` equal parts of ``total`` units."""
    used = jnp.maximum(jnp.asarray(used), 1).astype(jnp.uint32)
    size, rest = total // used, total % used
    rank = jnp.minimum(jnp.arange(num + 1, dtype=jnp.uint32), used)
    # The remainder is spread in float32 (rank * rest can pass 2^32): exact to a unit or so.
    extra = rank.astype(jnp.float32) * (rest.astype(jnp.float32) / used.astype(jnp.float32))
    starts = jnp.minimum(rank * size + extra.astype(jnp.uint32), total)
    return starts[:-1], jnp.maximum(starts[1:] - starts[:-1], 1)
