"""Forward and backward blending of tile lists for the CPU backend: one tile at a time, native loops.

Both directions walk a tile's list front to back with the same arithmetic, so they take the same
decisions (skip, clamp, stop) without any stored index. Per pixel and Gaussian, with
sigma = (A dx^2 + C dy^2) / 2 + B dx dy and d = centre - pixel,

  alpha = min(max_alpha, opacity exp(-sigma)), 0 if sigma < 0 or alpha < 1/255,
  T' = T (1 - alpha); T' <= 1e-4 closes the pixel before this Gaussian,
  w = alpha T, color += w f, T = T'.

(3DGS, arXiv 2308.04079, Eq. 3.) A negative T marks a closed pixel. With R what is still to come of
g . color + g_T T, the gradient is dL/dalpha = T g.f - R' / (1 - alpha), R' = R - w g.f; no division
by T, no suffix stored (3DGS derives the same sums back to front).

Not for accelerators: there each step of these loops would be several kernel launches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gsjax.raster import constants
from gsjax.raster import xla_loop_bin as binning
from gsjax.raster.xla_loop_bin import put, row

GEOMETRY = 6  # columns of a row before its features: centre x, y, conic A, B, C, ln opacity

# Gaussians between two tests whether the whole tile is closed.
_STEPS = 8


class Forward(NamedTuple):
    """State carried from pass to pass: T [T, P] (negative: closed) and color [T, X, P]."""

    signed: jax.Array
    color: jax.Array


class Backward(NamedTuple):
    """State of the backward pass: T [T, P], R [T, P], gradient rows [N, 6 + X (+ 2)] by rank."""

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
    column, line = index % grid.across, index // grid.across * grid.num_lanes + lane
    return (jnp.stack([column, line], -1).astype(dtype) + 0.5) * grid.tile_size


def by_rank(rows: jax.Array, order: jax.Array) -> jax.Array:
    """Rows [N, 6 + X] with plain opacities -> rows of ranks, with their logarithms."""
    opacities = jnp.maximum(rows[:, 5:6], constants.ALPHA_MIN)  # less is never walked
    return jnp.concatenate([rows[:, :5], jnp.log(opacities), rows[:, 6:]], -1)[order]


def by_index(gradient: jax.Array, rows: jax.Array, order: jax.Array) -> jax.Array:
    """Transpose of the derivative of `by_rank`. Ranks that were never walked hold zeros."""
    scale = jnp.maximum(rows[:, 5:6], constants.ALPHA_MIN)
    out = jnp.zeros_like(gradient).at[order].add(gradient)
    return jnp.concatenate([out[:, :5], out[:, 5:6] / scale, out[:, 6:]], -1)


def closed_tiles(signed: jax.Array) -> jax.Array:
    """int32 [T]: 1 where every pixel of the tile is closed."""
    return (jnp.max(signed, 1) <= 0).astype(jnp.int32)


def _alpha(gaussian, center, x, y, max_alpha):
    """Unclamped response [P], and alpha [P] with the clamp and the skips."""
    dx, dy = (gaussian[0] - center[0]) - x, (gaussian[1] - center[1]) - y
    sigma = dx * (0.5 * gaussian[2] * dx) + dy * (0.5 * gaussian[4] * dy + gaussian[3] * dx)
    # The skip goes in before the exponential: XLA recomputes cheap operations for each of their
    # uses, but not exponentials, so a test of sigma behind it costs a quarter of the time.
    # For the same reason the opacity is in the exponent.
    response = jnp.exp(jnp.where(sigma >= 0, gaussian[5] - sigma, -jnp.inf))
    kept = response >= constants.ALPHA_MIN
    return response, jnp.where(kept, jnp.minimum(response, max_alpha), 0.0)


def forward(
    rows: jax.Array,
    lists: binning.Lists,
    state: Forward,
    centers: jax.Array,
    tile_size: int,
    max_alpha: float,
) -> Forward:
    """Blends one pass's lists behind what is there. rows: [N, 6 + X] by rank."""
    channels = rows.shape[1] - GEOMETRY
    x, y = pixel_offsets(tile_size, rows.dtype)

    def tile(t, state):
        center = row(centers, t)

        def pair(i, carry):
            signed, color = carry
            gaussian = row(rows, lists.ranks[i])
            _, alpha = _alpha(gaussian, center, x, y, max_alpha)
            left = signed * (1 - alpha)
            stop = left <= constants.T_MIN
            weight = jnp.where(stop, 0.0, alpha * signed)
            color = [c + weight * gaussian[GEOMETRY + j] for j, c in enumerate(color)]
            return jnp.where(stop, -jnp.abs(signed), left), color

        begin = row(state.signed, t), [state.color[t, j] for j in range(channels)]
        signed, color = _until_closed(lists, t, pair, begin)
        return Forward(put(state.signed, signed, t), put(state.color, jnp.stack(color), t))

    return lax.fori_loop(0, state.signed.shape[0], tile, state)


