"""Mosaic TPU kernel of the gradient: each tile replays its blocks, front to back.

What lies behind a Gaussian is the whole minus what has passed, so that neither the last Gaussian of a
pixel nor a division by small transmittances is needed. Every pair has its own place for its gradient:
nothing is added up between tiles here, and results are the same bit for bit every time.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gsjax.raster.blend.tpu import forward as forward_kernel
from gsjax.raster.blend.tpu import tile as tile_math


def backward(
    spec: tile_math.Spec,
    first: jax.Array,
    blocks: jax.Array,
    signed: jax.Array,
    rest: jax.Array,
    d_color: jax.Array,
    grads: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Replays one pass.

    Args:
      spec, first, blocks, signed: as of `tpu.forward.forward`.
      rest: [M, 1, 256] what is still to come of <cotangent, output>.
      d_color: [M, C, 256] cotangent of the colour.
      grads: as ``blocks``, what to return of the blocks that are not reached.

    Returns:
      signed and rest after the pass, and the gradients [B, spec.width, 128]: sums over pixels of
      q (dx, dy, dx^2, dx dy, dy^2, 1) with q = -dL/dsigma and (dx, dy) = centre - pixel, two rows
      of zeros, and the gradient of the features.
    """
    plane = forward_kernel.plane_spec(1)
    planes = forward_kernel.plane_spec(spec.features)
    like = forward_kernel.like
    block = pltpu.VMEM((2, spec.width, tile_math.BLOCK), blocks.dtype)
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    call = pl.pallas_call(
        functools.partial(_tile, spec),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(signed.shape[0],),
            in_specs=[anywhere, plane, plane, planes, anywhere],
            out_specs=[plane, plane, anywhere],
            scratch_shapes=[
                block, block, pltpu.SemaphoreType.DMA((2,)), pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        out_shape=[like(signed), like(rest), like(grads)],
        input_output_aliases={2: 0, 3: 1, 5: 2},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=spec.interpret,
        name="gsjax_blend_gradient",
    )  # fmt: skip
    return tuple(call(first, blocks, signed, rest, d_color, grads))


def _tile(
    spec, first, blocks, signed_in, rest_in, d_color, _, signed_out, rest_out, grads, buffer, sums,
    loads, stores,
):  # fmt: skip
    begin = first[pl.program_id(0)]
    rest_out[...] = rest_in[...]

    def store(block):
        slot = jax.lax.rem(block, jnp.int32(2))
        return pltpu.make_async_copy(sums.at[slot], grads.at[block], stores.at[slot])

    def step(number, block, signed):
        @pl.when(number - begin >= 2)
        def _wait():  # until the place in VMEM is free again
            store(number - 2).wait()

        out = sums.at[jax.lax.rem(number, jnp.int32(2))]
        response = tile_math.respond(spec, block[: tile_math.GEOMETRY].T, signed)
        q, rest_out[0] = _exponent_gradient(
            spec, response, block[tile_math.GEOMETRY :], d_color[0], rest_out[0]
        )
        out[: tile_math.GEOMETRY] = _moments(q, response.dx, response.dy).T
        out[tile_math.GEOMETRY :] = tile_math.dot(d_color[0], response.weight, (1, 1))
        store(number).start()
        return tile_math.advance(signed, response.left)

    walked = tile_math.walk(first, blocks, buffer, loads, signed_in[0], step)
    signed_out[0], taken = walked
    for back in (1, 2):

        @pl.when(taken >= back)
        def _drain(back=back):
            store(begin + taken - back).wait()


def _exponent_gradient(spec, response, features, d_color, rest):
    """q = -dL/dsigma [BLOCK, PIXELS], 0 where clamped, skipped or excluded; rest behind the block.

    dL/dalpha = T <g, f> - rest / (1 - alpha): what lies behind scales with 1 - alpha.
    """
    gain = response.weight * tile_math.dot(features, d_color, (0, 0))
    behind = rest - tile_math.running(gain, jnp.add, 0.0)
    q = gain - behind * (response.alpha / (1.0 - response.alpha))
    counts = (response.weight > 0) & (response.value <= spec.max_alpha)
    return jnp.where(counts, q, 0.0), behind[tile_math.BLOCK - 1 :]


def _moments(q, dx, dy):
    """Sums over the pixels of q (dx, dy, dx^2, dx dy, dy^2, 1): [BLOCK, GEOMETRY]."""
    x, y = q * dx, q * dy
    column = jax.lax.broadcasted_iota(jnp.int32, (tile_math.BLOCK, tile_math.GEOMETRY), 1)
    out = jnp.zeros(column.shape, jnp.float32)
    for k, term in enumerate((x, y, x * dx, x * dy, y * dy, q)):
        out = jnp.where(column == k, jnp.sum(term, 1, keepdims=True), out)
    return out
