"""Plain Mosaic GPU kernels: a tile walks its list, all 256 pixels meet one Gaussian after the other.

Array code only, no PTX: the kernels to read first, and the fallback for JAX versions that cannot
embed PTX. One warpgroup a tile, two pixels a thread; a Gaussian's row is read straight from the
table by every thread. `warp` does the same sums with a fraction of the instructions.

Offsets to the pixel are formed before they are squared, as in `reference`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gsjax.raster.blend import pairs
from gsjax.raster.blend.gpu import tile as tile_math

_UNROLL = 4  # Gaussians between two looks at the exit condition, forward
_LAYOUT = plgpu.Layout.WG_STRIDED((tile_math.PIXELS,), vec_size=2)


def forward(
    spec: tile_math.Spec,
    lists: pairs.Lists,
    table: jax.Array,
    signed: jax.Array,
    color: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Blends one pass behind what is there.

    Args:
      spec: static settings.
      lists: of the pass; M tiles.
      table: [R + 1, spec.table_width] float32 from `tile.table`.
      signed: [M, 256] transmittance, negative for closed pixels.
      color: [M, X, 256].

    Returns:
      signed and color after the pass.
    """
    return plgpu.kernel(
        functools.partial(_forward_tile, spec),
        out_type=(_like(signed), _like(color)),
        grid=(signed.shape[0],),
        grid_names=("tile",),
        interpret=spec.interpret,
    )(lists.bounds, lists.row, table, signed, color)


def backward(
    spec: tile_math.Spec,
    lists: pairs.Lists,
    table: jax.Array,
    signed: jax.Array,
    rest: jax.Array,
    d_color: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Replays one pass and writes one gradient row per list entry.

    Args:
      spec, lists, table, signed: as in `forward`.
      rest: [M, 256] what is still to come of <cotangent, output>.
      d_color: [M, X, 256] cotangent of the colour.

    Returns:
      signed and rest after the pass, and by slot [capacity, spec.sums or a few more]: the sums that
      `kernel_passes.geometry_gradients` expects, the gradient of the features, those of absgrad. Slots that
      are in no list are not written.
    """
    shape = (lists.row.shape[0], tile_math.padded(spec.sums))
    return plgpu.kernel(
        functools.partial(_backward_tile, spec),
        out_type=(_like(signed), _like(rest), _like(table, shape)),
        grid=(signed.shape[0],),
        grid_names=("tile",),
        interpret=spec.interpret,
    )(lists.bounds, lists.row, lists.slot, table, signed, rest, d_color)


def _like(x, shape=None):
    return jax.ShapeDtypeStruct(x.shape if shape is None else shape, x.dtype)


def _forward_tile(spec, bounds, row, table, signed, color, signed_out, color_out):
    tile = lax.axis_index("tile")
    begin, end = tile_math.list_range(bounds, tile)
    x, y = _centres(spec, tile)

    def step(state):
        entry, _, t, *planes = state
        for u in range(_UNROLL):
            mean, conic, peak, features = _gaussian(spec, row, table, entry + u, end)
            exponent = _exponent(mean[0] - x, mean[1] - y, conic, peak)
            _, _, weight, t, _ = tile_math.response(exponent, peak, t, spec.max_alpha)
            planes = [p + weight * f for p, f in zip(planes, features)]
        return entry + _UNROLL, jnp.max(t), t, *planes

    planes = [_load(color, (tile, k)) for k in range(spec.channels)]
    _, _, t, *planes = _until_closed(step, begin, end, _load(signed, (tile,)), *planes)
    signed_out[tile] = t
    for k, plane in enumerate(planes):
        color_out[tile, k] = plane


def _backward_tile(
    spec, bounds, row, slot, table, signed, rest, d_color, signed_out, rest_out, grads
):
    tile = lax.axis_index("tile")
    begin, end = tile_math.list_range(bounds, tile)
    x, y = _centres(spec, tile)
    cotangent = [_load(d_color, (tile, k)) for k in range(spec.channels)]

    def step(state):
        entry, _, t, rest = state
        mean, conic, peak, features = _gaussian(spec, row, table, entry, end)
        dx, dy = mean[0] - x, mean[1] - y
        exponent = _exponent(dx, dy, conic, peak)
        value, alpha, weight, t, stop = tile_math.response(exponent, peak, t, spec.max_alpha)
        shares = [weight * g for g in cotangent]
        gain = sum(s * f for s, f in zip(shares, features))
        rest = rest - gain
        q = tile_math.exponent_gradient(value, alpha, stop, gain, rest, spec.max_alpha)
        qx, qy = q * dx, q * dy
        if spec.absgrad:
            a, b, c = conic
            slopes = 2.0 * a * dx + b * dy, 2.0 * c * dy + b * dx
            shares += [jnp.abs(q * slope) for slope in slopes]
        values = qx, qy, qx * dx, qx * dy, qy * dy, q, *shares
        _write_row(grads, slot[entry], [jnp.sum(v) for v in values])
        return entry + 1, jnp.max(t), t, rest

    state = _until_closed(step, begin, end, _load(signed, (tile,)), _load(rest, (tile,)))
    signed_out[tile], rest_out[tile] = state[2:]

    @pl.loop(state[0], end)
    def _(entry):
        _write_row(grads, slot[entry], [jnp.float32(0)] * spec.sums)


def _until_closed(step, begin, end, t, *state):
    """Runs ``step`` down a list while a pixel of the tile is open."""
    return lax.while_loop(lambda s: (s[0] < end) & (s[1] > 0), step, (begin, jnp.max(t), t, *state))


def _centres(spec, tile):
    """Coordinates of the tile's pixel centres: x, y [256]."""
    index = tile % spec.tiles
    pixel = plgpu.broadcasted_iota(jnp.int32, (tile_math.PIXELS,), 0, layout=_LAYOUT)
    corner = index % spec.columns * tile_math.SIZE, index // spec.columns * tile_math.SIZE
    column, line = tile_math.pixel_offsets(plgpu.layout_cast(pixel, _LAYOUT))
    return tuple((o + c).astype(jnp.float32) + 0.5 for o, c in zip((column, line), corner))


def _load(ref, index):
    return tile_math.computed(plgpu.layout_cast(ref[index], _LAYOUT))


def _gaussian(spec, row, table, entry, end):
    """Mean, conic, log2 opacity and features of a list entry; never visible from ``end`` on."""
    index = row[jnp.minimum(entry, end - 1)]
    values = [table[index, k] for k in range(tile_math.GEOMETRY + spec.channels)]
    peak = jnp.where(entry < end, values[5], tile_math.NEVER)
    return values[:2], values[2:5], peak, values[tile_math.GEOMETRY :]


def _exponent(dx, dy, conic, peak):
    a, b, c = conic
    return peak + (dx * (a * dx) + dy * (c * dy + b * dx))


def _write_row(grads, slot, sums):
    for k, value in enumerate(sums):
        grads[slot, k] = value
