"""Mosaic TPU kernel of the image: each tile blends its blocks of Gaussians, front to back."""

import functools

import jax
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gsjax.raster.blend.tpu import tile as tile_math


def forward(
    spec: tile_math.Spec,
    first: jax.Array,
    blocks: jax.Array,
    signed: jax.Array,
    color: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Blends one pass behind what is there.

    Args:
      spec: static settings; C = spec.features.
      first: [M + 1] int32, tile t owns the blocks [first[t], first[t + 1]).
      blocks: [B, spec.width, 128] float32 from `tpu.blocks.gather`.
      signed: [M, 1, 256] transmittance, negative for closed pixels.
      color: [M, C, 256].

    Returns:
      signed and color after the pass.
    """
    count = signed.shape[0]
    plane, planes = plane_spec(1), plane_spec(spec.features)
    call = pl.pallas_call(
        functools.partial(_tile, spec),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(count,),
            in_specs=[pl.BlockSpec(memory_space=pl.ANY), plane, planes],
            out_specs=[plane, planes],
            scratch_shapes=[
                pltpu.VMEM((2, spec.width, tile_math.BLOCK), blocks.dtype),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        out_shape=[like(signed), like(color)],
        input_output_aliases={2: 0, 3: 1},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=spec.interpret,
        name="gsjax_blend",
    )
    return tuple(call(first, blocks, signed, color))


def plane_spec(channels: int) -> pl.BlockSpec:
    """One tile of [M, channels, 256]."""
    zero = np.int32(0)  # a plain 0 is an int64 under `jax.enable_x64`
    return pl.BlockSpec((1, channels, tile_math.PIXELS), lambda tile, first: (tile, zero, zero))


def like(x: jax.Array) -> jax.ShapeDtypeStruct:
    """Shape of an output that has the type of ``x``, inside `jax.shard_map` too."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def _tile(spec, first, blocks, signed_in, color_in, signed_out, color_out, buffer, semaphores):
    color_out[...] = color_in[...]

    def step(_, block, signed):
        response = tile_math.respond(spec, block[: tile_math.GEOMETRY].T, signed)
        color_out[0] += tile_math.dot(block[tile_math.GEOMETRY :], response.weight, (1, 0))
        return tile_math.advance(signed, response.left)

    signed_out[0], _ = tile_math.walk(first, blocks, buffer, semaphores, signed_in[0], step)
