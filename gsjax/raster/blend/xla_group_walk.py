"""The inner loops of `xla_group`: many tiles walk their lists together, one Gaussian at a time.

Arrays here are flat: M tiles (of all images), P pixels a tile, X channels. With chosen pixels instead
of whole images, a "tile" is one pixel and several of them walk the same list. Rows of ``rows`` are
(mean x, mean y, A, B, C, opacity, X features). A negative transmittance marks a closed pixel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.raster import constants

_STEP = 4  # Gaussians between two looks at the exit condition
_SUM_CHANNELS = 8  # up to here sum channel by channel, beyond it by matrix products
_EXACT = jax.lax.Precision.HIGHEST  # accelerators would round to TF32 or bfloat16


class Lanes(NamedTuple):
    """What each tile walks.

    Attributes:
      row: [entries] int32, row of each list entry.
      begin, end: [M] int32, the tile's entries.
      corner: [M, 2] int32, smallest pixel coordinates.
    """

    row: jax.Array
    begin: jax.Array
    end: jax.Array
    corner: jax.Array


def varying_like(reference, values):
    """Marks fresh arrays as varying over the mesh axes that ``reference`` varies over.

    Inside ``shard_map`` a loop's state must have one type from its start on. Adding an integer zero
    computed from the reference does that with public operations only, and XLA removes it.
    """
    leaves = [x for x in jax.tree.leaves(reference) if x.size]
    zero = sum((x.ravel()[0] == 0).astype(jnp.int32) for x in leaves) * 0
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), values)


def forward(rows, lanes, signed, color, tile_size, max_alpha, group):
    """Blends one pass: signed [M, P] and color [M, X, P] before -> after."""

    def walk(carry, part):
        begin, end, corner, signed, color = part
        pixels = _pixels(corner, tile_size, signed.dtype)

        def step(state):
            i, signed, color = state
            block, inside = _fetch(rows, lanes.row, begin + i, end)
            weights = []
            for u in range(_STEP):
                _, _, _, alpha, _ = _response(block[:, u], inside[:, u], pixels, max_alpha)
                signed, weight, _ = _advance(signed, alpha)
                weights.append(weight)
            return i + _STEP, signed, _add_features(color, weights, block[..., 6:])

        state = (varying_like(begin, jnp.int32(0)), signed, color)
        _, signed, color = jax.lax.while_loop(lambda s: _busy(begin + s[0], end, s[1]), step, state)
        return carry, (signed, color)

    parts = (lanes.begin, lanes.end, lanes.corner, signed, color)
    return _in_groups(walk, (), parts, group)[1]


def trace(rows, lanes, signed, state, visit, tile_size, max_alpha, group):
    """Walks as `forward` does and shows each tile's Gaussians to a visitor. Not differentiable.

    Args:
      rows, lanes, signed, tile_size, max_alpha, group: as in `forward`; features are not read.
      state: arrays [M, ...].
      visit: (state, row [M] int32, weight [M, P], left [M, P]) -> state; weight is 0 where the
        Gaussian is skipped, ``left`` the transmittance behind it (negative: closed).

    Returns:
      signed and state after the pass.
    """

    def walk(carry, part):
        begin, end, corner, signed, state = part
        pixels = _pixels(corner, tile_size, signed.dtype)

        def step(loop):
            i, signed, state = loop
            entry = jnp.minimum(_entries(begin + i), lanes.row.shape[0] - 1)
            block, inside = _fetch(rows, lanes.row, begin + i, end)
            for u in range(_STEP):
                alpha = _response(block[:, u], inside[:, u], pixels, max_alpha)[3]
                signed, weight, _ = _advance(signed, alpha)
                state = visit(state, lanes.row[entry[:, u]], weight, signed)
            return i + _STEP, signed, state

        loop = (varying_like(begin, jnp.int32(0)), signed, state)
        _, signed, state = jax.lax.while_loop(lambda s: _busy(begin + s[0], end, s[1]), step, loop)
        return carry, (signed, state)

    parts = (lanes.begin, lanes.end, lanes.corner, signed, state)
    return _in_groups(walk, (), parts, group)[1]


def backward(
    rows, lanes, slots, signed, rest, d_color, tile_size, max_alpha, group, *, shared, absgrad
):
    """Gradients of one pass.

    Args:
      rows, lanes, signed, tile_size, max_alpha, group: as in `forward`.
      slots: [entries] int32, where the gradient of each list entry is written.
      rest: [M, P] what is still to come of <cotangent, output>.
      d_color: [M, X, P] cotangent of the colour.
      shared: several tiles walk the same list, so that their gradients are added.
      absgrad: appends the sums of |dL/dx| and |dL/dy| over pixels.

    Returns:
      signed and rest after the pass, and [entries, 6 + X (+ 2)] gradients by slot.
    """
    entries, width = lanes.row.shape[0], rows.shape[1] + 2 * absgrad

    def walk(grads, part):
        begin, end, corner, signed, rest, d_color = part
        pixels = _pixels(corner, tile_size, signed.dtype)

        def step(state):
            i, signed, rest, grads = state
            block, inside = _fetch(rows, lanes.row, begin + i, end)
            gains = _feature_gains(d_color, block[..., 6:])
            shapes, absolute, weights = [], [], []
            for u in range(_STEP):
                response = _response(block[:, u], inside[:, u], pixels, max_alpha)
                before, alpha = signed, response[3]
                signed, weight, stop = _advance(signed, alpha)
                rest = rest - weight * gains[u]
                d_alpha = before * gains[u] - rest / (1 - alpha)
                d_alpha = jnp.where(stop | (alpha == 0), 0.0, d_alpha)
                shape = _shape_grads(block[:, u], response, d_alpha)
                shapes.append(_pixel_sums(shape))
                absolute.append(_pixel_sums([jnp.abs(g) for g in shape[:2]]))
                weights.append(weight)
            new = [jnp.stack(shapes, 1), _feature_grads(d_color, weights)]
            new = jnp.concatenate(new + [jnp.stack(absolute, 1)] * absgrad, -1)
            entry = jnp.minimum(_entries(begin + i), entries - 1)
            slot = jnp.where(inside, slots[entry], entries)
            # Distinct where it counts (unless shared); all others aim beyond the end.
            place = grads.at[slot]
            grads = place.add(new, mode="drop") if shared else place.set(new, mode="drop")
            return i + _STEP, signed, rest, grads

        state = (varying_like(begin, jnp.int32(0)), signed, rest, grads)
        _, signed, rest, grads = jax.lax.while_loop(
            lambda s: _busy(begin + s[0], end, s[1]), step, state
        )
        return grads, (signed, rest)

    grads = varying_like(rows, jnp.zeros((entries, width), rows.dtype))
    parts = (lanes.begin, lanes.end, lanes.corner, signed, rest, d_color)
    grads, (signed, rest) = _in_groups(walk, grads, parts, group)
    return signed, rest, grads


def sum_runs(values, starts, lengths):
    """Sums of consecutive runs: values [S, D], starts and lengths [N] (ascending) -> [N, D].

    Runs that begin at S or later are 0, and runs are cut at S. No atomics: accelerators use a
    segmented scan, CPU (where a scatter is a plain loop) a scatter-add.
    """
    return jax.lax.platform_dependent(
        values, starts, lengths, cpu=sum_runs_by_scatter, default=sum_runs_by_scan
    )


def _run_heads(size, starts, lengths):
    """[S] one where a run begins; runs outside aim at distinct places beyond the end."""
    present = (lengths > 0) & (starts < size)
    place = jnp.where(present, starts, size + jnp.arange(starts.shape[0], dtype=jnp.int32))
    heads = jnp.zeros((size,), jnp.int32).at[place].set(1, mode="drop", unique_indices=True)
    return heads, present


def sum_runs_by_scatter(values, starts, lengths):
    """See `sum_runs`."""
    heads, present = _run_heads(values.shape[0], starts, lengths)
    # The run a slot belongs to, among runs that are present; slots behind the last hold zeros.
    run = jnp.cumsum(heads) - 1
    order = jnp.cumsum(present.astype(jnp.int32)) - 1
    sums = jnp.zeros((starts.shape[0], values.shape[1]), values.dtype)
    sums = sums.at[jnp.maximum(run, 0)].add(values)
    return jnp.where(present[:, None], sums[jnp.maximum(order, 0)], 0.0)


def sum_runs_by_scan(values, starts, lengths):
    """See `sum_runs`."""
    size = values.shape[0]
    heads, present = _run_heads(size, starts, lengths)

    def join(left, right):
        total = jnp.where(right[1] > 0, right[0], left[0] + right[0])
        return total, left[1] | right[1]

    sums, _ = jax.lax.associative_scan(join, (values, heads[:, None]))
    last = jnp.clip(jnp.minimum(starts, size) + jnp.minimum(lengths, size), 1, size) - 1
    return jnp.where(present[:, None], sums[last], 0.0)


def _in_groups(walk, carry, parts, group):
    """Runs ``walk(carry, parts) -> (carry, outputs)`` over groups of tiles, longest lists first."""
    total = parts[0].shape[0]
    if group is None or group >= total:
        return walk(carry, parts)
    parts = jax.tree.map(lambda x: _pad(x, -total % group), parts)
    order = jnp.argsort(parts[0] - parts[1])  # begin - end; padding is empty, hence last
    split = jax.tree.map(lambda x: x[order].reshape(-1, group, *x.shape[1:]), parts)
    carry, out = jax.lax.scan(walk, carry, split)
    inverse = jnp.argsort(order)[:total]
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[inverse], out)


def _pad(x, count):
    return jnp.pad(x, [(0, count)] + [(0, 0)] * (x.ndim - 1))


def _pixels(corner, tile_size, dtype):
    """Pixel centres x, y: [M, P] each."""
    i = jnp.arange(tile_size * tile_size, dtype=jnp.int32)
    x = corner[:, 0, None] + i % tile_size
    y = corner[:, 1, None] + i // tile_size
    return x.astype(dtype) + 0.5, y.astype(dtype) + 0.5


def _entries(first):
    return first[:, None] + jnp.arange(_STEP, dtype=jnp.int32)


def _busy(next_entry, end, signed):
    """Whether any tile has entries left and an open pixel."""
    return jnp.any((next_entry < end) & (jnp.max(signed, -1) > 0))


def _fetch(rows, row, first, end):
    """Next rows of every tile [M, STEP, 6 + X], and which of them exist [M, STEP]."""
    entry = _entries(first)
    return rows[row[jnp.minimum(entry, row.shape[0] - 1)]], entry < end[:, None]


def _response(row, exists, pixels, max_alpha):
    """dx, dy, exp(-sigma), alpha (0 = skipped), and whether alpha is clamped: [M, P] each."""
    mean_x, mean_y, a, b, c, opacity = (row[:, k, None] for k in range(6))
    dx, dy = mean_x - pixels[0], mean_y - pixels[1]
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    falloff = jnp.exp(-jnp.maximum(sigma, 0.0))
    alpha = jnp.minimum(max_alpha, opacity * falloff)
    counts = exists[:, None] & (sigma >= 0) & (alpha >= constants.ALPHA_MIN)
    return dx, dy, falloff, jnp.where(counts, alpha, 0.0), opacity * falloff > max_alpha


def _advance(signed, alpha):
    """Transmittance behind one Gaussian, its weight, and where it is excluded."""
    left = signed * (1 - alpha)
    stop = left <= constants.T_MIN
    return jnp.where(stop, -jnp.abs(signed), left), jnp.where(stop, 0.0, alpha * signed), stop


def _add_features(color, weights, features):
    """color [M, X, P] plus weights STEP x [M, P] times features [M, STEP, X]."""
    channels = color.shape[1]
    if channels > _SUM_CHANNELS:
        block = jnp.stack(weights, 1)
        return color + jnp.einsum("mup,mux->mxp", block, features, precision=_EXACT)
    planes = [color[:, x] for x in range(channels)]
    for u, weight in enumerate(weights):
        planes = [p + weight * features[:, u, x, None] for x, p in enumerate(planes)]
    return jnp.stack(planes, 1)


def _feature_gains(d_color, features):
    """<cotangent, feature> of each Gaussian of a block: STEP x [M, P]."""
    if d_color.shape[1] > _SUM_CHANNELS:
        gains = jnp.einsum("mux,mxp->ump", features, d_color, precision=_EXACT)
        return [gains[u] for u in range(_STEP)]
    channels = range(d_color.shape[1])
    return [sum(features[:, u, x, None] * d_color[:, x] for x in channels) for u in range(_STEP)]


def _feature_grads(d_color, weights):
    """[M, STEP, X]: sums over pixels of weight times cotangent."""
    return jnp.einsum("mup,mxp->mux", jnp.stack(weights, 1), d_color, precision=_EXACT)


def _shape_grads(row, response, d_alpha):
    """Gradients of mean, conic and opacity from those of alpha: six times [M, P]."""
    dx, dy, falloff, _, clamped = response
    a, b, c, opacity = (row[:, k, None] for k in range(2, 6))
    d_opacity = jnp.where(clamped, 0.0, falloff * d_alpha)
    d_sigma = -opacity * d_opacity
    return (
        d_sigma * (a * dx + b * dy),
        d_sigma * (b * dx + c * dy),
        0.5 * d_sigma * dx * dx,
        d_sigma * dx * dy,
        0.5 * d_sigma * dy * dy,
        d_opacity,
    )


def _pixel_sums(grads):
    """[M, len(grads)] sums over pixels of [M, P] each."""
    return jnp.stack([jnp.sum(g, -1) for g in grads], -1)
