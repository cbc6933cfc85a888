"""What the programs that compile kernels for absent hardware share. Import JAX's settings first."""

import json

import jax
import jax.numpy as jnp

from gsjax.raster import project as projection


def compile_for(mesh: jax.sharding.Mesh, function, *shapes):
    """Ahead-of-time compilation of ``function`` for arguments of these (nested) shapes."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).lower(*placed).compile()


def blend_gradient(blend, channels: int, num: int = 10_000, size: int = 256):
    """Value and gradient of a whole backend, lists and sums included: function and shapes."""

    def loss(means2d, conics, opacities, features, depths, radii):
        splats = projection.Splats(means2d, conics, opacities, depths, radii)
        color, transmittance, _ = blend(splats, features, width=size, height=size, max_alpha=0.99)
        return jnp.sum(color**2) + jnp.sum(transmittance)

    shapes = [(1, num, 2), (1, num, 3), (1, num), (1, num, channels), (1, num)]
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    radii = jax.ShapeDtypeStruct((1, num, 2), jnp.int32)
    return jax.value_and_grad(loss, (0, 1, 2, 3)), (*shapes, radii)


def compile_all(flags: dict, mesh: jax.sharding.Mesh, channels: int, jobs: dict) -> None:
    """Compiles jobs (name -> function and shapes) and prints a line of JSON each."""
    for name, (function, shapes) in jobs.items():
        print(f"--- {name} {channels}", flush=True)
        compiled = compile_for(mesh, function, *shapes)
        done = flags | dict(channels=channels, part=name, jax=jax.__version__)
        done["temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
        print("compiled " + json.dumps(done), flush=True)
