"""The device mesh and where arrays live on it.

One mesh, two axes: examples are spread over both, parameters over ``fsdp`` only.
"""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

BATCH_AXES = ("data", "fsdp")


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """Mesh of ``data`` x ``fsdp`` devices.

    Args:
        data: devices along the batch axis; -1 takes all that ``fsdp`` leaves. One process may
            use fewer devices than it sees; several processes must use all.
        fsdp: devices over which each large parameter is split.

    Raises:
        ValueError: the devices do not fill the mesh.
    """
    count = jax.device_count()
    if fsdp < 1 or (data < 1 and data != -1):
        raise ValueError(f"mesh: expected fsdp >= 1 and data >= 1 or -1; found {data=}, {fsdp=}")
    if data == -1:
        if count % fsdp:
            raise ValueError(
                f"mesh.fsdp: {count} devices cannot be split into groups of {fsdp}; "
                f"choose a divisor of {count}"
            )
        data = count // fsdp
    if data * fsdp > count or (jax.process_count() > 1 and data * fsdp != count):
        raise ValueError(
            f"mesh: data={data} x fsdp={fsdp} needs {data * fsdp} devices; found {count} "
            f"in {jax.process_count()} process(es); set mesh.data=-1"
        )
    devices = None if data * fsdp == count else jax.devices()[: data * fsdp]
    return jax.make_mesh(
        (data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices
    )


def batch(mesh: Mesh) -> NamedSharding:
    """Examples (axis 0) over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def of_state(mesh: Mesh, tree):
    """Sharding of every leaf: largest axis that ``fsdp`` divides, else replicated.

    Args:
        mesh: from :func:`make_mesh`.
        tree: arrays or ShapeDtypeStructs. Moments get their parameter's sharding, as the rule
            looks at shapes only.
    """
    size = mesh.shape["fsdp"]

    def leaf(x):
        axes = [axis for axis, n in enumerate(x.shape) if n >= size and n % size == 0]
        if size == 1 or not axes:
            return NamedSharding(mesh, P())
        best = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*[None] * best, "fsdp"))

    return jax.tree.map(leaf, tree)


def abstract(tree, shardings):
    """ShapeDtypeStructs that carry their sharding, as restoring wants them."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def check_batch(mesh: Mesh, batch_size: int, accum_steps: int) -> None:
    """Refuses batch sizes that the devices cannot share evenly.

    Raises:
        ValueError: naming the sizes.
    """
    devices = math.prod(mesh.devices.shape)
    if accum_steps < 1 or batch_size < 1 or batch_size % (devices * accum_steps):
        raise ValueError(
            f"train.batch_size: {batch_size} is no multiple of {devices} device(s) x "
            f"train.accum_steps={accum_steps}; choose a multiple of {devices * max(accum_steps, 1)}"
        )
