"""A function of a batch, run by each device on the examples that it holds.

Sorts, loops and gathers are opaque to the partitioner, which would bring everything everywhere; under
``jax.shard_map`` they stay where their examples are. For functions that treat examples one by one.
"""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp")


def by_device(
    function: Callable, *arrays, axes: tuple[str, ...] = AXES, name: str = "arrays", what="examples"
):
    """``function(*arrays)``, the first axis of all split over the devices of the current mesh.

    Args:
        function: arrays [B', ...] -> pytree of arrays [B', ...], example by example.
        *arrays: pytrees of arrays [B, ...]; None has no leaves.
        axes: mesh axes that share the examples. Without a mesh (``jax.set_mesh``), or one that lacks
            them, all is done where it is.
        name: of the argument that the error names.
        what: the B things are.

    Raises:
        ValueError: the devices do not divide B.
    """
    mesh = jax.sharding.get_abstract_mesh()
    count = math.prod(mesh.shape.get(axis, 1) for axis in axes)
    if count == 1 or not all(axis in mesh.shape for axis in axes):
        return function(*arrays)
    batch = jax.tree.leaves(arrays)[0].shape[0]
    if batch % count:
        raise ValueError(
            f"{name}: {batch} {what} cannot be shared evenly by {count} devices of "
            f"the mesh axes {axes}; choose a multiple"
        )
    spec = P(axes)
    return jax.shard_map(function, in_specs=spec, out_specs=spec)(*arrays)
