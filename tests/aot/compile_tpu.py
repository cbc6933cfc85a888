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
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from gsjax.raster import mosaic_tpu, mosaic_tpu_backward, mosaic_tpu_blocks, mosaic_tpu_forward
from gsjax.raster import mosaic_tpu_tile as tile_math
from gsjax.raster import project as projection

TARGETS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}


def mesh_of(target: str) -> jax.sharding.Mesh:
    """One device of a TPU that need not exist."""
    topology = topologies.get_topology_desc(TARGETS[target], platform="tpu")
    return jax.sharding.Mesh(np.array(topology.devices[:1]), ("x",))


def compile_for(mesh: jax.sharding.Mesh, function, *shapes):
    """Ahead-of-time compilation of ``function`` for arguments of these (nested) shapes."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).lower(*placed).compile()


def kernel_jobs(channels: int) -> dict:
    """A pass over a 1920 x 1080 image, with many channels a smaller one: name -> function and shapes."""
    num_tiles, capacity = (8160, 2**20) if channels <= 128 else (960, 2**16)
    spec = tile_math.Spec(columns=120, tiles=num_tiles, channels=channels, max_alpha=0.99)
    size = mosaic_tpu_blocks.bound(capacity, num_tiles)

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    first = array(num_tiles + 1, dtype=jnp.int32)
    blocks = array(size, spec.width, tile_math.BLOCK)
    plane = array(num_tiles, 1, tile_math.PIXELS)
    planes = array(num_tiles, spec.features, tile_math.PIXELS)
    kernels = mosaic_tpu_forward.forward, mosaic_tpu_backward.backward
    forward, backward = (functools.partial(kernel, spec) for kernel in kernels)
    return dict(
        forward=(forward, (first, blocks, plane, planes)),
        backward=(backward, (first, blocks, plane, plane, planes, blocks)),
    )


def blend_gradient(channels: int, num: int = 10_000, size: int = 256):
    """Value and gradient of the whole backend, lists and sums included: function and shapes."""

    def loss(means2d, conics, opacities, features, depths, radii):
        splats = projection.Splats(means2d, conics, opacities, depths, radii)
        color, transmittance, _ = mosaic_tpu.blend(
            splats, features, width=size, height=size, max_alpha=0.99
        )
        return jnp.sum(color**2) + jnp.sum(transmittance)

    shapes = [(1, num, 2), (1, num, 3), (1, num), (1, num, channels), (1, num)]
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    radii = jax.ShapeDtypeStruct((1, num, 2), jnp.int32)
    return jax.value_and_grad(loss, (0, 1, 2, 3)), (*shapes, radii)


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
            jobs = {"whole": blend_gradient(channels)}
        for name, (function, shapes) in jobs.items():
            compiled = compile_for(mesh, function, *shapes)
            done = vars(flags) | dict(channels=channels, part=name, jax=jax.__version__)
            done["temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
            print("compiled " + json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
