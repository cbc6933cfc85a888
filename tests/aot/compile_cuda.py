"""Compiles the Mosaic GPU kernels to machine code for a named GPU, on a machine without one.

Run as a program, in a process of its own: the compiler aborts where it cannot go on. Needs the
wheels jax-cuda12-plugin and jax-cuda12-pjrt (``pip install --no-deps``), neither a driver nor the
CUDA toolkit. Prints the assembler's report (registers, stack, spills) of each kernel, and one line
of JSON a kernel.

  python -m tests.aot.compile_cuda --target h100 --kernel warp --channels 3
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MOSAIC_GPU_DUMP_PTXAS"] = "1"

import argparse
import functools

import jax
import jax.numpy as jnp

from gsjax.raster.blend import mosaic_gpu, pairs
from gsjax.raster.blend.gpu import tile as tile_math
from gsjax.train.scaling import targets
from tests.aot import ahead

TARGETS = targets.GPUS


def mesh_of(target: str, topology: str = "1x1x1", axis: str = "x") -> jax.sharding.Mesh:
    """GPUs that need not exist along one axis; a topology is 'hosts x GPUs x 1'."""
    hosts, gpus, _ = map(int, topology.split("x"))
    return targets.mesh_of(target, (hosts * gpus,), (axis,), hosts)


def kernel_arguments(channels: int, num_tiles: int = 8160, capacity: int = 2**20, num: int = 2**17):
    """Shapes of a pass over a 1920 x 1080 image: spec, then what forward and backward take."""
    spec = tile_math.Spec(columns=120, tiles=num_tiles, channels=channels, max_alpha=0.99)

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    ints = functools.partial(array, dtype=jnp.int32)
    lists = pairs.Lists(
        row=ints(capacity), slot=ints(capacity), bounds=ints(num_tiles + 1),
        listed=array(capacity, dtype=jnp.bool_), starts=ints(num), taken=ints(num),
    )  # fmt: skip
    table = array(num + 1, spec.table_width)
    plane = array(num_tiles, tile_math.PIXELS)
    planes = array(num_tiles, channels, tile_math.PIXELS)
    return spec, (lists, table, plane, planes), (lists, table, plane, plane, planes)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=tuple(TARGETS), default="h100")
    parser.add_argument("--kernel", choices=("simple", "warp"), default="warp")
    parser.add_argument("--channels", type=int, nargs="+", default=[3])
    parser.add_argument("--whole", action="store_true", help="the backend with lists and sums too")
    flags = parser.parse_args(argv)
    mesh = mesh_of(flags.target)
    kernels = mosaic_gpu.kernel_module(flags.kernel)
    for channels in flags.channels:
        spec, forward, backward = kernel_arguments(channels)
        jobs = {
            "forward": (functools.partial(kernels.forward, spec), forward),
            "backward": (functools.partial(kernels.backward, spec), backward),
        }
        if hasattr(kernels, "backward_sums"):
            jobs["backward_sums"] = functools.partial(kernels.backward_sums, spec), backward
        if flags.whole:
            blend = functools.partial(mosaic_gpu.blend, kernel=flags.kernel)
            jobs = {"whole": ahead.blend_gradient(blend, channels)}
        ahead.compile_all(vars(flags), mesh, channels, jobs)


if __name__ == "__main__":
    main()
