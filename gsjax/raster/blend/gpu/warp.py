"""Mosaic GPU kernels in which a warp owns an 8 x 8 block of a tile and its own short lists.

For each batch of a tile's list, thread t fetches Gaussian t from the table, turns it into a
polynomial about the tile's centre, tests it against the four blocks and stages it in shared memory;
ballots turn the tests into one list a block. Each warp walks its own lists, leaves when its 64
pixels are closed, and meets the other warps at two barriers a batch. The backward pass sums over a
block by products on the tensor cores (`moments`), adds the four blocks in a fixed order,
moves the sums to the Gaussian's own frame, and writes one row a pair: no atomics.

The kernels are written once. ``operations`` is `ptx` on a GPU and `arrays`
under Pallas' interpreter. The relatives of this design: the exponent as a polynomial, as in TC-GS
(arXiv 2505.24796), the exact tests as in Speedy-Splat (arXiv 2412.00578).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from gsjax.raster.blend import pairs
from gsjax.raster.blend.gpu import arrays
from gsjax.raster.blend.gpu import stage as stages
from gsjax.raster.blend.gpu import tile as tile_math

_FORWARD_BATCH, _BACKWARD_BATCH = 128, 64
_FEW_CHANNELS = 4
_LAYOUT = plgpu.Layout.WG_STRIDED((tile_math.PIXELS,), vec_size=2)

# What float32 may lose of a polynomial whose terms cancel, relative to its squares; and a margin.
_ROUNDING, _MARGIN = 1e-6, 1e-3


def forward(
    spec: tile_math.Spec,
    lists: pairs.Lists,
    table: jax.Array,
    signed: jax.Array,
    color: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Blends one pass behind what is there; arguments as of `simple.forward`."""
    stage = stages.Stage(_FORWARD_BATCH, spec.channels)
    return _kernel(
        functools.partial(_forward_tile, _operations(spec), spec, stage),
        spec,
        out_type=(_like(signed), _like(color)),
        grid=(signed.shape[0],),
        scratch_types=_scratch(stage),
    )(lists.bounds, lists.row, table, signed, color)


