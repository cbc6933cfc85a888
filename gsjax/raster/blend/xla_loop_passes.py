"""Forward and backward blending of tile lists for the CPU backend: one tile at a time, native loops.

Both directions walk a tile's list front to back with the same arithmetic, so they take the same
decisions (skip, clamp, stop) without any stored index. Per pixel and Gaussian, with
sigma = (A dx^2 + C dy^2) / 2 + B dx dy and d = centre - pixel,

  alpha = min(max_alpha, opacity exp(-sigma)), 0 if sigma < 0 or alpha < 1/255,
  T' = T (1 - alpha); T' <= 1e-4 closes the pixel before this Gaussian,
  w = alpha T, color += w f, T = T'.

(3DGS, arXiv 2308.04079, Eq. 3.) A negative T marks a closed pixel. With R what is still to come of
g . color + g_T T, the gradient is q = alpha dL/dalpha = w g.f - R' alpha / (1 - alpha), R' = R - w g.f;
no suffix is stored (3DGS derives the same sums back to front).

A step works on two Gaussians: it finds the weights of one and uses those of the one before. XLA
computes a cheap chain of operations again for each of its uses, but what crosses a step once: this
is what makes an exponential of our own (a third of the operations of XLA's) pay.

Not for accelerators: there each step of these loops would be several kernel launches.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gsjax.raster import constants
from gsjax.raster.blend import xla_loop_bin as binning
from gsjax.raster.blend.xla_loop_bin import put, row

GEOMETRY = 6  # columns of a row before its features: centre x, y, then what `by_row` makes of
# conic and opacity: log2 alpha = row[5] + row[2] dx^2 + row[3] dx dy + row[4] dy^2.

_LN_2 = math.log(2)
_LEVEL_MIN = math.log2(constants.ALPHA_MIN)
# 2^x for |x| <= 1/2, interpolated at Chebyshev points: relative error 1.0e-7.
_EXP2 = (
    1.0000000754895593, 0.6931471880289516, 0.24022107488776486,
    0.05550357114450866, 0.009676031918230853, 0.001339086335614062,
)  # fmt: skip

# Gaussians between two tests whether the whole tile is closed.
_STEPS = 8


class Forward(NamedTuple):
    """State carried from pass to pass: T [T, P] (negative: closed) and color [T, X, P]."""

    signed: jax.Array
    color: jax.Array


class Backward(NamedTuple):
    """State of the backward pass: T [T, P], R [T, P], gradient rows [N, 6 + X (+ 2)]."""

    signed: jax.Array
    rest: jax.Array
    rows: jax.Array


def pixel_offsets(tile_size: int, dtype) -> tuple[jax.Array, jax.Array]:
    """x and y, [P] each, of a tile's pixel centres from the centre of the tile."""
    index = jnp.arange(tile_size * tile_size)
    half = 0.5 * tile_size - 0.5
    return (index % tile_size).astype(dtype) - half, (index // tile_size).astype(dtype) - half


def tile_centers(grid: binning.Grid, lane: jax.Array, dtype) -> jax.Array:
    """[T, 2] centres in pixels of the lane's tiles."""
    index = jnp.arange(grid.num_tiles)
    column, line = index % grid.across, jnp.asarray(grid.lane_rows())[lane, index // grid.across]
    return (jnp.stack([column, line], -1).astype(dtype) + 0.5) * grid.tile_size


def by_row(gaussians: jax.Array, order: jax.Array) -> jax.Array:
    """[N, 6 + X] centre, conic, opacity, features -> the same in rows, conic and opacity in base 2."""
    opacities = jnp.maximum(gaussians[:, 5:6], constants.ALPHA_MIN)  # less is never walked
    scale = jnp.array([-0.5, -1.0, -0.5], gaussians.dtype) / _LN_2
    parts = gaussians[:, :2], gaussians[:, 2:5] * scale, jnp.log2(opacities), gaussians[:, 6:]
    return jnp.concatenate(parts, -1)[order]


def by_index(gradient: jax.Array, gaussians: jax.Array, order: jax.Array) -> jax.Array:
    """Gradient of rows, by centre, conic, ln opacity, features -> that of `gaussians`.

    Rows that were never walked hold zeros.
    """
    scale = jnp.maximum(gaussians[:, 5:6], constants.ALPHA_MIN)
    out = jnp.zeros_like(gradient).at[order].add(gradient)
    return jnp.concatenate([out[:, :5], out[:, 5:6] / scale, out[:, 6:]], -1)


def closed_tiles(signed: jax.Array) -> jax.Array:
    """int32 [T]: 1 where every pixel of the tile is closed."""
    return (jnp.max(signed, 1) <= 0).astype(jnp.int32)


def _exp2(x):
    """2^x for -100 <= x <= 1; a few operations that XLA vectorises."""
    if x.dtype != jnp.float32:
        return jnp.exp2(x)
    part = x - lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)
    value = jnp.float32(_EXP2[-1])
    for coefficient in _EXP2[-2::-1]:
        value = value * part + jnp.float32(coefficient)
    # Beside 1.5 2^23 a float32 has no fraction: its last bits are the whole part of x.
    whole = lax.bitcast_convert_type(x + jnp.float32(1.5 * 2**23), jnp.int32)
    bits = lax.bitcast_convert_type(value, jnp.int32) + (whole << 23)
    return lax.bitcast_convert_type(bits, jnp.float32)


def _meet(gaussian, last, center, signed, x, y, max_alpha):
    """alpha T [P] of a Gaussian; -1 where it closes the pixel, or finds it closed.

    gaussian: a row. last: the list is over, there is no such Gaussian.
    """
    dx, dy = (gaussian[0] - center[0]) - x, (gaussian[1] - center[1]) - y
    opacity = jnp.where(last, -jnp.inf, gaussian[5])
    level = opacity + dx * (gaussian[2] * dx) + dy * (gaussian[4] * dy + gaussian[3] * dx)
    kept = (level >= _LEVEL_MIN) & (level <= opacity)
    alpha = jnp.minimum(_exp2(jnp.maximum(level, _LEVEL_MIN - 1)), max_alpha)
    met = jnp.where(kept, alpha, 0.0) * signed
    return jnp.where(signed - met <= constants.T_MIN, -1.0, met)


def _behind(signed, met):
    """Signed T behind a Gaussian that was met."""
    return jnp.where(met < 0, -jnp.abs(signed), signed - met)


def forward(
    rows: jax.Array,
    lists: binning.Lists,
    state: Forward,
    centers: jax.Array,
    tile_size: int,
    max_alpha: float,
) -> Forward:
    """Blends one pass's lists behind what is there. rows: [N, 6 + X] of `by_row`."""
    channels = rows.shape[1] - GEOMETRY
    x, y = pixel_offsets(tile_size, rows.dtype)

    def tile(t, state):
        center = row(centers, t)

        def step(before, now, last, carry):
            signed, met, color = carry
            features, weight = row(rows, before)[GEOMETRY:], jnp.where(met > 0, met, 0.0)
            color = [c + weight * features[j] for j, c in enumerate(color)]
            signed = _behind(signed, met)
            return signed, _meet(row(rows, now), last, center, signed, x, y, max_alpha), color

        signed = row(state.signed, t)
        begin = signed, jnp.zeros_like(signed), [state.color[t, j] for j in range(channels)]
        signed, _, color = _until_closed(lists, t, step, begin)
        return Forward(put(state.signed, signed, t), put(state.color, jnp.stack(color), t))

    return lax.fori_loop(0, state.signed.shape[0], tile, state)


def _until_closed(lists, t, step, carry):
    """Runs step(before, now, last, carry) down the list of tile t while a pixel is open.

    `now` is the row whose weights a step finds, `before` the one whose weights it uses; the first
    step uses none, and there is one more than the list is long, the `last`, which finds none.
    carry[0] is the signed T.

    An inner loop, not unrolling, takes the steps between two tests: an unrolled body compiles
    slowly, and XLA would copy a large carried buffer at each of its steps.
    """
    begin, end = lists.offsets[t], lists.offsets[t + 1]
    stop = jnp.where(begin < end, end + 1, begin)

    def one(i, carry):
        before, now = lists.rows[jnp.maximum(i - 1, begin)], lists.rows[jnp.minimum(i, end - 1)]
        return step(before, now, i == end, carry)

    def steps(state):
        pause = jnp.minimum(state[0] + _STEPS, stop)
        return pause, lax.fori_loop(state[0], pause, one, state[1])

    def go_on(state):
        return (state[0] < stop) & _any_positive(state[1][0])

    return lax.while_loop(go_on, steps, (begin, carry))[1]


def _any_positive(x):
    """As integers of the same order, since XLA vectorises their maximum and not that of floats."""
    integers = jnp.int32 if x.dtype == jnp.float32 else jnp.int64
    return jnp.max(lax.bitcast_convert_type(x, integers)) > 0


def _basis(x, y):
    """[6, P] monomials 1, x, y, x^2, xy, y^2."""
    return jnp.stack([jnp.ones_like(x), x, y, x * x, x * y, y * y])


def _conic(gaussian):
    """A, B, C of a row."""
    return -2 * _LN_2 * gaussian[2], -_LN_2 * gaussian[3], -2 * _LN_2 * gaussian[4]


def _geometry_gradient(moments, gaussian, center):
    """dL/d(centre, conic, ln opacity) from sums over pixels of q (1, x, y, x^2, xy, y^2).

    q = -dL/dsigma = alpha dL/dalpha where alpha is neither clamped nor skipped. With d = m - x:
    sum q dx = m s_1 - s_x and so on, dL/dm = -(A d_x + B d_y, B d_x + C d_y),
    dL/d(A, B, C) = -(d_xx / 2, d_xy, d_yy / 2), dL/d(ln o) = s_1.
    """
    s, sx, sy, sxx, sxy, syy = (moments[k] for k in range(6))
    a, b, c = _conic(gaussian)
    mx, my = gaussian[0] - center[0], gaussian[1] - center[1]
    dx, dy = mx * s - sx, my * s - sy
    return [
        -(a * dx + b * dy),
        -(b * dx + c * dy),
        -0.5 * (mx * (dx - sx) + sxx),
        -(mx * dy - my * sx + sxy),
        -0.5 * (my * (dy - sy) + syy),
        s,
    ]


def _absolute_gradient(q, gaussian, center, x, y):
    """Sums over pixels of the absolute values of dL/dm (AbsGS, arXiv 2404.10484)."""
    a, b, c = _conic(gaussian)
    dx, dy = (gaussian[0] - center[0]) - x, (gaussian[1] - center[1]) - y
    return [jnp.sum(jnp.abs(q * (a * dx + b * dy))), jnp.sum(jnp.abs(q * (b * dx + c * dy)))]


def backward(
    rows: jax.Array,
    lists: binning.Lists,
    state: Backward,
    cotangents: jax.Array,
    centers: jax.Array,
    tile_size: int,
    max_alpha: float,
    absgrad: bool = False,
) -> Backward:
    """Replays one pass and adds each pair's sums to its Gaussian's row: fixed order, no scatter.

    cotangents: [T, X, P] of the colors. absgrad: sums of the absolute dL/dm over pixels come last.
    """
    channels = rows.shape[1] - GEOMETRY
    x, y = pixel_offsets(tile_size, rows.dtype)
    basis, clamped = _basis(x, y), _clamped_odds(max_alpha, rows.dtype)

    def tile(t, state):
        center, cotangent = row(centers, t), row(cotangents, t)

        def step(before, now, last, carry):
            signed, met, rest, out = carry
            gaussian, weight = row(rows, before), jnp.where(met > 0, met, 0.0)
            value = sum(cotangent[j] * gaussian[GEOMETRY + j] for j in range(channels))
            rest = rest - weight * value
            odds = weight / (signed - weight)  # alpha / (1 - alpha)
            q = jnp.where(odds < clamped, weight * value - rest * odds, 0.0)
            colors = cotangent @ weight
            gradient = _geometry_gradient(basis @ q, gaussian, center)
            gradient += [colors[j] for j in range(channels)]
            if absgrad:
                gradient += _absolute_gradient(q, gaussian, center, x, y)
            gradient = jnp.stack(gradient)
            out = put(out, row(out, before) + gradient, before)
            signed = _behind(signed, met)
            met = _meet(row(rows, now), last, center, signed, x, y, max_alpha)
            return signed, met, rest, out

        signed = row(state.signed, t)
        begin = signed, jnp.zeros_like(signed), row(state.rest, t), state.rows
        signed, _, rest, out = _until_closed(lists, t, step, begin)
        return Backward(put(state.signed, signed, t), put(state.rest, rest, t), out)

    return lax.fori_loop(0, state.signed.shape[0], tile, state)


def _clamped_odds(max_alpha, dtype):
    """alpha / (1 - alpha) from which alpha counts as clamped: rounding of T - w comes off."""
    slack = 2 * float(jnp.finfo(dtype).eps) / (1 - max_alpha)
    return max_alpha / (1 - max_alpha) * max(1 - slack, 0.0)