def _until_closed(lists, t, pair, carry):
    """Runs pair(i, carry) down the list of tile t while a pixel is open; carry[0] is the signed T.

    An inner loop, not unrolling, takes the steps between two tests: an unrolled body compiles
    slowly, and XLA would copy a large carried buffer at each of its steps.
    """
    end = lists.offsets[t + 1]

    def steps(state):
        stop = jnp.minimum(state[0] + _STEPS, end)
        return stop, lax.fori_loop(state[0], stop, pair, state[1])

    def go_on(state):
        return (state[0] < end) & (jnp.max(state[1][0]) > 0)

    return lax.while_loop(go_on, steps, (lists.offsets[t], carry))[1]


def _basis(x, y):
    """[6, P] monomials 1, x, y, x^2, xy, y^2."""
    return jnp.stack([jnp.ones_like(x), x, y, x * x, x * y, y * y])


def _geometry_gradient(moments, gaussian, center):
    """dL/d(centre, conic, ln opacity) from sums over pixels of q (1, x, y, x^2, xy, y^2).

    q = -dL/dsigma = alpha dL/dalpha where alpha is neither clamped nor skipped. With d = m - x:
    sum q dx = m s_1 - s_x and so on, dL/dm = -(A d_x + B d_y, B d_x + C d_y),
    dL/d(A, B, C) = -(d_xx / 2, d_xy, d_yy / 2), dL/d(ln o) = s_1.
    """
    s, sx, sy, sxx, sxy, syy = (moments[k] for k in range(6))
    a, b, c = gaussian[2], gaussian[3], gaussian[4]
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
    a, b, c = gaussian[2], gaussian[3], gaussian[4]
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
    basis = _basis(x, y)

    def tile(t, state):
        center, cotangent = row(centers, t), row(cotangents, t)

        def pair(i, carry):
            signed, rest, out = carry
            rank = lists.ranks[i]
            gaussian = row(rows, rank)
            response, alpha = _alpha(gaussian, center, x, y, max_alpha)
            left = signed * (1 - alpha)
            stop = left <= constants.T_MIN
            weight = jnp.where(stop, 0.0, alpha * signed)
            value = sum(cotangent[j] * gaussian[GEOMETRY + j] for j in range(channels))
            rest = rest - weight * value
            moves = ~stop & (alpha > 0) & (response <= max_alpha)
            q = jnp.where(moves, (signed * value - rest / (1 - alpha)) * alpha, 0.0)
            colors = cotangent @ weight
            gradient = _geometry_gradient(basis @ q, gaussian, center)
            gradient += [colors[j] for j in range(channels)]
            if absgrad:
                gradient += _absolute_gradient(q, gaussian, center, x, y)
            gradient = jnp.stack(gradient)
            out = put(out, row(out, rank) + gradient, rank)
            return jnp.where(stop, -jnp.abs(signed), left), rest, out

        begin = row(state.signed, t), row(state.rest, t), state.rows
        signed, rest, out = _until_closed(lists, t, pair, begin)
        return Backward(put(state.signed, signed, t), put(state.rest, rest, t), out)

    return lax.fori_loop(0, state.signed.shape[0], tile, state)