def backward(
    spec: tile_math.Spec,
    lists: pairs.Lists,
    table: jax.Array,
    signed: jax.Array,
    rest: jax.Array,
    d_color: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Replays one pass; arguments and results as of `simple.backward`."""
    grads = _like(table, (lists.row.shape[0], tile_math.padded(spec.sums)))
    return _backward_kernel(spec, signed, add=False, out_type=(_like(signed), _like(rest), grads))(
        lists.bounds, lists.row, lists.slot, table, signed, rest, d_color
    )


def backward_sums(
    spec: tile_math.Spec,
    lists: pairs.Lists,
    table: jax.Array,
    signed: jax.Array,
    rest: jax.Array,
    d_color: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Like `backward`, but adds up the rows of a Gaussian by atomic reductions, in no fixed order.

    Returns:
      signed and rest after the pass, and [R + 1, spec.sums or a few more] sums by row.
    """
    grads = jax.new_ref(jnp.zeros((table.shape[0], tile_math.padded(spec.sums)), table.dtype))
    out = _backward_kernel(spec, signed, add=True, out_type=(_like(signed), _like(rest)))(
        lists.bounds, lists.row, lists.row, table, signed, rest, d_color, grads
    )
    return *out, jax.freeze(grads)


def _backward_kernel(spec, signed, *, add, out_type):
    # Two staged rows at a time hide latency, as long as they leave registers for the cotangents.
    unroll = 2 if spec.channels <= _FEW_CHANNELS else 1
    stage = stages.Stage(_BACKWARD_BATCH, spec.channels, 2 * spec.absgrad, unroll)
    operations = _operations(spec)

    def body(bounds, row, place, table, signed, rest, d_color, *refs):
        if add:
            grads, signed_out, rest_out, *scratch = refs
            out = operations.add_gradients, signed_out, rest_out, grads
        else:
            signed_out, rest_out, grads, *scratch = refs
            out = operations.put_gradients, signed_out, rest_out, grads
        inputs = bounds, row, place, table, signed, rest, d_color
        seen, end = _backward_tile(operations, spec, stage, inputs, out, scratch)
        if not add:
            operations.put_zeros(grads, place, seen, end)

    return _kernel(
        body,
        spec,
        out_type=out_type,
        grid=(signed.shape[0],),
        scratch_types=(*_scratch(stage), plgpu.SMEM(stage.sums_shape, jnp.float32)),
    )


def _kernel(body, spec, **kwargs):
    # Barriers are placed by hand: those that Pallas adds would stop warps that walk apart.
    parameters = plgpu.CompilerParams(unsafe_no_auto_barriers=True, approx_math=True)
    return plgpu.kernel(
        body, grid_names=("tile",), compiler_params=parameters, interpret=spec.interpret, **kwargs
    )


def _operations(spec):
    if spec.interpret is not None:
        return arrays
    from gsjax.raster.blend.gpu import ptx  # needs a JAX that can embed PTX

    return ptx


def _like(x, shape=None):
    return jax.ShapeDtypeStruct(x.shape if shape is None else shape, x.dtype)


def _scratch(stage):
    rows = plgpu.SMEM(stage.rows_shape, jnp.float32)
    return rows, plgpu.SMEM(stage.lists_shape, jnp.int32)


# --- one tile ----------------------------------------------------------------------------------


def _forward_tile(
    operations, spec, stage, bounds, row, table, signed, color, signed_out, color_out, staged, lists
):
    tile = lax.axis_index("tile")
    begin, end = tile_math.list_range(bounds, tile)
    x, y = _offsets()

    def step(_, values, state):
        t, *planes = state
        exponent, peak, features = _exponent(values, x, y)
        _, _, weight, t, _ = tile_math.response(exponent, peak, t, spec.max_alpha)
        return t, *(p + weight * f for p, f in zip(planes, features))

    def batch(state):
        entry, _, *pixels = state
        _stage(operations, spec, stage, row, None, table, entry, end, tile, staged, lists)
        pixels = operations.for_each_hit(stage, staged, lists, step, pixels)
        is_open = operations.sync_any(operations.any_open(pixels[0]))
        return entry + stage.batch, is_open, *pixels

    planes = [_load(color.at[tile, k]) for k in range(spec.channels)]
    state = _until_closed(operations, batch, begin, end, _load(signed.at[tile]), *planes)
    signed_out[tile] = state[2]
    for k, plane in enumerate(state[3:]):
        color_out[tile, k] = plane


def _backward_tile(operations, spec, stage, inputs, out, scratch):
    """Returns the first entry that no pixel saw, and the end of the list."""
    bounds, row, place, table, signed, rest, d_color = inputs
    write, signed_out, rest_out, grads = out
    staged, lists, sums = scratch
    tile = lax.axis_index("tile")
    begin, end = tile_math.list_range(bounds, tile)
    x, y = _offsets()
    cotangent = [_load(d_color.at[tile, k]) for k in range(spec.channels)]

    def step(entry, values, state):
        t, rest = state
        exponent, peak, features = _exponent(values, x, y)
        value, alpha, weight, t, stop = tile_math.response(exponent, peak, t, spec.max_alpha)
        shares = [weight * g for g in cotangent]
        gain = sum(s * f for s, f in zip(shares, features))
        rest = rest - gain
        q = tile_math.exponent_gradient(
            value, alpha, stop, gain, rest, spec.max_alpha, operations.reciprocal
        )
        if spec.absgrad:
            shares += [jnp.abs(q * slope) for slope in _slopes(values, x, y)]
        operations.put_sums(stage, sums, entry, q, shares)
        return t, rest

    def batch(state):
        entry, _, *pixels = state
        operations.clear_sums(stage, sums)
        mean, places = _stage(
            operations, spec, stage, row, place, table, entry, end, tile, staged, lists
        )
        pixels = operations.for_each_hit(stage, staged, lists, step, pixels)
        is_open = operations.sync_any(operations.any_open(pixels[0]))
        values = _in_own_frame(operations.total_sums(stage, sums), mean)
        write(stage, grads, places, values, entry, end)
        operations.sync()
        return entry + stage.batch, is_open, *pixels

    state = _load(signed.at[tile]), _load(rest.at[tile])
    seen, _, signed_out[tile], rest_out[tile] = _until_closed(operations, batch, begin, end, *state)
    return seen, end


def _until_closed(operations, batch, begin, end, t, *state):
    """Runs ``batch`` down a list while a pixel of the tile is open."""
    is_open = operations.sync_any(operations.any_open(t))
    return lax.while_loop(lambda s: (s[0] < end) & (s[1] > 0), batch, (begin, is_open, t, *state))


def _load(ref):
    return tile_math.computed(plgpu.load(ref, layout=_LAYOUT, optimized=False))


def _offsets():
    """x and y of the pixels from the tile's centre, [256] each."""
    pixel = plgpu.broadcasted_iota(jnp.int32, (tile_math.PIXELS,), 0, layout=_LAYOUT)
    column, line = tile_math.pixel_offsets(plgpu.layout_cast(pixel, _LAYOUT))
    return column.astype(jnp.float32) - 7.5, line.astype(jnp.float32) - 7.5


# --- one Gaussian ------------------------------------------------------------------------------


def _stage(operations, spec, stage, row, slot, table, entry, end, tile, staged, lists):
    """Brings a batch of entries to shared memory; returns their means from the centre, and slots."""
    values, slots = operations.fetch(stage, row, slot, table, entry, end)
    index = tile % spec.tiles
    half = tile_math.SIZE // 2
    column, line = index % spec.columns, index // spec.columns
    mx = values[0] - (column * tile_math.SIZE + half).astype(jnp.float32)
    my = values[1] - (line * tile_math.SIZE + half).astype(jnp.float32)
    conic, top, features = values[2:5], values[5], values[tile_math.GEOMETRY :]
    hits = [_touches(mx, my, conic, top, corner) for corner in _block_corners()]
    operations.put_rows(stage, staged, [*_polynomial(mx, my, conic, top), *features])
    operations.put_lists(stage, lists, hits)
    operations.sync()
    return (mx, my), slots


def _polynomial(mx, my, conic, top):
    """Coefficients of 1, x, y, x^2, xy, y^2 of the exponent, and the largest value that counts.

    Above its value at the mean, the exponent means a negative sigma, or rounding.
    """
    a, b, c = conic
    linear_x, linear_y = -(2.0 * a * mx + b * my), -(2.0 * c * my + b * mx)
    constant = top - 0.5 * (linear_x * mx + linear_y * my)
    peak = top + _MARGIN - _ROUNDING * (a * mx * mx + c * my * my)
    return constant, linear_x, linear_y, a, b, c, peak


def _exponent(values, x, y):
    """Base-2 exponent at the pixels [256], its peak, and the features of a staged Gaussian."""
    constant, linear_x, linear_y, a, b, c, peak, *features = values
    exponent = (constant + x * (linear_x + a * x)) + y * ((linear_y + b * x) + c * y)
    return exponent, peak, features


def _slopes(values, x, y):
    """Derivatives of the exponent by x and y at the pixels."""
    _, linear_x, linear_y, a, b, c, *_ = values
    return linear_x + 2.0 * a * x + b * y, linear_y + b * x + 2.0 * c * y


def _block_corners():
    """First pixel of each warp's block, from the tile's centre."""
    return [(8.0 * (block % 2) - 7.5, 8.0 * (block // 2) - 7.5) for block in range(stages.BLOCKS)]


def _touches(mx, my, conic, top, corner):
    """[128] int32: whether alpha may reach the threshold at a pixel of an 8 x 8 block.

    The largest exponent over the box of the pixels' centres, in closed form: at the mean if that is
    inside, else on an edge that faces it (`tiles.ellipse_meets_tile` has the same for tiles).
    """
    a, b, c = conic

    def nearest(value, low):
        return jnp.minimum(jnp.maximum(value, low), low + 7.0)

    def reaches(dx, dy):
        squares = a * dx * dx + c * dy * dy
        return top + (squares + b * dx * dy) >= tile_math.THRESHOLD - _MARGIN + _ROUNDING * squares

    edge_x, edge_y = nearest(mx, corner[0]) - mx, nearest(my, corner[1]) - my
    along_x = nearest(mx - 0.5 * b / a * edge_y, corner[0]) - mx
    along_y = nearest(my - 0.5 * b / c * edge_x, corner[1]) - my
    return (reaches(edge_x, along_y) | reaches(along_x, edge_y)).astype(jnp.int32)


def _in_own_frame(sums, mean):
    """Sums about the tile's centre (see `moments`) -> what `gradients` expects.

    With dx = mx - x: s_dx = mx s - s_x, s_dxdx = mx^2 s - 2 mx s_x + s_xx, and so on.
    """
    s, sx, sxx, sy, sxy, syy, *features = sums
    mx, my = mean
    dx, dy = mx * s - sx, my * s - sy
    return [
        dx,
        dy,
        mx * (dx - sx) + sxx,
        mx * dy - my * sx + sxy,
        my * (dy - sy) + syy,
        s,
        *features,
    ]
