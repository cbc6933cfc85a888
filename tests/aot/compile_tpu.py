"""Compiles the Mosaic TPU kernels to machine code for a named TPU, on a machine without one.

Run as a program, in a process of its own: the compiler aborts where it cannot go on. Needs the wheel
libtpu, which brings the compiler. Prints one line of JSON a kernel.

  python -m tests.aot.compile_tpu --target v5e --channels 3
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from gsjax.raster.blend import mosaic_tpu
from gsjax.raster.blend.tpu import backward as backward_kernel
from gsjax.raster.blend.tpu import blocks as block_lists
from gsjax.raster.blend.tpu import forward as forward_kernel
from gsjax.raster.blend.tpu import tile as tile_math
from tests.aot import ahead

TARGETS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}


def mesh_of(target: str) -> jax.sharding.Mesh:
    """One device of a TPU that need not exist."""
    topology = topologies.get_topology_desc(TARGETS[target], platform="tpu")
    return jax.sharding.Mesh(np.array(topology.devices[:1]), ("x",))


def kernel_jobs(channels: int) -> dict:
    """A pass over a 1920 x 1080 image, with many channels a smaller one: name -> function and shapes."""
    num_tiles, capacity = (8160, 2**20) if channels <= 128 else (960, 2**16)
    spec = tile_math.Spec(columns=120, tiles=num_tiles, channels=channels, max_alpha=0.99)
    size = block_lists.bound(capacity, num_tiles)

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    first = array(num_tiles + 1, dtype=jnp.int32)
    blocks = array(size, spec.width, tile_math.BLOCK)
    plane = array(num_tiles, 1, tile_math.PIXELS)
    planes = array(num_tiles, spec.features, tile_math.PIXELS)
    kernels = forward_kernel.forward, backward_kernel.backward
    forward, backward = (functools.partial(kernel, spec) for kernel in kernels)
    return dict(
        forward=(forward, (first, blocks, plane, planes)),
        backward=(backward, (first, blocks, plane, plane, planes, blocks)),
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=tuple(TARGETS), default="v5e")
    parser.add_argument("--channels", type=int, nargs="+", default=[3])
    parser.add_argument("--whole", action="store_true", help="the backend with lists and sums too")
    flags = parser.parse_args(argv)
    mesh = mesh_of(flags.target)
    for channels in flags.channels:
        jobs = kernel_jobs(channels)
        if flags.whole:
            jobs = {"whole": ahead.blend_gradient(mosaic_tpu.blend, channels)}
        ahead.compile_all(vars(flags), mesh, channels, jobs)


if __name__ == "__main__":
    main()
